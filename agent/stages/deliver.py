"""Deliver: what is finished goes to the coordinator, many outcomes in one message, until each has its receipt."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec
import structlog

from agent.core import events as ev
from agent.core import wire
from agent.core.attempt import Event
from agent.core.errors import LinkError, LinkFault, ProofError, StorageError
from agent.core.model import LeaseKey, Reason, Signed
from agent.core.proof.beacon import known_at
from agent.core.proof.signed import open_signed
from agent.core.text import plain
from agent.core.watchdog import Pulse
from agent.ports import Artifacts, Identity, Outbox, OutboxRow
from agent.stages.calls import Caller
from agent.stages.spine import Spine
from agent.stages.storage import RETRY_S, StorageGate
from agent.stages.uploads import Uploads, sha256, too_large_inline

BATCH = 32
"""Outcomes in one message. One message is under way at a time: what ends meanwhile makes up the next."""
MESSAGE_BYTES = wire.MAX_MESSAGE_BYTES - (64 << 10)
FRESH_MAX = 64
"""Results that need not be read back from the outbox. At most 128 KiB of output each stays in memory."""
IDLE_TURN_S = 30.0
BACKLOG_MAX = 1_000
"""A hello names every unsent lease in about 90 bytes: far below a frame of 1 MiB."""
FINAL = frozenset({wire.RefusalCode.TOO_LARGE, wire.RefusalCode.BAD_MESSAGE})
"""Refusals of a result that say: this will never be taken."""
REFUSED_RETRY_S = 3600.0
"""Another version of the coordinator may take it."""
_CLOCKS = (
    "By this machine's clock the round of drand that draws it was public before the result was sent: whoever chose it "
    "knew what it draws. Set the clock; if it was right, tell the coordinator's operator."
)
PAYING = (wire.ReceiptStatus.ACCEPTED, wire.ReceiptStatus.DUPLICATE)


class Retry(NamedTuple):
    """When a row that failed is tried again."""

    failures: int
    due_at: float


NOT_TRIED = Retry(0, 0.0)
_receipts = msgspec.json.Decoder(wire.ReceiptBody)


class Deliver:
    """Owns what is finished, durable, and not yet receipted."""

    def __init__(
        self,
        spine: Spine,
        caller: Caller,
        identity: Identity,
        outbox: Outbox,
        pulse: Pulse,
        storage: StorageGate,
        artifacts: Artifacts | None = None,
    ) -> None:
        """`artifacts`: where what programs leave is kept; None where none run."""
        self._spine = spine
        self._caller = caller
        self._identity = identity
        self._outbox = outbox
        self._pulse = pulse
        self._storage = storage
        self._artifacts = artifacts
        self._uploads = Uploads(caller.link, artifacts)
        self._news = asyncio.Event()
        self._fresh: dict[str, OutboxRow] = {}
        self._away: set[str] = set()
        """Under way: in a message, in an upload, or on the way into the ledger."""
        self._queued: set[str] = set()
        """Wait for room to go up; small ones pass them by."""
        self._retries: dict[str, Retry] = {}
        self._log = structlog.get_logger("report")
        self.unsent: dict[str, LeaseKey] = {}
        """What the outbox holds, by idempotency key."""
        self.earned_micros = 0
        self.currency = ""

    async def recall(self) -> Mapping[str, LeaseKey]:
        """Read what an earlier life of this agent still has to deliver; returns `unsent`, which stays current."""
        self.unsent.update(await self._outbox.unsent())
        if self._artifacts is not None:
            self._artifacts.retain(self.unsent.values())
        return self.unsent

    def take(self, row: OutboxRow) -> None:
        """A row that is durable now."""
        self.unsent[row.idem_key] = row.key
        if len(self._fresh) < FRESH_MAX and not too_large_inline(row):
            self._fresh[row.idem_key] = row
        self._gate_backlog()
        self._news.set()

    def abandon(self, key: LeaseKey) -> None:
        """A result of this attempt is given up: what it made goes with it, unless another result of it waits."""
        if self._artifacts is not None and key not in self.unsent.values():
            self._artifacts.drop(key)

    def hurry(self) -> None:
        """A session is open: what waits for a retry need wait no longer."""
        self._retries.clear()
        self._news.set()

    async def run(self) -> None:
        """Run until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                now = self._spine.clock.monotonic()
                self._pulse.beat("report", now)
                self._news.clear()  # before the look: what comes during it is not missed
                try:
                    rows = await self._due(now)
                except StorageError as error:
                    self._log.error("outbox.unreadable", detail=str(error))
                    await self._spine.clock.sleep(RETRY_S)
                    continue
                large = [row for row in rows if self._uploads.needs(row)]
                for row in large:
                    self._begin_upload(row, group)
                if batch := _one_message([row for row in rows if not self._uploads.needs(row)]):
                    await self._send(batch, group)
                elif not large:  # else there may be small ones behind those that have to go up first
                    await self._wait_for_news(self._next_due(now) - now)

    # ------------------------------------------------------------------ what is next

    async def _due(self, now: float) -> Sequence[OutboxRow]:
        """Rows to deliver now: from memory while nothing older waits in the outbox. Raises StorageError."""
        resting = {idem_key for idem_key, retry in self._retries.items() if retry.due_at > now}
        skip = resting | self._away | self._queued
        owed = self.unsent.keys() - skip
        if owed <= self._fresh.keys():
            return [row for idem_key, row in self._fresh.items() if idem_key in owed][:BATCH]
        rows = await self._outbox.pending(BATCH, skip)
        if not rows:
            self._gone(owed - self._fresh.keys())
        return rows

    def _gone(self, idem_keys: set[str]) -> None:
        """Results that the outbox lost with a damaged file: their leases are given up, so that the tasks are redone."""
        for idem_key in idem_keys:
            key = self.unsent.pop(idem_key)
            self._forget(idem_key)
            self.abandon(key)
            self._log.error("result.lost", task=key.task_id, detail="the outbox does not hold it any more")
            self._spine.feed(ev.Happened(key=key, event=Event.UNDELIVERABLE))
        self._gate_backlog()

    def _next_due(self, now: float) -> float:
        return min([now + IDLE_TURN_S, *(retry.due_at for retry in self._retries.values() if retry.due_at > now)])

    async def _wait_for_news(self, limit_s: float) -> None:
        """New rows and a new session end the wait; the limit shows life to the watchdog."""
        waits = {asyncio.ensure_future(self._news.wait()), asyncio.ensure_future(self._spine.clock.sleep(limit_s))}
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    # ------------------------------------------------------------------ one message

    def _begin_upload(self, row: OutboxRow, group: asyncio.TaskGroup) -> None:
        if self._uploads.begin():
            self._away.add(row.idem_key)
            group.create_task(self._upload(row), name=f"upload {row.key.task_id}")
        else:
            self._queued.add(row.idem_key)

    async def _upload(self, row: OutboxRow) -> None:
        try:
            await self._uploads.send(row)
        except LinkError as error:
            self._failed(row, error)
        except StorageError as error:  # what it read may be readable again: the result is worth another try
            self._failed(row, LinkError(LinkFault.BROKEN, str(error)))
        self._away.discard(row.idem_key)
        self._queued.clear()
        self._news.set()

    async def _send(self, rows: Sequence[OutboxRow], group: asyncio.TaskGroup) -> None:
        """Deliver, and write down the receipts while the next message goes."""
        self._away.update(row.idem_key for row in rows)
        sent_at = self._spine.clock.wall()
        try:
            answers = await self._ask(rows)
        except LinkError as error:
            if error.code in FINAL and len(rows) > 1:  # one of them spoils the message: each goes alone
                for row in rows:
                    await self._send([row], group)
                return
            for row in rows:
                self._failed(row, error)
            self._away.difference_update(row.idem_key for row in rows)
            return
        for row in rows:
            self._fresh.pop(row.idem_key, None)
        group.create_task(self._close(rows, answers, sent_at), name="settle")

    async def _ask(self, rows: Sequence[OutboxRow]) -> Sequence[wire.Answer]:
        deliveries = tuple(self._uploads.delivery(row) for row in rows)
        reply = await self._caller.ask(wire.Result(deliveries=deliveries), wire.Receipt)
        if len(reply.answers) != len(rows):
            raise LinkError(LinkFault.BROKEN, f"{len(rows)} results, {len(reply.answers)} answers: not the protocol")
        return reply.answers

    async def _close(self, rows: Sequence[OutboxRow], answers: Sequence[wire.Answer], sent_at: float) -> None:
        """Each row by itself: one that is refused for ever never holds up the others."""
        faults = await asyncio.gather(*(self._settle(*one, sent_at) for one in zip(rows, answers, strict=True)))
        for row, fault in zip(rows, faults, strict=True):
            self._away.discard(row.idem_key)
            if fault is not None:
                self._failed(row, fault)
        if any(faults):
            self._news.set()

    async def _settle(self, row: OutboxRow, answer: wire.Answer, sent_at: float) -> LinkError | None:
        try:
            receipt = self._receipt_in(answer, row)
            body = self._verified(receipt, row)
            await self._outbox.settle(row, receipt, body)
        except LinkError as error:
            return error
        except ProofError as error:
            self._log.error("receipt.refused", task=row.key.task_id, check=error.check, detail=error.message)
            return LinkError(LinkFault.BROKEN, f"a receipt that does not verify: {error.message}")
        except StorageError as error:
            self._storage.shut(row.key, error)
            return LinkError(LinkFault.BROKEN, f"the receipt could not be kept: {error.message}")
        self._storage.works(row.key)
        self._settled(row, body)
        if body.status is wire.ReceiptStatus.ACCEPTED and body.beacon and known_at(body.beacon, sent_at):
            self._log.error("receipt.beacon_known", task=row.key.task_id, round=body.beacon.round, remedy=_CLOCKS)
        return None

    def _receipt_in(self, answer: wire.Answer, row: OutboxRow) -> Signed:
        if answer.signed is not None:
            return answer.signed
        refusal = answer.refusal or wire.Refusal(code=wire.RefusalCode.INTERNAL, message="an empty answer")
        if refusal.code is wire.RefusalCode.NOT_FOUND:
            self._uploads.forget(row.idem_key)
        message = f"the coordinator refused: {plain(refusal.message, 300) or refusal.code.value}"
        raise LinkError(LinkFault.REFUSED, message, code=refusal.code, retry_after_s=refusal.retry_after_s)

    def _verified(self, receipt: Signed, row: OutboxRow) -> wire.ReceiptBody:
        payload = open_signed(wire.Role.RECEIPT, receipt, self._identity.coordinator_key, self._identity.verify)
        try:
            body = _receipts.decode(payload)
        except msgspec.MsgspecError as error:
            raise ProofError("receipt", f"the receipt cannot be read: {error}") from error
        told = (body.idem_key, body.node_id, LeaseKey(task_id=body.task_id, attempt=body.attempt, fence=body.fence))
        if told != (row.idem_key, self._identity.node_id, row.key):
            raise ProofError("same_attempt", "the receipt is for another result")
        if body.status in PAYING and body.result_sha256 != sha256(row.result.payload):
            raise ProofError("result_sha256", "the receipt is for other bytes than the result that was sent")
        return body

    def _settled(self, row: OutboxRow, body: wire.ReceiptBody) -> None:
        self.unsent.pop(row.idem_key, None)
        self._forget(row.idem_key)
        if self._artifacts is not None:
            self._artifacts.drop(row.key)
        self._gate_backlog()
        self.earned_micros += body.amount_micros
        self.currency = body.currency or self.currency
        self._log.info(
            "result.receipted",
            task=row.key.task_id,
            attempt=row.key.attempt,
            status=body.status.value,
            receipt=body.receipt_id,
            amount_micros=body.amount_micros,
            detail=body.detail or None,
        )
        self._spine.feed(ev.Happened(key=row.key, event=Event.RECEIPTED))

    def _failed(self, row: OutboxRow, fault: LinkError) -> None:
        """Each row has its own backoff."""
        self._fresh.pop(row.idem_key, None)
        failures = self._retries.get(row.idem_key, NOT_TRIED).failures + 1
        wait_s = self._caller.pause_s(failures - 1, fault)
        if fault.code in FINAL:  # kept, but its lease is not worth holding, and asking again soon changes nothing
            wait_s = REFUSED_RETRY_S
            self._spine.feed(ev.Happened(key=row.key, event=Event.UNDELIVERABLE))
        self._retries[row.idem_key] = Retry(failures, self._spine.clock.monotonic() + wait_s)
        self._log.warning(
            "result.undelivered",
            task=row.key.task_id,
            failures=failures,
            retry_s=round(wait_s, 1),
            detail=fault.message,
        )

    def _forget(self, idem_key: str) -> None:
        self._retries.pop(idem_key, None)
        self._fresh.pop(idem_key, None)
        self._uploads.forget(idem_key)

    def _gate_backlog(self) -> None:
        """Computing on while nothing is receipted would grow the outbox, and each hello, without end."""
        reason, shut = Reason.OUTBOX_BACKLOG, len(self.unsent) >= BACKLOG_MAX
        if shut != self._spine.node.is_shut(reason):
            detail = f"{BACKLOG_MAX} or more finished results wait for a receipt"
            self._spine.feed(ev.GateChanged(reason=reason, shut=shut, detail=detail))


def _one_message(rows: Sequence[OutboxRow]) -> Sequence[OutboxRow]:
    """As many of the first rows as surely fit one frame; one always."""
    room = MESSAGE_BYTES
    for count, row in enumerate(rows):
        room -= _bytes_at_most(row)
        if room < 0:
            return rows[: max(count, 1)]
    return rows


def _bytes_at_most(row: OutboxRow) -> int:
    """On the wire: JSON may escape a byte into six, and the signed JSON within JSON has its quotes escaped."""
    output = 0 if row.output is None or too_large_inline(row) else 6 * len(row.output.encode())
    return output + 2 * len(row.result.payload.encode()) + (2 << 10)
