"""What must hold, seen from outside: what happened in the world is kept here, not what anybody believes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from agent.core import wire
from agent.core.model import Blob, ExecInput, LeaseKey, Outcome, Reason
from agent.core.wire import ReceiptStatus
from agent.devnet.core.effects import Decision, Moved
from agent.devnet.core.records import ENDED, LedgerKind, LedgerLine, Progress, Settlement, TaskState
from agent.ports import OutboxRow
from tests.sim.faults import JUMP_S
from tests.sim.files import sha256_of
from tests.sim.proof_truth import ProofTruth
from tests.sim.store import StoreDisk

if TYPE_CHECKING:
    from tests.sim.machine import Machine
    from tests.sim.world import World

THAWED_S = 1.0
"""A machine that was suspended past its deadline needs a turn of its watch to notice."""
MARGIN_S = 1.0
"""A node's right to compute ends so much earlier, at least, than the coordinator gives its lease up. The smallest
margin is 2 s; drift, a turn of the watch and the stop of an engine come off it."""
KEPT_S = 300.0
"""So long a node must keep a transcript: the RETENTION_S of the machines, written down again."""
SWEEP_SLACK_S = 10.0 + 2 * JUMP_S
"""A transcript's time counts from when it was proven, a sweep's from when it began: each a write earlier. Between the
two the node may have started anew by a clock that was set."""
_offers = msgspec.json.Decoder(wire.OfferBody)


@dataclass(frozen=True, slots=True)
class Violation:
    """An invariant that did not hold."""

    name: str
    detail: str
    at: float

    def __str__(self) -> str:
        return f"{self.name} at {self.at:.3f} s: {self.detail}"


class Truth:
    """The outside view of one run."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.violations: list[Violation] = []
        self.greeted = ""
        """Nonce of the hello that the coordinator decides about just now."""
        self.deadlines: dict[tuple[int, LeaseKey], float] = {}
        """Virtual time at which a node's own lease ends, by its own clock."""
        self.margin_s = float("inf")
        """Smallest time from a node's own deadline until the coordinator gave up the lease."""
        self.stop_margin_s = float("inf")
        """The same, from the moment at which its engine really stopped."""
        self.counts: Counter[str] = Counter()
        self._computing: Counter[tuple[int, str]] = Counter()
        self._rested: dict[tuple[int, str], float] = {}
        self._hellos: dict[str, frozenset[LeaseKey]] = {}
        self._offered: dict[str, int] = {}
        self._fences: set[int] = set()
        self._owed: dict[str, int] = {}
        self._asked: set[str] = set()
        self._ended: dict[str, TaskState] = {}
        self._due: dict[tuple[int, LeaseKey], float] = {}
        """Until when a transcript must be kept."""
        self._swept: set[tuple[int, LeaseKey]] = set()
        self.proofs = ProofTruth(world, self.violated)

    def violated(self, name: str, detail: str) -> None:
        found = Violation(name, detail, self._world.loop.time())
        self._world.note(f"VIOLATED {name}: {detail}")
        self.violations.append(found)

    # ------------------------------------------------------------------ engines

    def watch(self, machine: Machine) -> None:
        self._world.by_owner[machine.owner] = machine

    def computes(self, node: int, task_id: str) -> None:
        self._computing[node, task_id] += 1

    def rests(self, node: int, task_id: str) -> None:
        if self._computing[node, task_id] > 0:
            self._computing[node, task_id] -= 1
            self._rested[node, task_id] = self._world.loop.time()

    def died(self, node: int) -> None:
        for place in [place for place in self._computing if place[0] == node]:
            del self._computing[place]

    # ------------------------------------------------------------------ the coordinator decides

    def decided(self, decision: Decision[Any]) -> None:
        for notice in decision.notices:
            if isinstance(notice, Moved):
                self._moved(notice)

    def _moved(self, moved: Moved) -> None:
        self._world.note(f"coordinator {moved.task_id} {moved.state.value} {moved.key and moved.key.fence}")
        if moved.state is TaskState.LEASED and moved.key:
            self.counts["leases"] += 1
            self._granted(moved.task_id, moved.node_id)
        elif moved.episode and moved.key:
            if moved.episode.reason is Reason.LEASE_EXPIRED:
                self._expired(moved)
            if moved.episode.outcome is Outcome.HANDED_BACK and moved.episode.reason is Reason.LEASE_LOST:
                self._came_back_without(moved)
        self._one_live_lease()

    def _granted(self, task_id: str, node_id: str) -> None:
        """Nobody else computes it, unless he was suspended past his own deadline and could not notice."""
        now = self._world.loop.time()
        for (node, computed), count in self._computing.items():
            machine = self._world.machines[node]
            if count < 1 or computed != task_id or machine.node_id == node_id:
                continue
            keys = [key for key in machine.node.attempts if key.task_id == task_id]
            ends = max((self.deadlines.get((node, key), 0.0) for key in keys), default=0.0)
            slept = machine.owner.frozen or now - machine.owner.thawed_at < THAWED_S
            if now < ends or not slept:
                detail = f"{task_id} leased to {self._name(node_id)} while n{node} computes, its lease ends {ends:.3f}"
                self.violated("two compute at once", detail)

    def _expired(self, moved: Moved) -> None:
        """How long before this moment the node's own right to compute had ended."""
        now = self._world.loop.time()
        node = self._world.index_of(moved.node_id)
        ends = self.deadlines.get((node, moved.key)) if moved.key else None
        if ends is None or (machine := self._world.machines[node]).owner.frozen:
            return
        self.counts["expiries"] += 1
        self.margin_s = min(self.margin_s, now - ends)
        if now < ends + MARGIN_S:
            self.violated("lease outlived", f"n{node} may compute {moved.task_id} until {ends:.3f}")
        rested = self._rested.get((node, moved.task_id))
        if rested is not None and ends <= rested <= ends + THAWED_S and machine.owner.thawed_at < ends - THAWED_S:
            self.stop_margin_s = min(self.stop_margin_s, now - rested)

    def _came_back_without(self, moved: Moved) -> None:
        if moved.key in self._hellos.get(self.greeted, frozenset()):
            self.violated("forgotten in hello", f"n{self._world.index_of(moved.node_id)} still has {moved.key}")

    def _one_live_lease(self) -> None:
        book = self._world.authority.book
        live = sorted(it for it, task in book.tasks.items() if task.progress.state is TaskState.LEASED)
        held = sorted(task_id for node in book.nodes.values() for task_id in node.leases)
        if live != held:
            self.violated("one live lease", f"leased {live}, held {held}")

    def offered(self, node: int, pull: wire.Pull, offers: wire.Offers) -> None:
        """Never more than asked; fences rise and are never used twice."""
        if len(offers.offers) > sum(credit.count for credit in pull.credits):
            self.violated("credits", f"n{node} got {len(offers.offers)} offers for {pull.credits}")
        for signed in offers.offers:
            offer = _offers.decode(signed.payload)
            if offer.fence in self._fences or offer.fence <= self._offered.get(offer.task.task_id, 0):
                self.violated("fence", f"{offer.key} was offered with a fence that is not new")
            self._fences.add(offer.fence)
            self._offered[offer.task.task_id] = offer.fence

    # ------------------------------------------------------------------ the coordinator's disk

    def progressed(self, disk: StoreDisk, task_id: str, progress: Progress) -> None:
        before = self._ended.get(task_id)
        if before is not None and before is not progress.state:
            self.violated("ended twice", f"{task_id} was {before.value}, is {progress.state.value}")
        if progress.state in ENDED:
            self._ended[task_id] = progress.state

    def settlement(self, disk: StoreDisk, it: Settlement) -> None:
        lease = disk.progress[it.task_id].lease
        if it.idem_key in disk.settlements:
            self.violated("accepted twice", it.idem_key)
        if lease is None or it.receipt_body.fence != lease.key.fence:
            self.violated(
                "stale fence accepted", f"{it.idem_key} fence {it.receipt_body.fence}, now {lease and lease.key}"
            )
        if missing := self._provable(it.receipt_body):
            self.violated("accepted without a transcript", missing)
        if missing := self._whole(disk, it):
            self.violated("accepted without its artifact", missing)
        self.counts["settlements"] += 1

    def _whole(self, disk: StoreDisk, it: Settlement) -> str:
        """What a program left and is not there; empty when it is."""
        if not isinstance(disk.demands[it.task_id].spec.input, ExecInput) or not it.receipt_body.commitment_root:
            return ""
        if (blob := it.artifact) is None:
            return f"{it.idem_key} names none"
        content = disk.files.get(blob.sha256)
        if content is None or Blob(sha256=sha256_of(content), bytes=len(content)) != blob:
            return f"{it.idem_key}: {content and len(content)} bytes of {blob.bytes}"
        self.counts["artifacts"] += 1
        return ""

    def _provable(self, it: wire.ReceiptBody) -> str:
        """Why the transcript of an accepted result is not there; empty when it is, or its time is over."""
        node = self._world.index_of(it.node_id)
        key = LeaseKey(task_id=it.task_id, attempt=it.attempt, fence=it.fence)
        if not it.commitment_root:  # a failure that was told: nothing was computed that could be proven
            return ""
        if key in self._world.machines[node].disk.transcripts or (node, key) in self._swept:
            return ""
        return f"n{node} has no transcript of {it.idem_key}"

    def paid(self, disk: StoreDisk, line: LedgerLine) -> None:
        if any((old.task_id, old.kind) == (line.task_id, line.kind) for old in disk.ledger):
            self.violated("paid twice", line.task_id)

    # ------------------------------------------------------------------ the requester

    def acknowledged(self, task_id: str) -> None:
        self._asked.add(task_id)

    # ------------------------------------------------------------------ the nodes

    def hello(self, machine: Machine, nonce: str) -> None:
        """What it has at this moment, whatever it says."""
        stored = {row.key for row in machine.disk.rows.values() if row.idem_key in self._owed}
        self._hellos[nonce] = frozenset(machine.node.attempts) | stored

    def stored(self, node: int, row: OutboxRow) -> None:
        self._owed[row.idem_key] = node
        self.counts["stored"] += 1

    def kept(self, node: int, key: LeaseKey) -> None:
        """A transcript is on the disk."""
        self._due[node, key] = self._world.loop.time() + KEPT_S

    def swept(self, node: int, key: LeaseKey) -> None:
        """Not before its time."""
        now, due = self._world.loop.time(), self._due[node, key]
        self._swept.add((node, key))
        self.counts["swept"] += 1
        if self._world.machines[node].clock_is_wild:
            return
        self.proofs.swept(node, key)
        if now < due - SWEEP_SLACK_S:
            self.violated("transcript swept early", f"n{node} {key} {due - now:.0f} s before its time")

    def settled(self, node: int, row: OutboxRow, body: wire.ReceiptBody) -> None:
        """The receipt is for this result, says the truth, and what it says is on the coordinator's disk."""
        disk, name = self._world.authority.disk, f"n{node} {row.idem_key} {body.status.value}"
        self.counts[f"receipt {body.status.value}"] += 1
        self._world.note(f"{name} settled")
        if body.idem_key != row.idem_key:
            self.violated("wrong receipt", f"{name}: it is for {body.idem_key}")
        elif body.status in (ReceiptStatus.ACCEPTED, ReceiptStatus.DUPLICATE):
            if row.idem_key not in disk.settlements:
                self.violated("receipt not durable", name)
        elif body.status is ReceiptStatus.STALE:
            progress = disk.progress[row.key.task_id]
            later = progress.lease is not None and progress.lease.key.fence > row.key.fence
            if not later and progress.state not in ENDED:
                self.violated("stale without a reason", f"{name}: {body.detail}")
        else:
            self.violated("honest result refused", f"{name}: {body.detail}")

    def left(self, machine: Machine, took_s: float, longest_s: float, began: float) -> None:
        """A drained node ends in time, and what it had is on its disk, unless that was full."""
        name = f"n{machine.index}"
        self._world.note(f"{name} left after {took_s:.3f}")
        self.counts["left"] += 1
        slept = machine.owner.thawed_at >= began
        if took_s > longest_s and not slept:
            self.violated("drain does not end", f"{name} took {took_s:.1f} of {longest_s:.1f} s")
        known = machine.disk.rows.keys() | machine.disk.ledger.keys()
        left = [key for key, it in machine.node.attempts.items() if it.offer.idem_key not in known]
        busy_disk = machine.disk.full or machine.disk.faulted_at >= began or machine.disk.write_s > 1
        if left and not busy_disk and not slept:
            self.violated("drain loses work", f"{name} left {[str(key) for key in left]}")

    # ------------------------------------------------------------------ the end

    def at_the_end(self) -> None:
        """Everything is over: nothing is lost, and the books agree."""
        world, disk = self._world, self._world.authority.disk
        for task_id in sorted(self._asked):
            if task_id not in disk.progress or disk.progress[task_id].state not in ENDED:
                self.violated("task not closed", task_id)
        ledgers = {key: body for it in world.machines for key, body in it.disk.ledger.items()}
        for idem_key, node in sorted(self._owed.items()):
            if idem_key not in ledgers:
                self.violated("result lost", f"n{node} {idem_key} was stored and has no receipt")
        for it in disk.settlements.values():
            if missing := self._provable(it.receipt_body):
                self.violated("transcript lost", missing)
            if missing := self._whole(disk, it):
                self.violated("artifact lost", missing)
        self._books_agree(disk, ledgers)
        self.proofs.at_the_end(disk)

    def _books_agree(self, disk: StoreDisk, ledgers: dict[str, wire.ReceiptBody]) -> None:
        earnings = [line for line in disk.ledger if line.kind is LedgerKind.EARNED]
        paid = {line.idem_key: line.amount_micros for line in earnings if line.amount_micros}
        earned = {key: body.amount_micros for key, body in ledgers.items() if body.amount_micros}
        if paid != earned:
            differs = sorted(set(paid.items()) ^ set(earned.items()))
            self.violated("money", f"coordinator and nodes differ in {differs}")
        settled = sorted(it for it, progress in disk.progress.items() if progress.state is TaskState.SETTLED)
        if sorted(line.task_id for line in earnings) != settled:
            self.violated("money", f"settled {settled}, paid {sorted(line.task_id for line in earnings)}")

    def _name(self, node_id: str) -> str:
        return f"n{self._world.index_of(node_id)}"
