"""Disks that survive their process: a node's outbox and transcripts, and the coordinator's store.

A write takes time. Until it is acknowledged a crash may lose it or keep it, whole: both are transactions.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agent.core import wire
from agent.core.errors import StorageError
from agent.core.model import LeaseKey, Signed
from agent.devnet.core import effects as e
from agent.devnet.core.records import Demand, LedgerLine, NodeRecord, Progress, Settlement
from agent.devnet.core.restoring import Remembered
from agent.ports import OutboxRow, Room

if TYPE_CHECKING:
    from tests.sim.truth import Truth


@dataclass(slots=True)
class NodeDisk:
    """What a node has written down."""

    rows: dict[str, OutboxRow] = field(default_factory=dict)
    ledger: dict[str, wire.ReceiptBody] = field(default_factory=dict)
    transcripts: dict[LeaseKey, tuple[bytes, float]] = field(default_factory=dict)
    """With the wall time until which each is kept."""
    unflushed: list[OutboxRow] = field(default_factory=list)
    """Settled since the last flush, in order: a power cut may undo the latest, though they were acknowledged."""
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
        self.unflushed.clear()
        return len(lost)


class SimOutbox:
    """Implements ports.Outbox over a NodeDisk, for one life of the node."""

    def __init__(self, disk: NodeDisk, node: int, truth: Truth, chance: random.Random) -> None:
        self._disk, self._node, self._truth, self._chance = disk, node, truth, chance

    async def put(self, row: OutboxRow) -> None:
        await self._write()
        if row.idem_key not in self._disk.rows and row.idem_key not in self._disk.ledger:
            self._disk.rows[row.idem_key] = row
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
            self._disk.unflushed.append(row)
            self._truth.settled(self._node, row, body)
        await self._acknowledged()

    async def settled(self, key: LeaseKey, idem_key: str) -> bool:
        await asyncio.sleep(self._chance.random() * 0.001)
        ended = {(row.key.task_id, row.key.attempt) for row in self._disk.rows.values()}
        ended |= {(body.task_id, body.attempt) for body in self._disk.ledger.values()}
        return idem_key in self._disk.rows or idem_key in self._disk.ledger or (key.task_id, key.attempt) in ended

    async def settled_many(self, offers: Sequence[tuple[LeaseKey, str]]) -> Sequence[bool]:
        return [await self.settled(key, idem_key) for key, idem_key in offers]

    async def _write(self) -> None:
        await asyncio.sleep(self._disk.write_s * self._chance.random())
        _room(self._disk)

    async def _acknowledged(self) -> None:
        """A crash between the write and its acknowledgement is the last write that may or may not be there."""
        await asyncio.sleep(self._disk.write_s * self._chance.random())


class SimTranscripts:
    """Implements ports.Transcripts over a NodeDisk, for one life of the node."""

    def __init__(self, disk: NodeDisk, node: int, truth: Truth, chance: random.Random) -> None:
        self._disk, self._node, self._truth, self._chance = disk, node, truth, chance

    async def keep(self, key: LeaseKey, transcript: bytes, until: float) -> None:
        await asyncio.sleep(self._disk.write_s * self._chance.random())
        _room(self._disk)
        self._disk.transcripts[key] = transcript, until
        self._truth.kept(self._node, key)
        await asyncio.sleep(self._disk.write_s * self._chance.random())

    async def read(self, key: LeaseKey) -> bytes | None:
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


def _room(disk: NodeDisk) -> None:
    if disk.full:
        disk.faulted_at = asyncio.get_running_loop().time()
        raise StorageError("no space left", full=True, remedy="Make room")


class StoreDisk:
    """What the coordinator has written down; every write is looked at by `truth`."""

    def __init__(self, truth: Truth) -> None:
        self._truth = truth
        self.fence = 0
        self.demands: dict[str, Demand] = {}
        self.progress: dict[str, Progress] = {}
        self.settlements: dict[str, Settlement] = {}
        self.ledger: list[LedgerLine] = []
        self.nodes: dict[str, NodeRecord] = {}
        self.write_s = 0.004
        self.fails = False

    def apply(self, writes: Iterable[e.Write]) -> None:
        """One transaction."""
        for write in writes:
            match write:
                case e.SaveDemand(demand=demand):
                    self.demands[demand.spec.task_id] = demand
                case e.SaveProgress(task_id=task_id, fence=fence, progress=progress):
                    self._truth.progressed(self, task_id, progress)
                    self.progress[task_id] = progress
                    self.fence = fence
                case e.SaveSettlement(settlement=it):
                    self._truth.settlement(self, it)
                    self.settlements[it.idem_key] = it
                case e.SaveLedgerLine(line=line):
                    self._truth.paid(self, line)
                    self.ledger.append(line)
                case e.SaveNode(record=record):
                    self.nodes[record.node_id] = record

    def remembered(self) -> Remembered:
        """What a coordinator reads back."""
        return Remembered(
            fence=self.fence,
            demands=tuple(self.demands.values()),
            progress=dict(self.progress),
            receipts=tuple(it.receipt_body for it in self.settlements.values()),
            nodes=tuple(self.nodes.values()),
        )


class SimStore:
    """As devnet.store.Store to the desk: commits in order, one transaction for all that wait."""

    def __init__(self, disk: StoreDisk, chance: random.Random, broken: object) -> None:
        self._disk, self._chance, self._broken = disk, chance, broken
        self._waiting: deque[tuple[tuple[e.Write, ...], asyncio.Future[None]]] = deque()
        self._batch: list[tuple[tuple[e.Write, ...], asyncio.Future[None]]] = []
        self._latest: asyncio.Future[None] | None = None

    def commit(self, writes: Iterable[e.Write]) -> asyncio.Future[None]:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((tuple(writes), done))
        self._latest = done
        if not self._batch:
            self._begin()
        return done

    @property
    def latest(self) -> asyncio.Future[None] | None:
        return self._latest if self._latest and not self._latest.done() else None

    def crash(self) -> None:
        """The transaction that was on its way is on the disk or it is not."""
        if self._batch and self._chance.random() < 0.5:
            self._apply()
        self._batch.clear()
        self._waiting.clear()

    def _begin(self) -> None:
        self._batch = list(self._waiting)
        self._waiting.clear()
        asyncio.get_running_loop().call_later(self._disk.write_s * self._chance.random(), self._written)

    def _written(self) -> None:
        batch = self._batch
        if self._disk.fails:
            fault = StorageError("no space left on the coordinator", full=True)
            self._broken(fault)
            for _, done in batch:
                if not done.done():
                    done.set_exception(fault)
                    done.exception()
            return
        self._apply()
        self._batch = []
        for _, done in batch:
            if not done.done():
                done.set_result(None)
        if self._waiting:
            self._begin()

    def _apply(self) -> None:
        for writes, _ in self._batch:
            self._disk.apply(writes)
