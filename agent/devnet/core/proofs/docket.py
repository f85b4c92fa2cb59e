"""Open cases, standings and judgements, with what is looked up often. It only keeps; `cases` says how a case moves.

A judged case leaves: of those there are ever more, and the store answers for them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TypeVar

from agent.core.model import Blob, Signed
from agent.core.payloads import BeaconPromise, BeaconSource, Judgement
from agent.devnet.core.proofs.records import Case, CaseState, CheckState, Epoch, Standing
from agent.devnet.core.queue import Alarms

Round = tuple[BeaconSource, int]
Key = TypeVar("Key")
V = TypeVar("V")

SLASHING = frozenset({Judgement.FAILED, Judgement.UNOPENED})
"""Judgements that cost a node some of its stake."""


class Docket:
    """What is under examination, and what came of it."""

    def __init__(self) -> None:
        self.last_epoch = 0
        """Number of the latest that a receipt promised."""
        self.cases: dict[str, Case] = {}
        """Open ones, oldest first."""
        self.of_task: dict[str, str] = {}
        """Task → the case of its result."""
        self.of_check: dict[str, str] = {}
        """Task of a validator → the case that it looks at."""
        self.canary_of: dict[str, str] = {}
        """Task → the canary that was made of its result."""
        self.waiting: dict[Round, dict[str, None]] = {}
        """Cases whose beacon is not told yet."""
        self.copied: set[str] = set()
        """Cases of which a canary is being made: these stay here meanwhile, whether they are judged or not."""
        self.standings: dict[str, Standing] = {}
        self.judged: dict[str, list[Signed]] = {}
        """Node → its judgements; that with serial n is the (n - 1)th."""
        self.epoch: Epoch | None = None
        """Whose secret decides over results that come now."""
        self.drand_ahead: float | None = None
        """Unix time that drand proves, less the monotonic time that it was then. None: it has shown nothing."""
        self.alarms = Alarms()
        """Of cases, by their ids; `fence` is the level that was current."""
        self.due: dict[str, float] = {}
        """Open case → monotonic time by which what it was challenged for must be here. What `due_at` says is for people
        and for a restart: clocks are set.
        """
        self.arriving: set[str] = set()
        """Challenges whose answer came and waits to be taken in: it is in time, whatever the alarm says meanwhile."""
        self.hindered: set[str] = set()
        """Open cases of which something came that could not be kept here: nobody is blamed for what is missing."""
        self._owed: dict[str, dict[str, str]] = {}
        self._named: Counter[str] = Counter()

    def put(self, case: Case) -> None:
        """A case appears, or is as this says from now on."""
        if before := self.cases.get(case.case_id):
            self._leave(before)
        self.cases[case.case_id] = case
        self._enter(case)

    def drop(self, case: Case) -> None:
        """It was not drawn after all, or is judged."""
        self._leave(self.cases.pop(case.case_id))
        self._asks_nothing(case.case_id)

    def owed(self, node_id: str) -> Iterator[tuple[str, Case]]:
        """What a node was asked to open and did not yet: names of challenges and their cases, oldest first."""
        return ((name, self.cases[case_id]) for name, case_id in self._owed.get(node_id, {}).items())

    def owed_by(self, node_id: str, challenge_id: str) -> Case | None:
        """The case of a challenge that is open to this node."""
        case_id = self._owed.get(node_id, {}).get(challenge_id)
        return self.cases[case_id] if case_id else None

    def is_open(self, promise: BeaconPromise) -> bool:
        """Whether the promised round is not known yet."""
        if promise.source is BeaconSource.EPOCH:
            return self.epoch is not None and self.epoch.number == promise.round
        return (promise.source, promise.round) in self.waiting

    def names(self, sha256: str) -> bool:
        """Whether any open case needs this exhibit."""
        return self._named[sha256] > 0

    def unexamined(self) -> tuple[str, ...]:
        """Cases that were opened, and nobody has looked at it yet."""
        return tuple(it.case_id for it in self.cases.values() if is_unexamined(it))

    def _enter(self, case: Case) -> None:
        (self.canary_of if case.canary else self.of_task)[case.task_id] = case.case_id
        self.of_check.update((check.task_id, case.case_id) for check in case.checks)
        if case.state is CaseState.WAITING:
            self.waiting.setdefault(_round(case), {})[case.case_id] = None
        if case.state is CaseState.JUDGED:
            self.alarms.forget(case.case_id)
        asked = challenged(case)
        for name, node_id in asked.items():
            self._owed.setdefault(node_id, {})[name] = case.case_id
        if not asked:
            self._asks_nothing(case.case_id)
        self._named.update(blob.sha256 for blob in exhibits(case))

    def _asks_nothing(self, case_id: str) -> None:
        """Neither a time nor an excuse outlives what it is for."""
        self.due.pop(case_id, None)
        self.hindered.discard(case_id)

    def _leave(self, case: Case) -> None:
        del (self.canary_of if case.canary else self.of_task)[case.task_id]
        for check in case.checks:
            del self.of_check[check.task_id]
        if case.state is CaseState.WAITING:
            _strike(self.waiting, _round(case), case.case_id)
        for name, node_id in challenged(case).items():
            _strike(self._owed, node_id, name)
        for blob in exhibits(case):
            self._named[blob.sha256] -= 1
            if not self._named[blob.sha256]:
                del self._named[blob.sha256]


def challenged(case: Case) -> dict[str, str]:
    """Names of the challenges that are open in this case, and who owes each."""
    match case.state:
        case CaseState.CHALLENGED:
            return {case.drawn_id(): case.node_id}
        case CaseState.REVEALING:
            return {check.task_id: check.node_id for check in case.checks if check.state is CheckState.SEALED}
        case _:
            return {}


def exhibits(case: Case) -> tuple[Blob, ...]:
    """What lies on the disk for this case."""
    return tuple(blob for blob in (case.opening, case.evidence) if blob)


def not_needed(case: Case) -> tuple[Blob, ...]:
    """Exhibits of a judged case that may go after a while. What a node was slashed for stays: anybody may ask why."""
    if case.state is not CaseState.JUDGED:
        return ()
    return tuple(blob for blob in exhibits(case) if blob is not case.opening or case.judgement not in SLASHING)


def is_unexamined(case: Case) -> bool:
    """Whether an opening came that nobody has looked at."""
    return case.state is CaseState.CHECKING and case.evidence is None


def _round(case: Case) -> Round:
    return case.promise.source, case.promise.round


def _strike(lists: dict[Key, dict[str, V]], key: Key, name: str) -> None:
    del lists[key][name]
    if not lists[key]:
        del lists[key]
