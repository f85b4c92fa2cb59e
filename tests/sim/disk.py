"""What a node's disk holds when its process is gone: outbox, transcripts, and what it remembers of challenges.

A write takes time. Until it is acknowledged a crash may lose it or keep it, whole: both are transactions.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from agent.core import wire
from agent.core.challenges import ChallengeLine, ChallengeOutcome, ProofStory, ProofTotals
from agent.core.errors import StorageError
from agent.core.model import Blob, LeaseKey, Signed
from agent.ports import Delivered, OutboxRow, Room

if TYPE_CHECKING:
    from tests.sim.truth import Truth


@dataclass(slots=True)
class NodeDisk:
    """What a node has written down."""

    rows: dict[str, OutboxRow] = field(default_factory=dict)
    ledger: dict[str, wire.ReceiptBody] = field(default_factory=dict)
    papers: dict[LeaseKey, Delivered] = field(default_factory=dict)
    """What is signed about each attempt that ended here."""
    transcripts: dict[LeaseKey, tuple[bytes, float]] = field(default_factory=dict)
    """With the wall time until which each is kept."""
    unflushed: list[OutboxRow] = field(default_factory=list)
    """Settled since the last flush, in order: a power cut may undo the latest, though they were acknowledged."""
    lines: dict[str, ChallengeLine] = field(default_factory=dict)
    unflushed_lines: list[tuple[str, ChallengeLine | None]] = field(default_factory=list)
    """What was noted since the last flush, and what stood there before."""
    judged: list[Signed] = field(default_factory=list)
    spool: dict[LeaseKey, tuple[Blob, bytes]] = field(default_factory=dict)
    """What programs left, until the coordinator has it."""
    stock: set[str] = field(default_factory=set)
    """Bundles, by their digests."""
    full: bool = False
    write_s: float = 0.004
    faulted_at: float = float("-inf")
    """When a write last failed."""

    def power_cut(self, chance: random.Random) -> int:
        """Lose a suffix of what was never flushed; returns how many receipts."""
        lost = self.unflushed[chance.randint(0, len(self.unflushed)) :]
        for row in lost:
            del self.ledger[row.idem_key]
            self.rows[row.idem_key] = row
            self.papers[row.key] = Delivered(offer=row.offer, result=row.result)
        self.unflushed.clear()
        for name, before in reversed(self.unflushed_lines[chance.randint(0, len(self.unflushed_lines)) :]):
            if before is None:
                del self.lines[name]
            else:
                self.lines[name] = before
        self.unflushed_lines.clear()
        return len(lost)


class SimOutbox:
    """Implements ports.Outbox and ports.Ledger over a NodeDisk, for one life of the node."""

    def __init__(self, disk: NodeDisk, node: int, truth: Truth, chance: random.Random) -> None:
        self._disk, self._node, self._truth, self._chance = disk, node, truth, chance

    async def put(self, row: OutboxRow) -> None:
        await self._write()
        if row.idem_key not in self._disk.rows and row.idem_key not in self._disk.ledger:
            self._disk.rows[row.idem_key] = row
            self._disk.papers[row.key] = Delivered(offer=row.offer, result=row.result)
        self._disk.unflushed.clear()
        await self._acknowledged()
        self._truth.stored(self._node, row)

    async def pending(self, limit: int, skip: Collection[str] = ()) -> Sequence[OutboxRow]:
        await asyncio.sleep(self._chance.random() * 0.001)
        return [row for row in self._disk.rows.values() if row.idem_key not in skip][:limit]

    async def unsent(self) -> Mapping[str, LeaseKey]:
        return {row.idem_key: row.key for row in self._disk.rows.values()}

    async def settle(self, row: OutboxRow, receipt: Signed, body: wire.ReceiptBody) -> None:
        await self._write()
        if row.idem_key in self._disk.rows:
            del self._disk.rows[row.idem_key]
            self._disk.ledger[row.idem_key] = body
            self._disk.papers[row.key] = Delivered(offer=row.offer, result=row.result, receipt=receipt)
            self._disk.unflushed.append(row)
            self._truth.settled(self._node, row, body)
        await self._acknowledged()

    async def settled(self, key: LeaseKey, idem_key: str) -> bool:
        await asyncio.sleep(self._chance.random() * 0.001)
        ended = {(row.key.task_id, row.key.attempt) for row in self._disk.rows.values()}
        ended |= {(body.task_id, body.attempt) for body in self._disk.ledger.values()}
        return idem_key in self._disk.rows or idem_key in self._disk.ledger or (key.task_id, key.attempt) in ended

    async def delivered(self, key: LeaseKey) -> Delivered | None:
        await asyncio.sleep(self._chance.random() * 0.001)
        return self._disk.papers.get(key)

    async def settled_many(self, offers: Sequence[tuple[LeaseKey, str]]) -> Sequence[bool]:
        return [await self.settled(key, idem_key) for key, idem_key in offers]

    async def _write(self) -> None:
        await asyncio.sleep(self._disk.write_s * self._chance.random())
        room_on(self._disk)

    async def _acknowledged(self) -> None:
        """A crash between the write and its acknowledgement is the last write that may or may not be there."""
        await asyncio.sleep(self._disk.write_s * self._chance.random())


class SimTranscripts:
    """Implements ports.Transcripts over a NodeDisk, for one life of the node."""

    def __init__(self, disk: NodeDisk, node: int, truth: Truth, chance: random.Random) -> None:
        self._disk, self._node, self._truth, self._chance = disk, node, truth, chance

    async def keep(self, key: LeaseKey, transcript: bytes, until: float) -> None:
        await asyncio.sleep(self._disk.write_s * self._chance.random())
        room_on(self._disk)
        self._disk.transcripts[key] = transcript, until
        self._truth.kept(self._node, key)
        await asyncio.sleep(self._disk.write_s * self._chance.random())

    async def read(self, key: LeaseKey) -> bytes | None:
        await asyncio.sleep(self._disk.write_s * self._chance.random())
        found = self._disk.transcripts.get(key)
        return found and found[0]

    def room(self) -> Room:
        return Room(used_bytes=0, quota_bytes=1)

    async def sweep(self, now: float) -> int:
        await asyncio.sleep(self._disk.write_s * self._chance.random())
        past = [key for key, (_, until) in self._disk.transcripts.items() if until <= now]
        for key in past:
            del self._disk.transcripts[key]
            self._truth.swept(self._node, key)
        return len(past)


class SimProofs:
    """Implements ports.Proofs over a NodeDisk, for one life of the node."""

    def __init__(self, disk: NodeDisk, node: int, truth: Truth, chance: random.Random) -> None:
        self._disk, self._node, self._truth, self._chance = disk, node, truth, chance

    async def note(self, lines: Sequence[ChallengeLine]) -> ProofTotals:
        await self._write()
        for line in lines:
            before = self._disk.lines.get(line.challenge_id)
            if before is None or line.outcome is not ChallengeOutcome.ASKED:
                self._disk.lines[line.challenge_id] = line
                self._disk.unflushed_lines.append((line.challenge_id, before))
                self._truth.proofs.noted(self._node, line)
        return self._totals()

    async def keep(self, judgement: Signed, body: wire.JudgementBody) -> ProofTotals:
        await self._write()
        if body.serial == len(self._disk.judged) + 1:
            self._disk.judged.append(judgement)
            self._disk.unflushed_lines.clear()
            self._truth.proofs.heard(self._node, judgement, body)
        await asyncio.sleep(self._disk.write_s * self._chance.random())
        return self._totals()

    async def recall(self, now: float) -> tuple[ProofTotals, Sequence[ChallengeLine]]:
        asked = [line for line in self._disk.lines.values() if line.outcome is ChallengeOutcome.ASKED]
        for line in asked:
            if line.due_at <= now:
                missed = msgspec.structs.replace(line, outcome=ChallengeOutcome.MISSED)
                self._disk.lines[line.challenge_id] = missed
        return self._totals(), [line for line in asked if line.due_at > now]

    async def story(self, limit: int) -> ProofStory:
        return ProofStory(totals=self._totals())

    def _totals(self) -> ProofTotals:
        return ProofTotals(serial=len(self._disk.judged))

    async def _write(self) -> None:
        await asyncio.sleep(self._disk.write_s * self._chance.random())
        room_on(self._disk)


def room_on(disk: NodeDisk) -> None:
    """Raises StorageError on a full disk."""
    if disk.full:
        disk.faulted_at = asyncio.get_running_loop().time()
        raise StorageError("no space left", full=True, remedy="Make room")
