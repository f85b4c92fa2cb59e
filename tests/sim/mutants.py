"""Deliberately broken variants: an invariant that never fires proves nothing. Each must be caught by some seed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import msgspec

from agent.core import lease, wire
from agent.core.attempt import Event
from agent.core.challenges import ProofTotals
from agent.core.events import BeatAcked, Happened, OfferArrived
from agent.core.node import Node
from agent.devnet.core import leasing, presence, settling
from agent.devnet.core.effects import Decision, SaveLedgerLine
from agent.devnet.core.proofs import epochs, judging
from agent.devnet.core.records import LedgerKind, LedgerLine, TaskState
from agent.devnet.desk import Desk
from agent.devnet.sessions import Sessions
from agent.stages.deliver import Deliver
from agent.stages.drain import Drain
from agent.stages.execute import Execute
from agent.stages.herald import Herald
from agent.stages.opening import Opener
from agent.stages.prove import Prove
from agent.stages.uploads import Uploads
from tests.sim import authority, machine
from tests.sim.clock import SimClock
from tests.sim.disk import SimOutbox, SimProofs, SimTranscripts
from tests.sim.files import SimExhibits
from tests.sim.programs import SimArtifacts

Patch = tuple[Any, str, Any]


@contextmanager
def broken(*patches: Patch) -> Iterator[None]:
    """Put wrong parts in for a while."""
    with ExitStack() as stack:
        for place, name, value in patches:
            stack.callback(setattr, place, name, getattr(place, name))
            setattr(place, name, value)
        yield


def _accepts_any_fence(book: Any, node_id: str, delivered: Any) -> tuple[wire.ReceiptStatus, str]:
    status, detail = _judge(book, node_id, delivered)
    task = book.tasks.get(delivered.body.task_id)
    if status is wire.ReceiptStatus.STALE and task.progress.state in (TaskState.QUEUED, TaskState.LEASED):
        return wire.ReceiptStatus.ACCEPTED, ""
    return status, detail


_judge = settling._judge
_deliver = settling.deliver
_handle = Node.handle
_restore = authority.restore
_ask = Deliver._ask


async def _deletes_before_it_asks(self: Deliver, rows: Any) -> Any:
    for row in rows:
        self._outbox._disk.rows.pop(row.idem_key, None)  # type: ignore[attr-defined]
    return await _ask(self, rows)


class WallClock(SimClock):
    """Decides by the wall clock."""

    def monotonic(self) -> float:
        return self.wall()

    def virtual(self, monotonic: float) -> float:
        return monotonic - self.wall_offset


def _counts_from_the_answer(self: Node, event: Any, now: float) -> Any:
    if isinstance(event, BeatAcked | OfferArrived):
        event = msgspec.structs.replace(event, asked_at=now)
    return _handle(self, event, now)


def _started_from_the_answer(self: Execute, key: Any, started: Any) -> None:
    _started(self, key, started._replace(asked_at=self._clock.monotonic()))


_started = Execute._started


async def _does_not_ask(self: Execute, key: Any, answer: Any) -> None:
    self._spine.feed(Happened(key=key, event=Event.START_CONFIRMED))


def _believes_receipts(self: Deliver, receipt: Any, row: Any) -> wire.ReceiptBody:
    return msgspec.json.decode(receipt.payload, type=wire.ReceiptBody)


def _pays_again(book: Any, when: Any, node_id: str, message: Any, blob_bytes: Any) -> Decision[wire.Receipt]:
    decision = _deliver(book, when, node_id, message, blob_bytes)
    again = []
    for delivery, answer in zip(message.deliveries, decision.reply.answers, strict=True):
        if answer.signed is None:
            continue
        body = msgspec.json.decode(answer.signed.payload, type=wire.ReceiptBody)
        if body.status is wire.ReceiptStatus.DUPLICATE and body.amount_micros:
            again.append(SaveLedgerLine(line=_line(body, delivery, when.at)))
    return Decision(decision.reply, (*decision.writes, *again), decision.notices)


def _line(body: wire.ReceiptBody, delivery: wire.Delivery, at: int) -> LedgerLine:
    return LedgerLine(
        receipt_id=body.receipt_id,
        node_id=body.node_id,
        task_id=body.task_id,
        idem_key=body.idem_key,
        usage=msgspec.json.decode(delivery.signed.payload, type=wire.ResultBody).usage,
        amount_micros=body.amount_micros,
        currency=body.currency,
        at=at,
    )


async def _writes_later(self: SimOutbox, row: Any) -> None:
    self._truth.stored(self._node, row)

    async def later() -> None:
        await asyncio.sleep(3)
        self._disk.rows[row.idem_key] = row

    self._writing = asyncio.create_task(later())  # type: ignore[attr-defined]


async def _keeps_later(self: SimTranscripts, key: Any, transcript: bytes, until: float) -> None:
    async def later() -> None:
        await asyncio.sleep(3)
        await _keep(self, key, transcript, until)

    self._keeping = asyncio.create_task(later())  # type: ignore[attr-defined]


_keep = SimTranscripts.keep
_sweep = SimTranscripts.sweep


async def _sweeps_an_hour_ahead(self: SimTranscripts, now: float) -> int:
    return await _sweep(self, now + 3600)


async def _keeps_nothing(self: Prove, *_args: Any) -> None:
    return None


async def _replies_first(self: Desk, decision: Decision[Any]) -> Any:
    self.begin(decision)
    return decision.reply


def _forgets_fences(book: Any, when: Any, remembered: Any) -> None:
    _restore(book, when, remembered)
    book.fence = 0


def _renews_everything(book: Any, when: Any, node_id: str, keys: Any) -> Any:
    _renew_all(book, when, node_id, keys)
    return tuple(keys)


def _confirms_everything(book: Any, when: Any, node_id: str, keys: Any) -> Decision[wire.StartAck]:
    _start(book, when, node_id, keys)
    lease_ms = int(book.rules.lease_s * 1000)
    return Decision(wire.StartAck(leases=tuple(wire.Confirmed(key=key, ok=True, lease_ms=lease_ms) for key in keys)))


_renew_all = presence._renew_all
_start = leasing.start


def _restored_without_proofs(book: Any, when: Any, remembered: Any) -> None:
    _restore(book, when, msgspec.structs.replace(remembered, standings=(), judged=()))


def _restored_without_epoch(book: Any, when: Any, remembered: Any) -> None:
    _restore(book, when, remembered)
    book.docket.epoch = None
    book.docket.last_epoch -= bool(book.docket.last_epoch)


def _restored_without_open_cases(book: Any, when: Any, remembered: Any) -> None:
    _restore(book, when, msgspec.structs.replace(remembered, cases=()))


def _rewards_twice(self: Desk, decision: Decision[Any]) -> Any:
    lines = [it.line for it in decision.writes if isinstance(it, SaveLedgerLine) and it.line.kind is LedgerKind.VERDICT]
    again = (SaveLedgerLine(line=msgspec.structs.replace(it, idem_key=it.idem_key + "/again")) for it in lines)
    return _begin(self, Decision(decision.reply, (*decision.writes, *again), decision.notices))


def _books_no_slash(book: Any, body: Any, about: str, kind: LedgerKind, *more: Any) -> None:
    if kind is not LedgerKind.SLASHED:
        _enter(book, body, about, kind, *more)


_enter = judging._enter


async def _keeps_judgements_in_memory(self: SimProofs, judgement: Any, body: Any) -> Any:
    self._truth.proofs.heard(self._node, judgement, body)
    return ProofTotals(serial=body.serial)


async def _reads_and_forgets(self: SimArtifacts, key: Any) -> Any:
    raw = await _read(self, key)
    self.drop(key)
    return raw


async def _keeps_exhibits_later(self: SimExhibits, sha256: str, content: bytes) -> None:
    async def later() -> None:
        await asyncio.sleep(3)
        self._disk.exhibits[sha256] = content

    self._keeping = asyncio.create_task(later())  # type: ignore[attr-defined]


_begin = Desk.begin
_read = SimArtifacts.read


def _nothing(*_args: Any, **_more: Any) -> None:
    return None


def _nothing_to_do(*_args: Any, **_more: Any) -> list[Any]:
    return []


def _always(value: Any) -> Callable[..., Any]:
    return lambda *_args, **_more: value


MUTANTS: dict[str, tuple[Patch, ...]] = {
    "the coordinator ignores the fence of a result": ((settling, "_judge", _accepts_any_fence),),
    "the outbox row is deleted before the receipt": ((Deliver, "_ask", _deletes_before_it_asks),),
    "leases expire by the wall clock": ((machine, "SimClock", WallClock),),
    "a lease counts from the answer": (
        (Node, "handle", _counts_from_the_answer),
        (Execute, "_started", _started_from_the_answer),
    ),
    "no margin": ((lease, "margin_s", _always(0.0)),),
    "a start is not confirmed": ((Execute, "_ask_start", _does_not_ask),),
    "lost leases are confirmed and renewed": (
        (presence, "_renew_all", _renews_everything),
        (leasing, "start", _confirms_everything),
    ),
    "busy slots are not counted": ((Node, "busy", _always(0)),),
    "a receipt is believed whatever it is for": ((Deliver, "_verified", _believes_receipts),),
    "a duplicate is paid again": ((settling, "deliver", _pays_again),),
    "the outbox acknowledges before it writes": ((SimOutbox, "put", _writes_later),),
    "a result is released without its transcript": ((Prove, "_keep", _keeps_nothing),),
    "a transcript is acknowledged before it is written": ((SimTranscripts, "keep", _keeps_later),),
    "a transcript is kept for no time": ((machine, "RETENTION_S", 0.0),),
    "a sweep takes what is still due": ((SimTranscripts, "sweep", _sweeps_an_hour_ahead),),
    "hello forgets what is unsent": ((Herald, "_owed", _always(())),),
    "a drain does not wait for what runs": ((Drain, "_is_durable", _always(True)),),
    "the coordinator replies before it writes": ((Desk, "carry_out", _replies_first),),
    "a node does not watch its leases": ((Node, "_tick", _nothing_to_do),),
    "an overtaken hello counts": ((Sessions, "greeted", _nothing),),
    "an old goodbye counts": ((Sessions, "newest", _always(True)),),
    "fences start again after a restart": ((authority, "restore", _forgets_fences),),
    "stopped work goes on": ((Execute, "_stop", _nothing),),
    "challenges are pushed and not told again": ((presence, "challenges_for", _always(())),),
    "openings are not answered": ((Opener, "take", _nothing),),
    "what nobody drew is challenged": ((epochs, "is_drawn", _always(True)),),
    "the coordinator forgets judgements": ((authority, "restore", _restored_without_proofs),),
    "the coordinator forgets its secret": ((authority, "restore", _restored_without_epoch),),
    "the coordinator forgets open cases": ((authority, "restore", _restored_without_open_cases),),
    "what is slashed is not booked": ((judging, "_enter", _books_no_slash),),
    "a verdict is rewarded twice": ((Desk, "begin", _rewards_twice),),
    "a node keeps judgements in memory": ((SimProofs, "keep", _keeps_judgements_in_memory),),
    "an opening is acknowledged before it is written": ((SimExhibits, "_keep", _keeps_exhibits_later),),
    "an artifact goes as soon as it was read": ((SimArtifacts, "read", _reads_and_forgets),),
    "an artifact is never dropped": ((SimArtifacts, "drop", _nothing),),
    "a result goes without its artifact": ((Uploads, "needs", _always(False)),),
}
"""What is wrong, and how it is made wrong."""
