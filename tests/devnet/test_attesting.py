"""The challenge as the coordinator leads it, on a clock that a test moves: who is asked, in what order, and in time."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from agent.core.attest.consistency import Doubt
from agent.core.attest.messages import (
    CPU,
    MAX_DEVICES,
    Attestation,
    MatrixAsked,
    MatrixCommitted,
    MatrixGo,
    MatrixOpened,
    MatrixReady,
    MatrixReread,
    OpenedBlock,
    OpenedRow,
    Standing,
)
from agent.core.attest.sizing import CPU_COLUMNS, GPU_COLUMNS, commit_limit_s, reread_limit_s
from agent.core.attest.tree import READINGS
from agent.core.fingerprint import Fingerprint, GpuStanding
from agent.core.gpu import Gpu
from agent.core.health import HealthState
from agent.devnet.core import effects as e
from agent.devnet.core.attesting import AGAIN_S, PATIENCE, STALE, Attesting
from agent.devnet.core.rules import Refused
from agent.edges.gpu.models import card_table
from tests import builders
from tests.devnet.world import Actor, World

GIB = 1 << 30
EVERY_S = 3600.0
ROOTS = ("00" * 32,) * READINGS
H200 = Gpu(
    uuid="GPU-0",
    name="NVIDIA H200",
    index=0,
    compute_capability="9.0",
    memory_total_bytes=150754820096,
    bar1_total_bytes=256 * GIB,
)
EIGHT = tuple(replace(H200, uuid=f"GPU-{i}", index=i) for i in range(8))
CARD = next(card for card in card_table() if card.name.startswith("NVIDIA H200("))


class Trial(World):
    """A world in which nodes are challenged."""

    def __init__(self, **rules: Any) -> None:
        super().__init__(attest_every_s=EVERY_S, **rules)
        seeds = (f"{number:064x}" for number in itertools.count(1))
        self.attesting = Attesting(self.book, card_table(), lambda: next(seeds))

    def node(self, told: Fingerprint, seed: int = 1) -> Actor:
        actor = self.enrolled(seed)
        self.hello(actor, fingerprint=told)
        return actor

    def asked(self, actor: Actor) -> MatrixAsked | None:
        asked, decision = self.attesting.asks(self.when, actor.node_id)
        self.take(decision)
        return asked

    def ready(self, actor: Actor, question: MatrixAsked, free: int = 130 * GIB, refusal: str = "") -> MatrixGo:
        free_bytes = () if refusal else (free,) * len(question.devices)
        message = MatrixReady(challenge_id=question.challenge_id, free_bytes=free_bytes, refusal=refusal)
        return self.take(self.attesting.ready(self.when, actor.node_id, message))

    def found(self, actor: Actor) -> dict[str, Attestation]:
        return {it.device: it for it in self.book.node(actor.node_id).record.attestations}

    def judged(
        self, actor: Actor, commit_s: float, reread_s: float, faults: dict[str, str] | None = None
    ) -> dict[str, Attestation]:
        """The whole way, with so much time between; the rows are looked at elsewhere."""
        question = self.asked(actor)
        assert question is not None
        count, challenge = len(question.devices), question.challenge_id
        self.ready(actor, question)
        self.now += commit_s
        committed = MatrixCommitted(challenge_id=challenge, roots=("00" * 32,) * count)
        self.take(self.attesting.committed(self.when, actor.node_id, committed))
        self.now += reread_s
        reread = MatrixReread(challenge_id=challenge, roots=(ROOTS,) * count)
        drawn = self.take(self.attesting.reread(self.when, actor.node_id, reread))
        self.now += 5.0  # which nobody counts
        row = OpenedRow(first=OpenedBlock(digests=b"", path=b""))
        opened = MatrixOpened(challenge_id=challenge, rows=tuple((row,) * len(rows) for rows in drawn.rows))
        self.attesting.opened(self.when, actor.node_id, opened)
        self.take(self.attesting.checked(self.when, actor.node_id, challenge, faults or {}))
        return self.found(actor)


def gpus(*told: Gpu, **changes: Any) -> Fingerprint:
    """With a pool on each, unless said otherwise."""
    pools = tuple(builders.pool(f"on-{gpu.index}", device=gpu.uuid) for gpu in told)
    return builders.fingerprint(gpus=told, **{"pools": pools, **changes})


# --------------------------------------------------------------------------- who is asked


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


# --------------------------------------------------------------------------- the clock


def test_eight_h200_in_time_are_attested() -> None:
    world = Trial()

    found = world.judged(world.node(gpus(*EIGHT)), 8.0, 0.3)

    assert {it.standing for it in found.values()} == {Standing.ATTESTED}
    assert all(it.gops > 500_000 and it.memory_bytes > 60 * GIB for it in found.values())


def test_eight_h200_that_are_a_processor_fail_by_the_clock() -> None:
    """However right their rows are: a processor of two trillion operations a second needs hours for eight."""
    world = Trial()
    actor = world.node(gpus(*EIGHT))
    go = world.ready(actor, world.asked(actor))
    limit_s = max(commit_limit_s(CARD, work, GPU_COLUMNS, world.book.rules.attest_latency_s) for work in go.works)

    assert limit_s < 60
    world.now += PATIENCE * limit_s + 1
    world.take(world.attesting.sweep(world.when))
    assert {it.standing for it in world.found(actor).values()} == {Standing.NO_ANSWER}


def test_a_little_late_is_too_slow_and_says_by_how_much() -> None:
    world = Trial()

    found = world.judged(world.node(gpus(H200)), 60.0, 0.2)

    assert found["GPU-0"].standing is Standing.TOO_SLOW
    assert "60.00 s to compute" in found["GPU-0"].detail


def test_who_computes_again_what_was_to_be_kept_is_too_slow() -> None:
    world = Trial()
    actor = world.node(gpus(H200))

    found = world.judged(actor, 6.0, 4 * 4.6)

    assert found["GPU-0"].standing is Standing.TOO_SLOW
    assert "read its memory again" in found["GPU-0"].detail


def test_the_clock_runs_from_the_seed_and_not_from_the_question() -> None:
    world = Trial()
    actor = world.node(gpus(H200))
    world.asked(actor)
    world.now += world.book.rules.attest_ready_s - 1

    assert world.judged(actor, 6.0, 0.2)["GPU-0"].commit_ms == 6000


def test_to_repeat_a_message_starts_no_clock_anew() -> None:
    world = Trial()
    actor = world.node(gpus(H200))
    question = world.asked(actor)
    go = world.ready(actor, question)
    world.now += 50.0

    assert world.ready(actor, question) == go
    message = MatrixCommitted(challenge_id=question.challenge_id, roots=("00" * 32,))
    first = world.take(world.attesting.committed(world.when, actor.node_id, message))
    world.now += 1.0
    assert world.take(world.attesting.committed(world.when, actor.node_id, message)) == first
    assert world.attesting._open[actor.node_id].commit_s == 50.0


def test_a_wrong_row_is_wrong_for_its_device_alone() -> None:
    world = Trial()

    found = world.judged(world.node(gpus(*EIGHT[:2])), 6.0, 0.2, {"GPU-1": "row 3 is not the product"})

    assert [found[uuid].standing for uuid in ("GPU-0", "GPU-1")] == [Standing.ATTESTED, Standing.WRONG]


# --------------------------------------------------------------------------- what a node may say


def test_a_refusal_is_no_answer_with_its_reason() -> None:
    world = Trial()
    actor = world.node(gpus(H200))

    assert world.ready(actor, world.asked(actor), refusal="torch is not installed").seed == ""
    assert world.found(actor)["GPU-0"].standing is Standing.NO_ANSWER
    assert world.found(actor)["GPU-0"].detail == "torch is not installed"


def test_a_refusal_after_the_start_ends_it_too() -> None:
    world = Trial()
    actor = world.node(gpus(H200))
    question = world.asked(actor)
    world.ready(actor, question)

    world.ready(actor, question, refusal="the process ended")

    assert world.found(actor)["GPU-0"].detail == "the process ended"


def test_a_node_that_never_gets_ready_is_not_waited_for() -> None:
    world = Trial()
    actor = world.node(gpus(H200))
    world.asked(actor)
    world.now += world.book.rules.attest_ready_s

    world.take(world.attesting.sweep(world.when))

    assert "never said" in world.found(actor)["GPU-0"].detail


def refuses(world: Trial, actor: Actor) -> None:
    world.ready(actor, world.asked(actor), refusal="its owner needs the machine")


def is_away(world: Trial, actor: Actor) -> None:
    world.asked(actor)
    world.now += world.book.rules.attest_ready_s
    world.take(world.attesting.sweep(world.when))


@pytest.mark.parametrize("passing", [refuses, is_away])
def test_a_passing_reason_leaves_the_verdict_with_its_date_and_it_is_asked_for_again(
    passing: Callable[[Trial, Actor], None],
) -> None:
    world = Trial()
    actor = world.node(gpus(H200))
    world.judged(actor, 6.0, 0.2)
    before = world.found(actor)
    world.now += EVERY_S

    passing(world, actor)

    assert world.found(actor) == before
    assert world.asked(actor) is None
    world.now += AGAIN_S
    assert world.asked(actor) is not None


def test_a_node_that_never_has_the_time_is_not_attested_for_ever() -> None:
    world = Trial()
    actor = world.node(gpus(H200))
    world.judged(actor, 6.0, 0.2)
    world.now += STALE * EVERY_S

    refuses(world, actor)

    assert world.found(actor)["GPU-0"].standing is Standing.NO_ANSWER


def test_silence_after_the_seed_ends_the_verdict() -> None:
    world = Trial()
    actor = world.node(gpus(H200))
    world.judged(actor, 6.0, 0.2)
    world.now += EVERY_S
    world.ready(actor, world.asked(actor))
    world.now += PATIENCE * 60

    world.take(world.attesting.sweep(world.when))

    assert world.found(actor)["GPU-0"].standing is Standing.NO_ANSWER


@pytest.mark.parametrize(
    "spoil",
    [
        lambda it, challenge: it.ready(challenge, (1, 2)),
        lambda it, challenge: it.committed(challenge, ()),
        lambda it, challenge: it.reread(challenge),
        lambda it, challenge: it.opened(challenge),
        lambda it, challenge: it.ready("another", (1,)),
    ],
    ids=["two sizes for one", "before the seed", "before the roots", "before the drawing", "another challenge"],
)
def test_what_comes_out_of_turn_is_refused_and_changes_nothing(spoil) -> None:
    world = Trial()
    actor = world.node(gpus(H200))
    question = world.asked(actor)

    with pytest.raises(Refused):
        spoil(Saying(world, actor), question.challenge_id)
    assert world.ready(actor, question).seed


def test_a_replayed_answer_is_for_a_challenge_that_is_over() -> None:
    world = Trial()
    actor = world.node(gpus(H200))
    old = world.asked(actor)
    world.judged(actor, 6.0, 0.2)
    world.now += EVERY_S
    world.ready(actor, world.asked(actor))

    with pytest.raises(Refused, match="over"):
        Saying(world, actor).committed(old.challenge_id, ("00" * 32,))


def test_every_challenge_has_a_seed_of_its_own() -> None:
    world = Trial()
    one, other = world.node(gpus(H200), 1), world.node(gpus(replace(H200, uuid="GPU-9")), 2)

    assert world.ready(one, world.asked(one)).seed != world.ready(other, world.asked(other)).seed


def test_fewer_rows_than_were_drawn_are_refused() -> None:
    world = Trial()
    actor = world.node(gpus(H200))
    question = world.asked(actor)
    world.ready(actor, question)
    say = Saying(world, actor)
    say.committed(question.challenge_id, ("00" * 32,))
    say.reread(question.challenge_id)

    with pytest.raises(Refused, match="other rows"):
        say.opened(question.challenge_id)


def test_fewer_readings_than_were_asked_are_refused() -> None:
    world = Trial()
    actor = world.node(gpus(H200))
    question = world.asked(actor)
    world.ready(actor, question)
    Saying(world, actor).committed(question.challenge_id, ("00" * 32,))
    message = MatrixReread(challenge_id=question.challenge_id, roots=(ROOTS[:1],))

    with pytest.raises(Refused, match="readings"):
        world.attesting.reread(world.when, actor.node_id, message)


def test_what_is_kept_of_it_is_the_verdict_alone() -> None:
    world = Trial()
    actor = world.node(gpus(H200))
    before = len(world.writes)

    world.judged(actor, 6.0, 0.2)

    assert [type(write) for write in world.writes[before:]] == [e.SaveNode]


def test_reading_again_is_given_far_less_time_than_computing() -> None:
    world = Trial()
    actor = world.node(gpus(H200))
    (work,) = world.ready(actor, world.asked(actor)).works

    assert reread_limit_s(CARD, work, GPU_COLUMNS, 0.6) < commit_limit_s(CARD, work, GPU_COLUMNS, 0.6) / 3


class Saying:
    """A node's messages, one by one."""

    def __init__(self, world: Trial, actor: Actor) -> None:
        self._world, self._node_id = world, actor.node_id

    def ready(self, challenge: str, free: tuple[int, ...]) -> None:
        message = MatrixReady(challenge_id=challenge, free_bytes=free)
        self._world.take(self._world.attesting.ready(self._world.when, self._node_id, message))

    def committed(self, challenge: str, roots: tuple[str, ...]) -> None:
        message = MatrixCommitted(challenge_id=challenge, roots=roots)
        self._world.take(self._world.attesting.committed(self._world.when, self._node_id, message))

    def reread(self, challenge: str) -> None:
        message = MatrixReread(challenge_id=challenge, roots=(ROOTS,))
        self._world.take(self._world.attesting.reread(self._world.when, self._node_id, message))

    def opened(self, challenge: str) -> None:
        message = MatrixOpened(challenge_id=challenge, rows=((),))
        self._world.attesting.opened(self._world.when, self._node_id, message)
