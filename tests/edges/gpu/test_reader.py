"""Reading GPUs through the real binding, on an in-process driver."""

from __future__ import annotations

from collections.abc import Callable

import pynvml
import pytest

from agent.core.gpu import Gpu, GpuCondition, GpuFault, GpuProcess, GpuSample, still
from agent.edges.gpu import codes
from agent.edges.gpu.nvml import DriverError
from agent.edges.gpu.reader import SLOW_S, Reader


def opened(monotonic: Callable[[], float] = lambda: 0.0) -> Reader:
    reader = Reader(monotonic=monotonic)
    reader.open()
    return reader


def gpus(in_process, scenario: str, now: float = 0) -> tuple[Gpu, ...]:
    in_process(scenario, lambda: now)
    return opened().read().gpus


def test_a_data_centre_gpu_tells_every_field(in_process) -> None:
    first = gpus(in_process, "h200x8", 2)[0]

    assert first.absent == {}
    assert first == Gpu(
        uuid="GPU-3f1c0c2e-0000-4000-8000-000000000000",
        name="NVIDIA H200",
        index=0,
        pci_bus_id="00000000:10:00.0",
        serial="1654824000100",
        compute_capability="9.0",
        architecture="Hopper",
        cores=16896,
        vbios="96.00.BE.00.0F",
        numa_node=0,
        minor=0,
        memory_total_bytes=150754820096,
        bar1_total_bytes=256 << 30,
        slowdown_temperature_c=89,
        shutdown_temperature_c=92,
        power_limit_min_mw=200_000,
        power_limit_max_mw=700_000,
        pcie_generation_max=5,
        pcie_width_max=16,
        virtualization="none",
        power_limit_mw=700_000,
        persistence=True,
        ecc=True,
        mig_enabled=False,
        sample=GpuSample(
            memory_used_bytes=80_000_000_000,
            memory_free_bytes=70121480192,
            utilisation_percent=97,
            memory_utilisation_percent=40,
            temperature_c=55,
            memory_temperature_c=61,
            power_mw=690_000,
            sm_clock_mhz=1980,
            memory_clock_mhz=3201,
            throttle_reasons=4,
            processes=1,
            users=(GpuProcess(pid=3995, kinds=("compute",), memory_bytes=80_000_000_000),),
        ),
        condition=GpuCondition(
            energy_mj=5_152_000,
            power_throttled_ns=2000,
            thermal_throttled_ns=0,
            ecc_corrected=0,
            ecc_uncorrected=0,
            rows_remapped_corrected=0,
            rows_remapped_uncorrected=0,
            remap_pending=False,
            remap_failed=False,
            recovery_action=0,
            pcie_generation=5,
            pcie_width=16,
            pcie_replays=2,
            nvlinks=18,
            nvlinks_active=18,
            fabric_state=3,
        ),
    )


def test_the_device_node_is_told_apart_from_the_index(in_process) -> None:
    assert [(card.index, card.minor) for card in gpus(in_process, "mig")] == [(0, 1), (1, 0)]


def test_driver_and_cuda_versions_are_told(in_process) -> None:
    in_process("geforce")

    report = opened().read()

    assert (report.driver, report.cuda, report.fault) == ("570.86.10", "12.8", None)


def test_fields_that_a_card_does_not_tell_are_absent_with_a_reason(in_process) -> None:
    (card,) = gpus(in_process, "geforce")

    assert (card.ecc, card.mig_enabled, card.serial, card.numa_node) == (None, None, None, None)
    lasting = still(card).absent
    assert set(lasting) == {"ecc", "mig_enabled", "serial", "numa_node"}
    assert card.absent["ecc"] == "not supported by this card or driver"


def test_one_process_on_two_lists_counts_once_with_its_largest_figure(in_process) -> None:
    sample = gpus(in_process, "geforce")[0].sample

    assert sample.processes == 2
    assert sample.users[0] == GpuProcess(pid=1201, kinds=("compute", "graphics"), memory_bytes=419430400)


def test_success_without_support_is_absent(in_process) -> None:
    (card,) = gpus(in_process, "geforce")

    assert card.sample.memory_temperature_c is None
    assert card.condition.remap_failed is None
    assert card.absent["remap_failed"] == "a card without ECC remaps no rows"
    assert card.condition.pcie_replays == 0, "a zero that is told stays a zero"


def test_a_slice_names_its_instances(in_process) -> None:
    cut, _ = gpus(in_process, "mig")

    assert [(part.gpu_instance, part.compute_instance) for part in cut.mig] == [(1, 0), (2, 0)]


def test_memory_that_does_not_add_up_is_absent(in_process) -> None:
    (card,) = gpus(in_process, "[gpu0]\nUUID = GPU-1\nName = A\nMemoryInfo_v2 = 100 0 50 200\n")

    assert (card.sample.memory_used_bytes, card.sample.memory_free_bytes) == (None, None)
    assert "200, which cannot be" in card.absent["memory_used_bytes"]


def test_one_field_that_fails_leaves_the_others_of_its_batch(in_process) -> None:
    keys = "Field.4 = !UNKNOWN\nField.94 = 7\n"
    (card,) = gpus(in_process, f"[gpu0]\nUUID = GPU-1\nName = A\n{keys}")

    assert (card.condition.ecc_uncorrected, card.condition.pcie_replays) == (None, 7)
    assert card.absent["ecc_uncorrected"] == "the driver failed for an unknown reason"


def test_a_links_count_is_told_apart_from_those_that_are_up(in_process) -> None:
    links = "Field.91 = 3\nNvLinkState.0 = 1\nNvLinkState.1 = 0\nNvLinkState.2 = !UNKNOWN\n"
    (card,) = gpus(in_process, f"[gpu0]\nUUID = GPU-1\nName = A\n{links}")

    assert (card.condition.nvlinks, card.condition.nvlinks_active) == (3, 1)


def test_processes_are_unknown_not_zero_where_no_list_is_told(in_process) -> None:
    (card,) = gpus(in_process, "wsl")

    assert card.sample.processes is None
    assert "processes" in card.absent


def test_a_reading_that_fails_hides_neither_the_gpu_nor_its_other_readings(in_process) -> None:
    (card,) = gpus(in_process, "wsl")

    assert card.fault is None
    assert card.absent["power_mw"] == "the driver failed for an unknown reason"
    assert card.sample.temperature_c == 51


def test_mig_slices_are_listed_across_a_gap(in_process) -> None:
    cut, whole = gpus(in_process, "mig")

    assert [part.name for part in cut.mig] == ["NVIDIA H200 MIG 3g.71gb", "NVIDIA H200 MIG 4g.71gb"]
    assert {part.memory_total_bytes for part in cut.mig} == {76101451776}
    assert (cut.mig_enabled, cut.sample.utilisation_percent) == (True, None)
    assert (whole.mig_enabled, whole.mig) == (False, ())


def test_a_slices_memory_is_read_with_each_sample(in_process) -> None:
    now = 0.0
    in_process("mig", lambda: now)
    reader = opened()
    before, now = reader.read().gpus, 3.0

    cut, whole = reader.read().gpus

    assert [part.memory_used_bytes for part in before[0].sample.slices] == [0, 0]
    assert [(part.uuid, part.memory_used_bytes, part.memory_free_bytes) for part in cut.sample.slices] == [
        (cut.mig[0].uuid, 60_000_000_000, 16101451776),
        (cut.mig[1].uuid, 0, 76101451776),
    ]
    assert whole.sample.slices == ()


def test_a_gpu_that_is_no_longer_cut_has_no_slices(in_process) -> None:
    now = 0.0
    cut = "MigMode = 1 1; @5 0 0\nMaxMigDeviceCount = 1\n[mig0.0]\nUUID = MIG-0\nName = 1g\nMemoryInfo = 8 8 0\n"
    in_process(f"[gpu0]\nUUID = GPU-1\nName = A\n{cut}", lambda: now)
    reader = opened(lambda: now)
    assert len(reader.read().gpus[0].sample.slices) == 1
    now = SLOW_S

    (card,) = reader.read().gpus

    assert (card.mig, card.sample.slices) == ((), ())


def test_a_slice_that_tells_no_memory_leaves_the_others_theirs(in_process) -> None:
    cut = "MigMode = 1 1\nMaxMigDeviceCount = 3\n"
    slices = "".join(
        f"[mig0.{n}]\nUUID = MIG-{n}\nName = 1g\nMemoryInfo = 8 8 0{'; @5 !UNKNOWN' * (n == 1)}\n" for n in range(3)
    )
    now = 0.0
    in_process(f"[gpu0]\nUUID = GPU-1\nName = A\n{cut}{slices}", lambda: now)
    reader = opened()
    reader.read()
    now = 5.0

    (card,) = reader.read().gpus

    assert [part.uuid for part in card.sample.slices] == ["MIG-0", "MIG-2"]


def test_mig_that_cannot_be_listed_does_not_hide_the_gpu(in_process) -> None:
    (card,) = gpus(in_process, "[gpu0]\nUUID = GPU-1\nName = N\nMigMode = 1 1\nMaxMigDeviceCount = !UNKNOWN\n")

    assert (card.mig_enabled, card.mig, card.fault) == (True, (), None)
    assert "mig" in card.absent


def test_an_old_driver_is_read_through_its_older_functions(in_process) -> None:
    (card,) = gpus(in_process, "old_driver")

    assert card.sample == GpuSample(
        memory_used_bytes=6029312,
        memory_free_bytes=11990925312,
        utilisation_percent=0,
        memory_utilisation_percent=0,
        temperature_c=38,
        power_mw=26_000,
        sm_clock_mhz=324,
        memory_clock_mhz=324,
        throttle_reasons=1,
        processes=1,
        users=(GpuProcess(pid=777, kinds=("compute",), memory_bytes=1_000_000),),
    )
    assert card.power_limit_mw == 149_000
    assert card.absent["numa_node"] == "this driver is too old to tell"


def test_text_that_does_not_decode_or_would_draw_on_a_terminal_is_cleaned(in_process) -> None:
    (card,) = gpus(in_process, "odd_text")

    assert card.name == "NVIDIA \N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER} A100"


@pytest.mark.parametrize(
    "field", ["utilisation_percent", "temperature_c", "power_mw", "memory_total_bytes", "architecture", "serial"]
)
def test_a_successful_answer_that_cannot_be_true_counts_as_absent(in_process, field: str) -> None:
    (card,) = gpus(in_process, "odd_text")

    assert getattr(card, field, None) is None
    assert getattr(card.sample, field, None) is None
    assert "the driver answers" in card.absent[field]


def test_a_fact_that_is_not_told_at_first_is_asked_again(in_process) -> None:
    now = 0.0
    in_process("[gpu0]\nUUID = GPU-1\nName = !UNKNOWN; @5 A\nMinorNumber = !IN_USE; @5 3\n", lambda: now)
    reader = opened(lambda: now)
    before, now = reader.read().gpus[0], SLOW_S

    (card,) = reader.read().gpus

    assert (before.name, before.minor) == ("GPU", None)
    assert (card.name, card.minor) == ("A", 3)
    assert not {"name", "minor"} & card.absent.keys()


def test_a_process_on_two_slices_is_one_process_with_two_shares(in_process) -> None:
    shares = "".join(f"[process]\ngpu = 0\npid = 7\nmemory = {n}00\ninstance = {n}\n" for n in (1, 2))
    (card,) = gpus(in_process, f"[gpu0]\nUUID = GPU-1\nName = A\n{shares}")

    assert card.sample.processes == 1
    assert [(user.gpu_instance, user.memory_bytes) for user in card.sample.users] == [(1, 100), (2, 200)]


def test_facts_are_asked_once_and_readings_each_time(in_process) -> None:
    now = 0.0
    in_process("[gpu0]\nUUID = GPU-1\nName = A; @5 B\nPowerUsage = 1; @5 2\n", lambda: now)
    reader = opened()
    reader.read()
    now = 5.0

    (card,) = reader.read().gpus

    assert (card.name, card.sample.power_mw) == ("A", 2)


def test_facts_are_asked_anew_when_another_gpu_takes_the_index(in_process) -> None:
    now = 0.0
    in_process("[gpu0]\nUUID = GPU-1; @5 GPU-2\nName = A; @5 B\n", lambda: now)
    reader = opened(lambda: now * 2)
    reader.read()
    now = 5.0

    assert [(card.uuid, card.name) for card in reader.read().gpus] == [("GPU-2", "B")]


def test_settings_that_the_owner_changes_are_seen(in_process) -> None:
    now = 0.0
    in_process("[gpu0]\nUUID = GPU-1\nName = A\nPersistenceMode = 0; @5 1\n", lambda: now)
    reader = opened(lambda: now)
    before, now = reader.read().gpus[0].persistence, SLOW_S - 1
    unasked, now = reader.read().gpus[0].persistence, SLOW_S

    assert (before, unasked, reader.read().gpus[0].persistence) == (False, False, True)


def test_a_gpu_without_uuid_is_known_by_its_bus_address(in_process) -> None:
    (card,) = gpus(in_process, "[gpu0]\nName = A\nPciInfo = 00000000:0a:00.0\n")

    assert card.uuid == "PCI:00000000:0A:00.0"


def test_a_lost_gpu_keeps_its_identity_and_leaves_the_others_alone(in_process) -> None:
    now = 0.0
    in_process("lost", lambda: now)
    reader = opened()
    before, now = reader.read().gpus, 5.0

    after = reader.read().gpus

    assert [card.uuid for card in after] == [card.uuid for card in before]
    assert [card.fault for card in after] == [GpuFault.GPU_LOST if i == 3 else None for i in range(8)]
    assert after[3].sample == GpuSample()
    assert "Reboot" in after[3].detail


def test_a_gpu_that_was_lost_before_the_first_reading_is_still_listed(in_process) -> None:
    third = gpus(in_process, "lost", 5)[3]

    assert (third.uuid, third.index, third.fault) == ("index:3", 3, GpuFault.GPU_LOST)


def test_a_gpu_that_needs_a_reset_says_so(in_process) -> None:
    second = gpus(in_process, "needs_reset", 5)[1]

    assert second.fault is GpuFault.GPU_NEEDS_RESET
    assert "--gpu-reset" in second.detail


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        ("NO_PERMISSION", GpuFault.DENIED),
        ("INSUFFICIENT_POWER", GpuFault.TRANSIENT),
        ("GPU_IS_LOST", GpuFault.GPU_LOST),
        ("NOT_SUPPORTED", GpuFault.UNSUPPORTED),
    ],
)
def test_a_gpu_that_cannot_be_opened_is_listed_with_the_reason(in_process, error: str, fault: GpuFault) -> None:
    refusal = f"[fault]\nfn = nvmlDeviceGetHandleByIndex*\ngpu = 0\nret = {error}\n"
    bad, good = gpus(in_process, "[gpu0]\nUUID = GPU-1\nName = A\n[gpu1]\nUUID = GPU-2\nName = B\n" + refusal)

    assert (bad.fault, good.fault, good.uuid) == (fault, None, "GPU-2")


@pytest.mark.parametrize(
    ("scenario", "fault", "remedy"),
    [
        ("not_loaded", GpuFault.DRIVER_ABSENT, "load the NVIDIA driver"),
        ("mismatch", GpuFault.DRIVER_MISMATCH, "reboot"),
        ("denied", GpuFault.DENIED, "/dev/nvidia"),
        ("[system]\nInit = !UNKNOWN\n", GpuFault.TRANSIENT, "again"),
        ("[system]\nInit = 0\n[fault]\nfn = nvmlInit*\nret = OPERATING_SYSTEM\n", GpuFault.DENIED, "/dev/nvidia"),
    ],
)
def test_a_driver_that_does_not_open_is_classified(in_process, scenario: str, fault: GpuFault, remedy: str) -> None:
    in_process(scenario)

    with pytest.raises(DriverError, match=remedy) as caught:
        opened()

    assert caught.value.fault is fault


def test_a_driver_updated_under_way_fails_as_a_whole(in_process) -> None:
    now = 0.0
    in_process("updated", lambda: now)
    reader = opened()
    assert len(reader.read().gpus) == 8
    now = 5.0

    with pytest.raises(DriverError) as caught:
        reader.read()

    assert caught.value.fault is GpuFault.DRIVER_MISMATCH


def test_a_missing_library_is_told_from_a_broken_one(tmp_path) -> None:
    broken = tmp_path / "libnvidia-ml.so.1"
    broken.write_bytes(b"no library")

    messages = []
    for library in (tmp_path / "absent.so", broken):
        with pytest.raises(DriverError) as caught:
            Reader(str(library)).open()
        messages.append(str(caught.value))
        assert caught.value.fault is GpuFault.DRIVER_ABSENT
    assert "No such file" in messages[0]
    assert "file too short" in messages[1] or "invalid ELF" in messages[1]


def test_the_return_codes_are_those_of_the_binding() -> None:
    for name in ("NOT_SUPPORTED", "NOT_FOUND", "FUNCTION_NOT_FOUND", "ARGUMENT_VERSION_MISMATCH"):
        assert getattr(codes, name) == getattr(pynvml, f"NVML_ERROR_{name}")
    faults = {name: codes.meaning(getattr(pynvml, f"NVML_ERROR_{name}"))[0] for name in ("GPU_IS_LOST", "TIMEOUT")}
    assert faults == {"GPU_IS_LOST": GpuFault.GPU_LOST, "TIMEOUT": GpuFault.TRANSIENT}


def test_a_return_code_from_the_future_is_transient_and_named() -> None:
    assert codes.meaning(4711) == (GpuFault.TRANSIENT, "the driver answered with error 4711")


def test_every_fault_has_a_remedy() -> None:
    for fault in GpuFault:
        assert codes.explain(fault, "it broke").startswith("It broke. ")


def test_the_binding_is_clean_between_tests() -> None:
    assert pynvml.nvmlLib is None
