"""Which devices are challenged to show that they are GPUs, how far each challenge is, and what comes of it.

Nothing of an open challenge outlives a restart: it is asked anew. Verdicts are kept with the node.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, TypeVar

from msgspec.structs import replace

from agent.core.attest.cards import UNKNOWN, Card, card_named
from agent.core.attest.consistency import implausible
from agent.core.attest.judging import Claim, Times, judged, unanswered
from agent.core.attest.messages import (
    CPU,
    MAX_DEVICES,
    Attestation,
    MatrixAgain,
    MatrixAsked,
    MatrixCommitted,
    MatrixDrawn,
    MatrixGo,
    MatrixJudged,
    MatrixOpened,
    MatrixReady,
    MatrixReread,
    OpenedRow,
    Standing,
    Work,
)
from agent.core.attest.sizing import columns_for, commit_limit_s, drawn, reread_limit_s, work_for
from agent.core.attest.tree import READINGS
from agent.core.devices import uuids_of
from agent.core.fingerprint import Fingerprint
from agent.core.gpu import Gpu
from agent.core.model import Value
from agent.core.text import plain
from agent.core.wire import RefusalCode
from agent.devnet.core.book import Book
from agent.devnet.core.effects import Decision, SaveNode
from agent.devnet.core.records import Node
from agent.devnet.core.rules import Instant, Refused, bad_message

R = TypeVar("R")
Chance = Callable[[], str]
"""32 bytes that nobody can foresee, hex."""
PATIENCE = 3.0
"""How much longer than allowed an answer is waited for, so that the verdict can tell slow from silent."""
AGAIN_S = 900.0
"""Until a node that could not be challenged for a passing reason is asked again. A node bears one in ten minutes."""
STALE = 2
"""A verdict outlives passing reasons until it is so many times as old as it may get."""
OPEN_S = 120.0
"""To open what was drawn: only a way to say it is needed, and half a megabyte of line."""


class Phase(StrEnum):
    """What is waited for."""

    READY = "ready"
    COMMITTED = "committed"
    REREAD = "reread"
    OPENED = "opened"
    CHECKED = "checked"
    """The rows are being computed anew."""


class Exhibit(Value):
    """All that is needed to look at the rows that were opened."""

    challenge_id: str
    seed: str
    seed_again: str
    columns: int
    works: tuple[Work, ...]
    roots: tuple[str, ...]
    roots_again: tuple[tuple[str, ...], ...]
    rows: tuple[tuple[int, ...], ...]
    opened: tuple[tuple[OpenedRow, ...], ...]


@dataclass(slots=True, eq=False)
class Case:
    """One challenge that is open."""

    challenge_id: str
    devices: tuple[str, ...]
    claims: dict[str, Claim]
    columns: int
    due: float
    """When it is given up, monotonic."""
    phase: Phase = Phase.READY
    since: float = 0.0
    """When the last seed was sent, monotonic."""
    seed: str = ""
    seed_again: str = ""
    works: tuple[Work, ...] = ()
    roots: tuple[str, ...] = ()
    roots_again: tuple[tuple[str, ...], ...] = ()
    rows: tuple[tuple[int, ...], ...] = ()
    commit_s: float = 0.0
    reread_s: float = 0.0
    answered: tuple[object, Any] | None = None
    """The latest message and its answer."""

    def before(self, message: object, phase: Phase) -> Any:
        """What this very message was answered before: its answer was lost, and nothing changes. Raises Refused."""
        if self.answered and self.answered[0] == message:
            return self.answered[1]
        self.expect(phase)
        return None

    def expect(self, phase: Phase) -> None:
        """Raises Refused in another phase."""
        if self.phase is not phase:
            raise bad_message(f"this challenge waits for {self.phase.value}, not for {phase.value}")


_GONE: Final = "this challenge is over, or was never asked; a new one comes with a beat"


class Attesting:
    """All challenges. `cards`: what is known of GPU models; `chance` gives seeds."""

    def __init__(self, book: Book, cards: Sequence[Card], chance: Chance) -> None:
        self._book = book
        self._cards = cards
        self._chance = chance
        self._open: dict[str, Case] = {}
        """By node."""
        self._not_before: dict[str, float] = {}
        """Node → when it is asked again after a passing reason, monotonic."""
        self._number = 0

    def asks(self, when: Instant, node_id: str) -> tuple[MatrixAsked | None, Decision[None]]:
        """What to ask of a node that sent a beat, and what is written down at once."""
        rules, node = self._book.rules, self._book.node(node_id)
        if rules.attest_every_s <= 0 or node.fingerprint is None:
            return None, self._book.decide(None)
        doubted = self._judge_doubted(when, node, node.fingerprint)
        case = self._open.get(node_id) or self._begun(when, node, node.fingerprint, doubted)
        if case is None or case.phase is not Phase.READY:
            return None, self._book.decide(None)
        left_s = max(int(case.due - when.now), 1)
        asked = MatrixAsked(challenge_id=case.challenge_id, devices=case.devices, columns=case.columns, answer_s=left_s)
        return asked, self._book.decide(None)

    def ready(self, when: Instant, node_id: str, message: MatrixReady) -> Decision[MatrixGo]:
        """Sets the sizes, and starts the clock; a refusal, whenever it comes, ends the challenge. Raises Refused."""
        case = self._case(node_id, message.challenge_id)
        if message.refusal:
            self._close(when, node_id, case, plain(message.refusal, 300), passing=True)
            return self._book.decide(MatrixGo())
        if (before := case.before(message, Phase.READY)) is not None:
            return self._book.decide(before)
        if len(message.free_bytes) != len(case.devices):
            raise bad_message(f"free_bytes of {len(message.free_bytes)} devices, where {len(case.devices)} were asked")
        case.works = tuple(
            work_for(device, case.claims[device].card, free, case.columns)
            for device, free in zip(case.devices, message.free_bytes, strict=True)
        )
        case.seed = self._chance()
        go = MatrixGo(seed=case.seed, works=case.works)
        limit_s = max(self._limit(commit_limit_s, case, work) for work in case.works)
        return self._on(case, when, Phase.COMMITTED, limit_s, message, go)

    def committed(self, when: Instant, node_id: str, message: MatrixCommitted) -> Decision[MatrixAgain]:
        """Stops the clock and starts the second. Raises Refused."""
        case = self._case(node_id, message.challenge_id)
        if (before := case.before(message, Phase.COMMITTED)) is not None:
            return self._book.decide(before)
        _check_count(case, message.roots)
        case.roots, case.commit_s = message.roots, when.now - case.since
        case.seed_again = self._chance()
        limit_s = max(self._limit(reread_limit_s, case, work) for work in case.works)
        return self._on(case, when, Phase.REREAD, limit_s, message, MatrixAgain(seed=case.seed_again))

    def reread(self, when: Instant, node_id: str, message: MatrixReread) -> Decision[MatrixDrawn]:
        """Stops the second clock, and draws rows. Raises Refused."""
        case = self._case(node_id, message.challenge_id)
        if (before := case.before(message, Phase.REREAD)) is not None:
            return self._book.decide(before)
        _check_count(case, message.roots)
        if any(len(roots) != READINGS for roots in message.roots):
            raise bad_message(f"a root is expected for each of {READINGS} readings")
        case.roots_again, case.reread_s = message.roots, when.now - case.since
        chance = self._chance()
        case.rows = tuple(drawn(chance, work, len(case.works)) for work in case.works)
        return self._on(case, when, Phase.OPENED, OPEN_S, message, MatrixDrawn(rows=case.rows))

    def opened(self, when: Instant, node_id: str, message: MatrixOpened) -> Exhibit:
        """What is to be looked at, outside of here, for that takes a while. Raises Refused."""
        case = self._case(node_id, message.challenge_id)
        case.expect(Phase.OPENED)
        if [len(rows) for rows in message.rows] != [len(rows) for rows in case.rows]:
            raise bad_message("other rows are opened than were drawn")
        case.phase, case.due = Phase.CHECKED, when.now + OPEN_S
        return Exhibit(
            challenge_id=case.challenge_id,
            seed=case.seed,
            seed_again=case.seed_again,
            columns=case.columns,
            works=case.works,
            roots=case.roots,
            roots_again=case.roots_again,
            rows=case.rows,
            opened=message.rows,
        )

    def checked(self, when: Instant, node_id: str, challenge_id: str, faults: dict[str, str]) -> Decision[MatrixJudged]:
        """The rows were looked at; `faults`: device → what is wrong. Raises Refused."""
        case = self._case(node_id, challenge_id)
        case.expect(Phase.CHECKED)
        times = Times(case.commit_s, case.reread_s)
        latency_s = self._book.rules.attest_latency_s
        found = judged(case.works, case.columns, case.claims, times, faults, latency_s, when.at)
        self._keep(node_id, found)
        del self._open[node_id]
        return self._book.decide(MatrixJudged(attestations=found))

    def sweep(self, when: Instant) -> Decision[None]:
        """Give up what was not answered in time."""
        for node_id, case in list(self._open.items()):
            if when.now >= case.due:
                self._close(when, node_id, case, _silence(case), passing=case.phase is Phase.READY)
        return self._book.decide(None)

    # ------------------------------------------------------------------ within

    def _judge_doubted(self, when: Instant, node: Node, told: Fingerprint) -> frozenset[str]:
        """GPUs whose own facts contradict one another. They lose what they had, and are not asked any more."""
        found = {it.device: it for gpu in told.gpus if _whole(gpu) and (it := self._doubted(told, gpu, when.at))}
        known = {it.device: (it.standing, it.detail) for it in node.record.attestations}
        self._keep(
            node.record.node_id, tuple(it for it in found.values() if known.get(it.device) != (it.standing, it.detail))
        )
        case = self._open.get(node.record.node_id)
        if case and not found.keys().isdisjoint(case.devices):
            del self._open[node.record.node_id]  # the others are asked anew
        return frozenset(found)

    def _begun(self, when: Instant, node: Node, told: Fingerprint, doubted: frozenset[str]) -> Case | None:
        """A new challenge of all devices that pools are on, without a doubt, when the last verdict about one of them
        is too old."""
        lent = {uuid for pool in told.pools for uuid in uuids_of(pool)}
        gpus = [gpu for gpu in told.gpus if _whole(gpu) and gpu.uuid in lent - doubted]
        claims = {gpu.uuid: self._claim(gpu) for gpu in gpus} or _processor(told)
        known = {it.device: it for it in node.record.attestations if it.standing is not Standing.INCONSISTENT}
        every_s = self._book.rules.attest_every_s
        if all(it in known and when.at - known[it].judged_at < every_s for it in claims):
            return None
        waits = when.now < self._not_before.get(node.record.node_id, 0.0)
        if waits or len(self._open) >= self._book.rules.attest_at_once:
            return None  # with a later beat
        devices = tuple(sorted(claims, key=lambda it: known[it].judged_at if it in known else 0)[:MAX_DEVICES])
        self._number += 1
        case = Case(
            challenge_id=f"{node.record.node_id}/{when.at}/{self._number}",
            devices=devices,
            claims={device: claims[device] for device in devices},
            columns=self._book.rules.attest_columns or columns_for(devices),
            due=when.now + self._book.rules.attest_ready_s,
        )
        self._open[node.record.node_id] = case
        return case

    def _claim(self, gpu: Gpu) -> Claim:
        return Claim(plain(gpu.name, 100), card_named(gpu.name, self._cards) or UNKNOWN)

    def _doubted(self, told: Fingerprint, gpu: Gpu, at: int) -> Attestation | None:
        """A GPU whose own facts contradict one another is not asked: by its node's word, or by what is seen of here."""
        own = next((it.doubts for it in told.standings if it.uuid == gpu.uuid), ())
        doubts = (*own, *implausible(gpu, self._cards))
        if not doubts:
            return None
        detail = f"{plain(doubts[0].evidence, 300)} ({plain(doubts[0].code, 50)})"
        name = plain(gpu.name, 100)
        return Attestation(device=gpu.uuid, standing=Standing.INCONSISTENT, name=name, detail=detail, judged_at=at)

    def _case(self, node_id: str, challenge_id: str) -> Case:
        case = self._open.get(node_id)
        if case is None or case.challenge_id != challenge_id:
            raise Refused(RefusalCode.NOT_FOUND, _GONE)
        return case

    def _on(self, case: Case, when: Instant, phase: Phase, limit_s: float, message: object, reply: R) -> Decision[R]:
        case.phase, case.since, case.due = phase, when.now, when.now + PATIENCE * limit_s
        case.answered = message, reply
        return self._book.decide(reply)

    def _limit(self, limit: Callable[[Card, Work, int, float], float], case: Case, work: Work) -> float:
        return limit(case.claims[work.device].card, work, case.columns, self._book.rules.attest_latency_s)

    def _close(self, when: Instant, node_id: str, case: Case, why: str, *, passing: bool) -> None:
        """`passing`: it says nothing against the devices, so what was found of them stands, and is asked for again."""
        del self._open[node_id]
        stands = self._stands(when, node_id) if passing else frozenset()
        silent = [device for device in case.devices if device not in stands]
        self._keep(node_id, tuple(unanswered(it, case.claims[it].name, why, when.at) for it in silent))
        if passing:
            self._not_before[node_id] = when.now + AGAIN_S

    def _stands(self, when: Instant, node_id: str) -> frozenset[str]:
        """Devices whose good verdict outlives a passing reason."""
        oldest_at = when.at - STALE * self._book.rules.attest_every_s
        known = self._book.node(node_id).record.attestations
        good = (it for it in known if it.standing in (Standing.ATTESTED, Standing.CPU))
        return frozenset(it.device for it in good if it.judged_at > oldest_at)

    def _keep(self, node_id: str, found: tuple[Attestation, ...]) -> None:
        """With the node: of each device the latest, and of none that it no longer has."""
        if not found:
            return
        node = self._book.node(node_id)
        here = {gpu.uuid for gpu in node.fingerprint.gpus} if node.fingerprint else set()
        kept = {it.device: it for it in node.record.attestations if it.device in here}
        kept |= {it.device: it for it in found}
        node.record = replace(node.record, attestations=tuple(kept.values()))
        self._book.write(SaveNode(record=node.record))


def _whole(gpu: Gpu) -> bool:
    """A GPU that is cut into slices has no matrix product of its own."""
    return gpu.fault is None and not gpu.mig_enabled and gpu.uuid.startswith("GPU-")


def _processor(told: Fingerprint) -> dict[str, Claim]:
    if told.gpus or not any(pool.device == CPU for pool in told.pools):
        return {}
    return {CPU: Claim(plain(told.cpu.model, 100), UNKNOWN)}


def _check_count(case: Case, roots: tuple[object, ...]) -> None:
    if len(roots) != len(case.works):
        raise bad_message(f"roots of {len(roots)} devices, where {len(case.works)} were asked")


def _silence(case: Case) -> str:
    return {
        Phase.READY: "it never said that it is ready",
        Phase.COMMITTED: "nothing came back after the seed, three times as long as allowed",
        Phase.REREAD: "it did not read its memory again, three times as long as allowed",
        Phase.OPENED: "it did not open the rows that were drawn",
        Phase.CHECKED: "its rows could not be looked at",
    }[case.phase]
