"""What must hold of challenges, judgements, stakes and what is kept for them. All nodes here are honest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

import msgspec

from agent.core import wire
from agent.core.challenges import ChallengeLine, ChallengeOutcome
from agent.core.model import LeaseKey, Signed
from agent.core.payloads import Judgement, JudgementBody, Subject
from agent.core.proof.drawing import is_drawn
from agent.devnet.core import effects as e
from agent.devnet.core.proofs.cases import MOVES
from agent.devnet.core.proofs.docket import exhibits
from agent.devnet.core.proofs.records import Case, CaseState, CheckState, Judged
from agent.devnet.core.records import ENDED, LedgerKind
from agent.devnet.core.restoring import COME_BACK_S

if TYPE_CHECKING:
    from tests.sim.store import StoreDisk
    from tests.sim.world import World

ABLE_S = 120.0
"""So long without a fault, and a node opens: the longest pause between its tries (64 s), and two limits of messages."""
UNEXAMINED = "could not be examined"
WELL = frozenset({Judgement.PASSED, Judgement.VOID})
ANSWERED = frozenset({ChallengeOutcome.OPENED, ChallengeOutcome.REFUSED})
_bodies = msgspec.json.Decoder(JudgementBody)


class Stretches:
    """When a node could do its work without hindrance."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._past: list[tuple[float, float]] = []

    def note(self, now: float, *, able: bool) -> None:
        if able and self._since is None:
            self._since = now
        elif not able and self._since is not None:
            self._past.append((self._since, now))
            self._since = None

    def longest(self, since: float, until: float) -> float:
        """Of those between the two."""
        now = [] if self._since is None else [(self._since, until)]
        return max((min(end, until) - max(begin, since) for begin, end in [*self._past, *now]), default=0.0)


class ProofTruth:
    """The coordinator's disk is held against its own past, against chance, and against what nodes kept."""

    def __init__(self, world: World, violated: Callable[[str, str], None]) -> None:
        self._world, self._violated = world, violated
        self._challenged_at: dict[str, float] = {}
        self._cases: dict[LeaseKey, str] = {}
        self._answers: dict[str, JudgementBody] = {}
        self._stretches: dict[int, Stretches] = {}
        self.traps: list[Callable[[], None]] = []
        """Set off by the next step of any case."""

    def able(self, node: int, *, able: bool) -> None:
        """Whether nothing hinders a node just now."""
        self._stretches.setdefault(node, Stretches()).note(self._world.loop.time(), able=able)

    # ------------------------------------------------------------------ cases

    def moved(self, disk: StoreDisk, case: Case) -> None:
        """A case is about to be written."""
        before = disk.cases.get(case.case_id)
        state = before.state if before else None
        if state is not case.state:
            self._world.note(f"coordinator case {case.task_id} {case.state.value} {case.judgement or ''}")
            self._world.truth.counts[f"case {case.state.value}"] += 1
            self._spring()
        if before and case.state is not before.state and case.state not in MOVES[before.state]:
            self._violated("case moved back", f"{case.case_id} {before.state} → {case.state}")
        if (
            before
            and before.state is CaseState.JUDGED
            and (before.judgement, before.serial)
            != (
                case.judgement,
                case.serial,
            )
        ):
            self._violated("judged twice", f"{case.case_id} {before.judgement} → {case.judgement}")
        if case.state is CaseState.CHALLENGED is not state:
            self._challenged_at[case.case_id] = self._world.loop.time()
        self._cases[case.key] = case.case_id

    def dropped(self, case: Case) -> None:
        """A case is forgotten: chance did not draw it."""
        if case.state is not CaseState.WAITING:
            self._violated("case dropped", f"{case.case_id} was {case.state}")

    def _spring(self) -> None:
        for trap in self.traps:
            trap()
        self.traps.clear()

    # ------------------------------------------------------------------ judgements

    def judged(self, disk: StoreDisk, judged: Judged) -> None:
        """A judgement is about to be written."""
        body, name = _bodies.decode(judged.signed.payload), f"{self._name(judged.node_id)} #{judged.serial}"
        self._world.note(f"coordinator judges {name}: {body.subject.value} {body.judgement.value} {body.detail}")
        self._world.truth.counts[f"{body.subject.value} {body.judgement.value}"] += 1
        known = sum(node_id == judged.node_id for node_id, _ in disk.judged)
        if judged.serial != known + 1 or (judged.node_id, judged.serial) in disk.judged:
            self._violated("judgement out of line", f"{name} comes after {known}")
        if body.subject is Subject.ANSWER and body.task_id in self._answers:
            self._violated("judged twice", f"{name}: {body.task_id} was {self._answers[body.task_id].judgement}")
        if body.subject is Subject.ANSWER:
            self._answers[body.task_id] = body
        if why := self._unjust(disk, body):
            self._violated("honest node blamed", f"{name}: {why}")

    def _unjust(self, disk: StoreDisk, body: JudgementBody) -> str:
        """Why an honest node cannot deserve it; empty when it can."""
        node, what = self._world.index_of(body.node_id), f"{body.subject.value} {body.judgement.value}: {body.detail}"
        if UNEXAMINED in body.detail:
            return what
        if body.judgement in WELL or _is_silence(body):
            return ""
        if "deleted its transcript" in body.detail and self._world.machines[node].clock_is_wild:
            return ""
        if body.judgement is not Judgement.UNOPENED or not body.detail.startswith("it did not open"):
            return what
        now, rules = self._world.loop.time(), self._world.rules.proofs
        case = next(it for it in disk.cases.values() if it.task_id == body.task_id)
        asked_at = self._challenged_at[case.case_id]
        if (up_s := now - self._world.authority.started_at) < min(COME_BACK_S, rules.answer_s) - 1:
            return f"{what}, {up_s:.1f} s after the coordinator came back"
        if (able_s := self._stretches[node].longest(asked_at, now)) >= ABLE_S:
            return f"{what}, though nothing hindered it for {able_s:.0f} s"
        self._world.truth.counts["missed for good reasons"] += 1
        return ""

    def heard(self, node: int, judgement: Signed, body: JudgementBody) -> None:
        """A node keeps a judgement: it is one that the coordinator cannot forget any more."""
        told = self._world.authority.disk.judged.get((body.node_id, body.serial))
        if told is None or told.signed != judgement or body.node_id != self._world.machines[node].node_id:
            self._violated("judgement not durable", f"n{node} keeps #{body.serial}, the coordinator has {told}")

    def noted(self, node: int, line: ChallengeLine) -> None:
        """A node believes that its answer was taken."""
        case = self._world.authority.disk.cases.get(line.challenge_id.rpartition("/")[0])
        if line.outcome in ANSWERED and case is not None and case.state is CaseState.CHALLENGED:
            self._violated("answer not durable", f"n{node} {line.challenge_id} {line.outcome.value}")

    # ------------------------------------------------------------------ after each transaction

    def committed(self, disk: StoreDisk, writes: Collection[e.Write]) -> None:
        """Money and files are as the cases say."""
        for write in writes:
            match write:
                case e.SaveStanding(standing=it):
                    self._stake_adds_up(disk, it.node_id)
                case e.SaveCase(case=it):
                    self._exhibits_are_there(disk, disk.cases[it.case_id])
                    if it.idem_key not in disk.settlements:
                        self._violated("case without a result", it.case_id)
                case _:
                    pass

    def _stake_adds_up(self, disk: StoreDisk, node_id: str) -> None:
        """What a node has left, what was taken, and what its judgements say was taken, all in whole micros."""
        rules, standing = self._world.rules.proofs, disk.standings[node_id]
        bodies = [_bodies.decode(it.signed.payload) for (owner, _), it in disk.judged.items() if owner == node_id]
        taken = -sum(it.amount_micros for it in disk.ledger if (it.node_id, it.kind) == (node_id, LedgerKind.SLASHED))
        told = sum(it.slashed_micros for it in bodies)
        if not standing.stake_micros + taken == standing.stake_micros + told == rules.stake_micros:
            detail = f"{self._name(node_id)} has {standing.stake_micros}, {taken} were taken, {told} told"
            self._violated("stake", detail)
        self._world.truth.counts["barred"] = sum(it.barred for it in disk.standings.values())
        if standing.serial != len(bodies):
            self._violated(
                "stake", f"{self._name(node_id)} has {len(bodies)} judgements, the last is {standing.serial}"
            )
        rewards = sum((it.node_id, it.kind) == (node_id, LedgerKind.VERDICT) for it in disk.ledger)
        earned = sum((it.subject, it.judgement) == (Subject.VERDICT, Judgement.PASSED) for it in bodies)
        if rewards != earned:
            self._violated("rewards", f"{self._name(node_id)} got {rewards} for {earned} verdicts")
        if standing.verdicts_wrong or standing.barred or standing.suspected:
            self._violated("honest node blamed", f"{self._name(node_id)}: {standing}")

    def _exhibits_are_there(self, disk: StoreDisk, case: Case) -> None:
        lost = [it.sha256 for it in exhibits(case) if it.sha256 not in disk.exhibits]
        if lost and case.state is not CaseState.JUDGED:
            self._violated("exhibit lost", f"{case.case_id} {case.state.value} lacks {lost}")

    # ------------------------------------------------------------------ transcripts

    def swept(self, node: int, key: LeaseKey) -> None:
        """Nobody can ask for it any more."""
        if why := self._wanted(node, key):
            self._violated("swept what can be asked for", f"n{node} {key}: {why}")

    def _wanted(self, node: int, key: LeaseKey) -> str:
        disk, machine = self._world.authority.disk, self._world.machines[node]
        case = disk.cases.get(self._cases.get(key, ""))
        now = int(self._world.authority.clock.wall())
        if case and (case.state is CaseState.WAITING or (case.state is CaseState.CHALLENGED and case.due_at > now)):
            return f"its case is {case.state.value}"
        for other in disk.cases.values():
            if other.state is not CaseState.JUDGED and any(
                it.key == key and it.state is CheckState.SEALED for it in other.checks
            ):
                return "its verdict is not revealed yet"
        progress = disk.progress[key.task_id]
        waits = any(row.key == key for row in machine.disk.rows.values())
        if waits and progress.state not in ENDED and progress.lease and progress.lease.key == key:
            return "its result was not delivered yet"
        return ""

    # ------------------------------------------------------------------ the end

    def is_quiet(self, disk: StoreDisk) -> bool:
        """Every case is judged, and every node has heard of it."""
        return all(it.state is CaseState.JUDGED for it in disk.cases.values()) and all(
            len(it.disk.judged) == sum(node_id == it.node_id for node_id, _ in disk.judged)
            for it in self._world.machines
        )

    def what_is_open(self, disk: StoreDisk) -> str:
        cases = {it.task_id: it.state.value for it in disk.cases.values() if it.state is not CaseState.JUDGED}
        heard = {it.index: len(it.disk.judged) for it in self._world.machines}
        return f"cases {cases}, judgements heard {heard}"

    def at_the_end(self, disk: StoreDisk) -> None:
        """Whatever chance drew was judged, once; nothing else was; and nodes know what the coordinator knows."""
        for it in disk.settlements.values():
            self._drawn_or_not(disk, it.receipt_body)
        for machine in self._world.machines:
            its = sorted(key for key in disk.judged if key[0] == machine.node_id)
            if [disk.judged[key].signed for key in its] != machine.disk.judged:
                self._violated("judgements differ", f"n{machine.index}")
            if machine.disk.spool:
                self._violated("spool not freed", f"n{machine.index} keeps {list(machine.disk.spool)}")
        rules = self._world.rules.proofs
        stakes = sum(it.stake_micros for it in disk.standings.values())
        taken = sum(it.amount_micros for it in disk.ledger if it.kind is LedgerKind.SLASHED)
        if stakes - taken != rules.stake_micros * len(disk.standings):
            self._violated("stake", f"{stakes} are left and {-taken} were taken of {len(disk.standings)} nodes")

    def _drawn_or_not(self, disk: StoreDisk, it: wire.ReceiptBody) -> None:
        promise, case_id = it.beacon, "c-" + it.receipt_id.removeprefix("r-")
        if promise is None:
            if case_id in disk.cases:
                self._violated("challenged without a promise", it.idem_key)
            return
        epoch = disk.epochs.get(promise.round)
        if epoch is None or hashlib.sha256(bytes.fromhex(epoch.secret)).hexdigest() != promise.commitment:
            self._violated("promise not kept", f"{it.idem_key}: round {promise.round}")
            return
        drawn = is_drawn(bytes.fromhex(epoch.secret), it.commitment_root, it.task_id, promise.rate_micros)
        if epoch.told and drawn != (it.task_id in self._answers):
            self._violated("draw not followed", f"{it.idem_key} is{'' if drawn else ' not'} drawn")

    def _name(self, node_id: str) -> str:
        return f"n{self._world.index_of(node_id)}"


def _is_silence(body: JudgementBody) -> bool:
    """A check that was taken and not seen through: told, counted, and paid for by nobody."""
    return (body.subject, body.judgement, body.slashed_micros) == (Subject.VERDICT, Judgement.UNOPENED, 0)
