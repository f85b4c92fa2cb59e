from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.findings import Advice, Severity
from agent.core.gpu import Gpu, GpuCondition, GpuEvent, GpuEventKind, GpuFault, GpuReport, GpuSample, Throttle
from agent.core.health import CLEAR_SAMPLES, HANG_S, PROBATION_S, SLOWDOWN_WINDOW, Health, HealthState, Moved
from agent.core.xids import Bucket, judged
from agent.edges.gpu.xids import xid_table

U, H, D, L = HealthState.UNKNOWN, HealthState.HEALTHY, HealthState.DEGRADED, HealthState.LOST


def gpu(uuid: str = "GPU-1", **changes: Any) -> Gpu:
    fields = {"name": "NVIDIA H200", "index": 0, "pci_bus_id": "00000000:3B:00.0"}
    return Gpu(uuid=uuid, **{**fields, **changes})


def xid(code: int, uuid: str = "GPU-1") -> GpuEvent:
    return GpuEvent(kind=GpuEventKind.XID, source="nvml", gpu_uuid=uuid, code=code)


class Watched:
    """A Health and the time; a reading a second."""

    def __init__(self, **more: Any) -> None:
        self.health = Health(xid_table(), "boot-1", **more)
        self.now = 0.0

    def see(self, *gpus: Gpu, events: Iterable[GpuEvent] = (), times: int = 1) -> HealthState:
        """The state of the first GPU after `times` such readings; events come with the first."""
        for number in range(times):
            self.now += 1.0
            report = GpuReport(gpus=gpus, events=tuple(events) if number == 0 else ())
            self.health.read(report, self.now, 1_700_000_000 + self.now, 1.0)
        return self.health.gpus[gpus[0].uuid].state

    def codes(self, uuid: str = "GPU-1") -> list[str]:
        return [finding.code for finding in self.health.gpus[uuid].findings]


def test_the_first_good_reading_makes_a_gpu_healthy() -> None:
    assert Watched().see(gpu()) is H


@pytest.mark.parametrize(
    ("changes", "state", "code", "advice"),
    [
        ({"fault": GpuFault.GPU_LOST}, L, "gpu_lost", Advice.REBOOT),
        ({"fault": GpuFault.GPU_NEEDS_RESET}, L, "needs_reset", Advice.RESET),
        ({"fault": GpuFault.DRIVER_UNRESPONSIVE}, D, "driver_unresponsive", Advice.REBOOT),
        ({"condition": GpuCondition(recovery_action=1)}, L, "recovery_action", Advice.RESET),
        ({"condition": GpuCondition(recovery_action=2)}, L, "recovery_action", Advice.REBOOT),
        ({"condition": GpuCondition(recovery_action=4)}, L, "recovery_action", Advice.RESET),
        ({"condition": GpuCondition(remap_failed=True)}, L, "remap_failed", Advice.INSPECT),
        ({"condition": GpuCondition(remap_pending=True)}, D, "remap_pending", Advice.RESET),
        ({"condition": GpuCondition(ecc_uncorrected=1)}, D, "ecc_uncorrected", Advice.RESET),
        ({"condition": GpuCondition(fabric_state=2)}, D, "fabric_incomplete", Advice.INSPECT),
    ],
)
def test_a_reading_that_shows_harm_is_a_finding_with_advice(
    changes: dict[str, Any], state: HealthState, code: str, advice: Advice
) -> None:
    watched = Watched()
    watched.see(gpu())
    assert watched.see(gpu(**changes)) is state
    (finding,) = watched.health.gpus["GPU-1"].findings
    assert (finding.code, finding.advice, finding.boot_id) == (code, advice, "boot-1")
    assert finding.evidence
    assert finding.since_at > 1_700_000_000


@pytest.mark.parametrize(
    "harmless",
    [
        GpuSample(throttle_reasons=Throttle.IDLE),
        GpuSample(throttle_reasons=Throttle.SOFTWARE_POWER_CAP),
        GpuSample(),
    ],
)
def test_idle_clocks_power_caps_and_absent_fields_are_no_faults(harmless: GpuSample) -> None:
    assert Watched().see(gpu(sample=harmless), times=SLOWDOWN_WINDOW) is H


def link(load: int | None, generation: int | None = 5, width: int | None = 8) -> Gpu:
    return gpu(
        sample=GpuSample(utilisation_percent=load),
        condition=GpuCondition(pcie_generation=generation, pcie_width=width),
        pcie_generation_max=5,
        pcie_width_max=16,
    )


def test_a_narrow_link_counts_under_load_alone() -> None:
    assert Watched().see(link(0)) is H
    assert Watched().see(link(None)) is H
    watched = Watched()
    assert watched.see(link(90)) is D
    assert watched.codes() == ["link_narrow"]
    assert Watched().see(link(90, 4, 16)) is D
    assert Watched().see(link(90, None, None)) is H


def test_hardware_slowdowns_count_when_there_are_many() -> None:
    slow = gpu(sample=GpuSample(throttle_reasons=Throttle.HARDWARE_THERMAL))
    watched = Watched()
    assert watched.see(slow, times=SLOWDOWN_WINDOW // 4 - 1) is H
    assert watched.see(slow) is D
    assert watched.codes() == ["slowdown"]
    fine = gpu(sample=GpuSample(throttle_reasons=0))
    assert watched.see(fine, times=SLOWDOWN_WINDOW + CLEAR_SAMPLES) is H


@pytest.mark.parametrize(
    ("code", "state"), [(13, H), (31, H), (45, H), (63, H), (48, D), (9999, D), (46, L), (95, L), (119, L), (79, L)]
)
def test_an_xid_does_what_its_bucket_says_and_an_unknown_one_degrades(code: int, state: HealthState) -> None:
    watched = Watched()
    watched.see(gpu())
    assert watched.see(gpu(), events=[xid(code)]) is state
    assert watched.see(gpu(), times=100) is state


def test_an_event_that_names_only_the_slot_finds_its_gpu() -> None:
    event = GpuEvent(kind=GpuEventKind.FELL_OFF_THE_BUS, source="kernel", pci_bus_id="0000:3b:00", text="fallen off")
    other = gpu("GPU-2", pci_bus_id="00000000:5E:00.0")
    watched = Watched()
    assert watched.see(gpu(), other, events=[event]) is L
    assert watched.health.gpus["GPU-2"].state is H


def test_an_event_without_an_address_condemns_nobody() -> None:
    event = GpuEvent(kind=GpuEventKind.FELL_OFF_THE_BUS, source="kernel")
    assert Watched().see(gpu(pci_bus_id=""), events=[event]) is H


def test_a_condition_is_over_after_some_good_readings_and_not_before() -> None:
    watched = Watched()
    watched.see(gpu(condition=GpuCondition(remap_pending=True)))
    assert watched.see(gpu(), times=CLEAR_SAMPLES - 1) is D
    assert watched.see(gpu(condition=GpuCondition(remap_pending=True))) is D
    assert watched.see(gpu(), times=CLEAR_SAMPLES - 1) is D
    assert watched.see(gpu()) is H


def test_a_lost_gpu_that_is_seen_again_takes_nothing_for_a_while() -> None:
    watched = Watched()
    watched.see(gpu(fault=GpuFault.GPU_LOST))
    assert watched.see(gpu(), times=CLEAR_SAMPLES) is D
    assert watched.health.gpus["GPU-1"].on_probation
    assert watched.see(gpu(), times=int(PROBATION_S) - 1) is D
    assert watched.see(gpu()) is H


def test_what_an_xid_said_stays_until_a_reset_is_seen() -> None:
    watched = Watched()
    watched.see(gpu(condition=GpuCondition(energy_mj=9_000)), events=[xid(119)])
    assert watched.see(gpu(condition=GpuCondition(energy_mj=9_500)), times=1000) is L
    assert watched.see(gpu(condition=GpuCondition(energy_mj=12))) is D
    assert watched.see(gpu(condition=GpuCondition(energy_mj=900)), times=int(PROBATION_S)) is H


def test_the_driver_that_asks_for_nothing_has_the_last_word_on_an_xid() -> None:
    watched = Watched()
    fine = gpu(condition=GpuCondition(recovery_action=0))
    assert watched.see(fine, events=[xid(119)]) is L
    assert watched.see(fine, times=CLEAR_SAMPLES + int(PROBATION_S)) is H


def test_a_gpu_that_is_not_read_any_more_is_unknown_and_takes_nothing() -> None:
    watched = Watched()
    watched.see(gpu())
    unread = gpu(fault=GpuFault.TRANSIENT)
    assert watched.see(unread, times=3) is H
    assert watched.see(unread) is U
    assert watched.see(gpu()) is H


def test_one_late_reading_is_no_hang_and_a_silence_that_lasts_is() -> None:
    watched = Watched()
    watched.see(gpu())
    silent = gpu(fault=GpuFault.DRIVER_UNRESPONSIVE)
    assert watched.see(silent) is D
    assert watched.see(silent, times=int(HANG_S) - 1) is U
    assert watched.see(silent) is L
    assert watched.see(gpu(), times=CLEAR_SAMPLES) is D
    assert watched.see(gpu(), times=int(PROBATION_S)) is H
    assert watched.see(silent) is D
    assert watched.see(gpu(), times=CLEAR_SAMPLES) is H


def test_a_driver_replaced_under_a_running_agent_lets_work_finish_and_asks_for_a_reboot() -> None:
    watched = Watched()
    watched.see(gpu())
    assert watched.see(gpu(fault=GpuFault.DRIVER_MISMATCH)) is D
    (finding,) = watched.health.gpus["GPU-1"].findings
    assert finding.advice is Advice.REBOOT


def test_lasting_findings_outlive_the_agent_but_not_the_boot() -> None:
    before = Watched()
    before.see(gpu(), events=[xid(119)])
    remembered = before.health.lasting()
    assert [finding.code for finding in remembered] == ["xid_119"]
    same_boot = Watched(remembered=remembered)
    assert same_boot.see(gpu(), times=100) is L
    rebooted = Watched()
    rebooted.health = Health(xid_table(), "boot-2", remembered)
    assert rebooted.see(gpu()) is D
    assert rebooted.health.gpus["GPU-1"].on_probation
    assert rebooted.see(gpu(), times=int(PROBATION_S)) is H


def test_what_moved_is_told_once_with_the_gravest_reason_first() -> None:
    watched = Watched()
    health, report = watched.health, GpuReport(gpus=(gpu(),))
    assert [(moved.before, moved.after) for moved in health.read(report, 1.0, 0.0, 1.0)] == [(U, H)]
    assert health.read(report, 2.0, 0.0, 1.0) == []
    worse = gpu(condition=GpuCondition(remap_pending=True, recovery_action=2))
    (moved,) = health.read(GpuReport(gpus=(worse,)), 3.0, 0.0, 1.0)
    assert (moved.before, moved.after) == (H, L)
    assert [finding.severity for finding in moved.findings] == [Severity.LOSES, Severity.DEGRADES]


CONDITIONS = st.builds(
    GpuCondition,
    recovery_action=st.sampled_from([None, 0, 1, 2]),
    remap_pending=st.sampled_from([None, False, True]),
    energy_mj=st.sampled_from([None, 10, 1000]),
)
FAULTS = st.sampled_from([None, None, None, GpuFault.GPU_LOST, GpuFault.TRANSIENT, GpuFault.DRIVER_MISMATCH])
EVENTS = st.lists(st.sampled_from([13, 46, 48, 79, 4242]).map(xid), max_size=1)
READINGS = st.lists(st.tuples(FAULTS, CONDITIONS, EVENTS, st.integers(1, 30)), max_size=25)


@settings(max_examples=300)
@given(READINGS)
def test_whatever_is_read_no_lost_gpu_is_trusted_at_once_and_no_other_gpu_suffers(readings: Any) -> None:
    watched = Watched()
    lost_at = None
    for fault, condition, events, times in readings:
        for number in range(times):
            state = watched.see(
                gpu(fault=fault, condition=condition),
                gpu("GPU-2", pci_bus_id="00000000:5E:00.0"),
                events=events if number == 0 else (),
            )
            findings = watched.health.gpus["GPU-1"].findings
            grave = any(finding.severity is Severity.LOSES for finding in findings)
            assert grave == (state is L)
            assert not (findings and state is H)
            if state is L:
                lost_at = watched.now
            assert state is not H or lost_at is None or watched.now - lost_at >= PROBATION_S
            assert watched.health.gpus["GPU-2"].state is H


def test_the_table_tells_where_each_number_comes_from() -> None:
    table = xid_table()
    assert all(entry.source and entry.text and code == entry.code for code, entry in table.items())
    resets = {46, 62, 64, 95, 109, 110, 119, 120, 136, 140, 143, 155, 156, 158}
    assert {code for code, entry in table.items() if entry.bucket is Bucket.RESET_GPU} == resets
    assert table[79].bucket is Bucket.RESTART_MACHINE
    assert judged(table, 123_456).bucket is Bucket.CHECK


def test_a_driver_that_was_replaced_on_the_disk_drains_every_gpu_until_a_reboot() -> None:
    watched = Watched()
    watched.see(gpu(), gpu("GPU-2"))

    def see(installed: str, times: int = 1) -> list[Moved]:
        moved = []
        for _ in range(times):
            watched.now += 1.0
            report = GpuReport(gpus=(gpu(), gpu("GPU-2")), driver="570.1", module="570.1", installed=installed)
            moved += watched.health.read(report, watched.now, 0.0, 1.0)
        return moved

    assert [(it.gpu.uuid, it.after) for it in see("580.2", 30)] == [("GPU-1", D), ("GPU-2", D)]
    (finding,) = watched.health.gpus["GPU-2"].findings
    assert (finding.code, finding.advice, finding.lasts) == ("driver_replaced", Advice.REBOOT, False)
    assert "the one on the disk is 580.2" in finding.evidence
    assert [it.after for it in see("570.1", CLEAR_SAMPLES)] == [H, H], "taken back: nothing is to be done any more"


def test_the_last_xid_of_a_gpu_is_kept_also_one_that_says_nothing_of_the_card() -> None:
    watched = Watched()
    watched.see(gpu(), gpu("GPU-2"), events=[xid(31, "GPU-2")])
    assert [watched.health.gpus[uuid].last_xid for uuid in ("GPU-1", "GPU-2")] == [None, 31]
    watched.see(gpu(), gpu("GPU-2"), events=[xid(13, "GPU-2"), xid(43, "GPU-2")])
    assert watched.health.gpus["GPU-2"].last_xid == 43
    assert watched.see(gpu(), gpu("GPU-2")) is H
