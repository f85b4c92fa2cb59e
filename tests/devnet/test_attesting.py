"""Who is challenged to show that a GPU is one, in what order, and what needs no challenge."""

from __future__ import annotations

from msgspec.structs import replace

from agent.core.attest.consistency import Doubt
from agent.core.attest.messages import (
    CPU,
    MAX_DEVICES,
    Standing,
)
from agent.core.attest.sizing import CPU_COLUMNS, GPU_COLUMNS
from agent.core.fingerprint import GpuStanding
from agent.core.health import HealthState
from tests import builders
from tests.devnet.trial import EIGHT, EVERY_S, GIB, H200, Trial, gpus


def test_all_gpus_of_a_node_are_asked_at_once() -> None:
    world = Trial()

    asked = world.asked(world.node(gpus(*EIGHT)))

    assert asked is not None
    assert asked.devices == tuple(gpu.uuid for gpu in EIGHT)
    assert asked.columns == GPU_COLUMNS


def test_it_is_asked_with_every_beat_until_the_node_is_ready() -> None:
    world = Trial()
    actor = world.node(gpus(H200))
    question = world.asked(actor)

    assert world.asked(actor).challenge_id == question.challenge_id
    world.ready(actor, question)
    assert world.asked(actor) is None


def test_nobody_is_asked_where_the_rules_do_not_say_so() -> None:
    world = Trial()
    actor = world.node(gpus(H200))
    world.book.rules = replace(world.book.rules, attest_every_s=0.0)

    assert world.asked(actor) is None


def test_a_verdict_holds_for_a_while_and_then_is_asked_for_anew() -> None:
    world = Trial()
    actor = world.node(gpus(H200))
    world.judged(actor, 6.0, 0.2)

    assert world.asked(actor) is None
    world.now += EVERY_S
    assert world.asked(actor) is not None


def test_a_verdict_outlives_a_restart_of_the_coordinator() -> None:
    world = Trial()
    actor = world.node(gpus(H200))
    world.judged(actor, 6.0, 0.2)

    again = world.restarted()

    assert again.book.node(actor.node_id).record.attestations == tuple(world.found(actor).values())


def test_of_many_nodes_a_few_are_challenged_at_once_and_the_others_after_them() -> None:
    world = Trial(attest_at_once=2)
    first, second, third = (world.node(gpus(replace(H200, uuid=f"GPU-{seed}")), seed) for seed in (1, 2, 3))
    question = world.asked(first)
    assert world.asked(second)
    assert world.asked(third) is None
    assert world.asked(first) == question
    world.ready(first, question, refusal="torch is not installed")
    assert world.asked(third)
    assert world.asked(first) is None


def test_of_many_gpus_those_are_asked_first_that_were_not_for_longest() -> None:
    world = Trial()
    many = tuple(replace(H200, uuid=f"GPU-{i:02}", index=i) for i in range(MAX_DEVICES + 4))
    actor = world.node(gpus(*many))
    world.judged(actor, 6.0, 0.2)

    assert world.asked(actor).devices[:4] == tuple(gpu.uuid for gpu in many[MAX_DEVICES:])


def test_a_gpu_that_is_new_is_asked_for_at_once() -> None:
    world = Trial()
    actor = world.node(gpus(H200))
    world.judged(actor, 6.0, 0.2)
    world.hello(actor, fingerprint=gpus(*EIGHT[:2]))

    assert world.asked(actor).devices == ("GPU-1", "GPU-0")


def test_a_gpu_that_is_cut_or_lost_is_not_asked() -> None:
    from agent.core.gpu import GpuFault

    world = Trial()
    cut, lost = replace(EIGHT[0], mig_enabled=True), replace(EIGHT[1], fault=GpuFault.GPU_LOST)

    assert world.asked(world.node(gpus(cut, lost, EIGHT[2]))).devices == ("GPU-2",)


def test_a_gpu_that_no_pool_is_on_is_its_owners_and_not_asked() -> None:
    world = Trial()
    pools = (builders.pool(device="GPU-1+GPU-2"), builders.pool("other"))

    assert world.asked(world.node(gpus(*EIGHT, pools=pools))).devices == ("GPU-1", "GPU-2")
    assert world.asked(world.node(gpus(*EIGHT, pools=pools[1:]), seed=2)) is None


def test_a_node_without_gpus_answers_as_the_processor_that_it_is() -> None:
    world = Trial()
    actor = world.node(gpus(pools=(builders.pool(),)))
    question = world.asked(actor)

    assert (question.devices, question.columns) == ((CPU,), CPU_COLUMNS)
    found = world.judged(actor, 2.0, 0.1)
    assert found[CPU].standing is Standing.CPU
    assert found[CPU].name == "test"


def test_a_node_that_has_nothing_to_compute_with_is_not_asked() -> None:
    world = Trial()

    assert world.asked(world.node(gpus(pools=()))) is None


# --------------------------------------------------------------------------- what does not fit together


def test_a_gpu_with_a_doubt_of_its_own_is_judged_without_a_challenge() -> None:
    world = Trial()
    doubt = Doubt(code="no_pci_device", evidence="no NVIDIA device is on the PCI bus", advice="look")
    standing = GpuStanding(uuid="GPU-0", state=HealthState.HEALTHY, doubts=(doubt,))
    actor = world.node(gpus(*EIGHT[:2], standings=(standing,)))

    assert world.asked(actor).devices == ("GPU-1",)
    assert world.found(actor)["GPU-0"].standing is Standing.INCONSISTENT
    assert "no_pci_device" in world.found(actor)["GPU-0"].detail


def test_a_doubt_that_shows_later_ends_the_challenge_and_the_verdict() -> None:
    world = Trial()
    actor = world.node(gpus(*EIGHT[:2]))
    world.judged(actor, 6.0, 0.2)
    world.now += EVERY_S
    world.asked(actor)
    doubt = Doubt(code="kernel_uuid", evidence="the kernel says another", advice="look")
    standing = GpuStanding(uuid="GPU-0", state=HealthState.HEALTHY, doubts=(doubt,))
    world.hello(actor, fingerprint=gpus(*EIGHT[:2], standings=(standing,)))

    assert world.asked(actor).devices == ("GPU-1",)
    assert world.found(actor)["GPU-0"].standing is Standing.INCONSISTENT
    writes = len(world.writes)
    world.asked(actor)
    assert len(world.writes) == writes


def test_a_doubt_that_was_cleared_up_leads_to_a_challenge() -> None:
    world = Trial()
    doubt = Doubt(code="driver_version", evidence="two versions", advice="reboot")
    standing = GpuStanding(uuid="GPU-0", state=HealthState.HEALTHY, doubts=(doubt,))
    actor = world.node(gpus(H200, standings=(standing,)))
    assert world.asked(actor) is None
    world.hello(actor, fingerprint=gpus(H200))

    assert world.judged(actor, 6.0, 0.2)["GPU-0"].standing is Standing.ATTESTED


def test_a_gpu_that_is_no_such_model_by_its_own_words_is_seen_here_too() -> None:
    world = Trial()
    actor = world.node(gpus(replace(H200, memory_total_bytes=24 * GIB, bar1_total_bytes=None)))

    assert world.asked(actor) is None
    assert "memory_size" in world.found(actor)["GPU-0"].detail
