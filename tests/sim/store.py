"""What the coordinator's disk holds when its process is gone, and the store that writes it.

The database is a real one, with the coordinator's own schema, writes and queries. Beside it stands what it should hold.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from agent.core.errors import StorageError
from agent.devnet import case_store, store
from agent.devnet.core import effects as e
from agent.devnet.core.proofs.records import Case, Epoch, Judged, Standing
from agent.devnet.core.records import Demand, LedgerLine, NodeRecord, Progress, Settlement
from agent.devnet.core.restoring import Remembered

if TYPE_CHECKING:
    from tests.sim.truth import Truth

Writes = tuple[e.Write, ...]


class StoreDisk:
    """What the coordinator has written down; every write is looked at by `truth`."""

    def __init__(self, truth: Truth) -> None:
        self._truth = truth
        self.database = sqlite3.connect(":memory:", isolation_level=None)
        self.database.executescript(store._SCHEMA + case_store.SCHEMA)
        self.demands: dict[str, Demand] = {}
        self.progress: dict[str, Progress] = {}
        self.settlements: dict[str, Settlement] = {}
        self.ledger: list[LedgerLine] = []
        self.epochs: dict[int, Epoch] = {}
        self.cases: dict[str, Case] = {}
        """Open and judged ones."""
        self.standings: dict[str, Standing] = {}
        self.judged: dict[tuple[str, int], Judged] = {}
        self.files: dict[str, bytes] = {}
        """Blobs, by their digests."""
        self.exhibits: dict[str, bytes] = {}
        self.write_s = 0.004
        self.fails = False

    def apply(self, writes: Writes) -> None:
        """One transaction."""
        for write in writes:
            self._one(write)
        self.database.execute("BEGIN")
        store._apply(self.database, writes)
        self.database.execute("COMMIT")
        self._truth.proofs.committed(self, writes)

    def _one(self, write: e.Write) -> None:
        match write:
            case e.SaveDemand(demand=demand):
                self.demands[demand.spec.task_id] = demand
            case e.SaveProgress(task_id=task_id, progress=progress):
                self._truth.progressed(self, task_id, progress)
                self.progress[task_id] = progress
            case e.SaveSettlement(settlement=it):
                self._truth.settlement(self, it)
                self.settlements[it.idem_key] = it
            case e.SaveLedgerLine(line=line):
                self._truth.paid(self, line)
                self.ledger.append(line)
            case e.SaveNode() | e.SaveToken():
                pass
            case _:
                self._proof(write)

    def _proof(self, write: e.ProofWrite) -> None:
        proofs = self._truth.proofs
        match write:
            case e.SaveEpoch(epoch=epoch):
                self.epochs[epoch.number] = epoch
            case e.SaveCase(case=case):
                proofs.moved(self, case)
                self.cases[case.case_id] = case
            case e.DropCase(case_id=case_id):
                proofs.dropped(self.cases.pop(case_id))
            case e.SaveStanding(standing=standing):
                self.standings[standing.node_id] = standing
            case e.SaveJudged(judged=judged):
                proofs.judged(self, judged)
                self.judged[judged.node_id, judged.serial] = judged

    def enrol(self, records: Iterable[NodeRecord]) -> None:
        """Nodes that are known from the beginning."""
        store._apply(self.database, tuple(e.SaveNode(record=record) for record in records))

    def remembered(self) -> Remembered:
        """What a coordinator reads back."""
        return store._remembered(self.database)


class SimStore:
    """As devnet.store.Store to the desk: commits in order, one transaction for all that wait."""

    def __init__(self, disk: StoreDisk, chance: random.Random, broken: Callable[[StorageError], None]) -> None:
        self._disk, self._chance, self._broken = disk, chance, broken
        self._waiting: deque[tuple[Writes, asyncio.Future[None]]] = deque()
        self._batch: list[tuple[Writes, asyncio.Future[None]]] = []
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

    async def read(self, work: Callable[[Any], Any]) -> Any:
        if done := self.latest:
            await asyncio.shield(done)
        await asyncio.sleep(self._disk.write_s * self._chance.random())
        return work(self._disk.database)

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
