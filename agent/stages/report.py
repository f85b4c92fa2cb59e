"""Report: put every outcome durably into the outbox, from where it is delivered; give unstarted offers back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import structlog

from agent.core import events as ev
from agent.core import wire
<<<<<<< ours
from agent.core.attempt import Event
from agent.core.errors import ConflictError, LinkError, StorageError
from agent.core.model import Outcome, Reason, Timings, Usage
from agent.core.proof.signed import seal_all
from agent.ports import Identity, Outbox, OutboxRow
=======
from agent.core.attempt import Attempt, Event
from agent.core.errors import ConflictError, LinkError, LinkFault, ProofError, StorageError
from agent.core.model import LeaseKey, Outcome, Reason, Signed, Timings, Usage
from agent.core.proof.signed import open_signed, seal
from agent.core.watchdog import Pulse
from agent.ports import Artifacts, Identity, Outbox, OutboxRow
>>>>>>> theirs
from agent.stages.calls import Caller
from agent.stages.deliver import Deliver
from agent.stages.product import Sealed
from agent.stages.spine import Spine
from agent.stages.storage import StorageGate

TOGETHER = 64
"""Results that share one signature."""
RETURN_TRIES = 3


class Report:
    """Signs and stores what is finished."""

    def __init__(
<<<<<<< ours
        self, spine: Spine, caller: Caller, identity: Identity, outbox: Outbox, storage: StorageGate, deliver: Deliver
=======
        self,
        spine: Spine,
        caller: Caller,
        identity: Identity,
        outbox: Outbox,
        pulse: Pulse,
        storage: StorageGate,
        artifacts: Artifacts | None = None,
>>>>>>> theirs
    ) -> None:
        """`artifacts`: where what programs leave is kept; None where none run."""
        self._spine = spine
        self._caller = caller
        self._identity = identity
        self._outbox = outbox
        self._storage = storage
<<<<<<< ours
        self._deliver = deliver
=======
        self._artifacts = artifacts
>>>>>>> theirs
        self._mailbox = spine.mailbox(ev.StoreResult, ev.ReturnOffer, ev.DeliverNow)
        self._log = structlog.get_logger("report")
<<<<<<< ours
=======
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
>>>>>>> theirs

    async def run(self) -> None:
        """Run until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                commands = [await self._mailbox.get(), *self._waiting()]
                if ended := [command for command in commands if isinstance(command, ev.StoreResult)]:
                    for row in self._rows(ended):
                        group.create_task(self._store(row), name=f"store {row.key.task_id}")
                for command in commands:
                    match command:
                        case ev.DeliverNow():
                            self._deliver.hurry()
                        case ev.ReturnOffer():
                            group.create_task(self._return(command), name=f"return {command.key.task_id}")

    def _waiting(self) -> Iterator[Any]:
        """What else came meanwhile: it is signed together."""
        for _ in range(min(self._mailbox.qsize(), TOGETHER - 1)):
            yield self._mailbox.get_nowait()

    # ------------------------------------------------------------------ into the outbox

    async def _store(self, row: OutboxRow) -> None:
        while True:
            try:
                await self._outbox.put(row)
            except ConflictError as error:  # one attempt given out twice; the first result stands
                self._log.error("result.conflicts", task=row.key.task_id, detail=str(error))
                self._storage.works(row.key)
                self._spine.feed(ev.Happened(key=row.key, event=Event.UNDELIVERABLE))
                return
            except StorageError as error:  # kept in memory and tried again; no new work comes in meanwhile
                await self._storage.fails(row.key, error)
                continue
            break
        self._storage.works(row.key)
        self._deliver.take(row)
        self._spine.feed(ev.Happened(key=row.key, event=Event.STORED))

    def _rows(self, ended: Sequence[ev.StoreResult]) -> list[OutboxRow]:
        bodies = [wire.encode(self._body(command)) for command in ended]
        sealed = seal_all(wire.Role.RESULT, bodies, self._identity.public_key, self._identity.sign)
        return [
            OutboxRow(
                key=command.attempt.key,
                idem_key=command.attempt.offer.idem_key,
                offer=command.attempt.signed,
                result=result,
                output=command.sealed.output if command.sealed else None,
            )
            for command, result in zip(ended, sealed, strict=True)
        ]

    def _body(self, command: ev.StoreResult) -> wire.ResultBody:
        attempt = command.attempt
        sealed: Sealed | None = command.sealed
        return wire.ResultBody(
            node_id=self._identity.node_id,
            task_id=attempt.key.task_id,
            attempt=attempt.key.attempt,
            fence=attempt.key.fence,
            idem_key=attempt.offer.idem_key,
            outcome=attempt.outcome or Outcome.FAILED,
            reason=attempt.reason or Reason.INTERNAL,
            detail=attempt.detail[:1000],
            output_sha256=sealed.output_sha256 if sealed else "",
            output_bytes=len(sealed.output.encode()) if sealed else 0,
            usage=sealed.usage if sealed else Usage(),
            timings=sealed.timings if sealed else Timings(),
            commitment=sealed.commitment if sealed else None,
            artifact=sealed.artifact if sealed else None,
        )
<<<<<<< ours
=======
        signed = seal(wire.Role.RESULT, wire.encode(body), self._identity.public_key, self._identity.sign)
        return OutboxRow(
            key=attempt.key,
            idem_key=attempt.offer.idem_key,
            offer=attempt.signed,
            result=signed,
            output=sealed.output if sealed else None,
        )

    # ------------------------------------------------------------------ out of the outbox

    async def _deliver(self) -> None:
        while True:
            now = self._spine.clock.monotonic()
            self._pulse.beat("report", now)
            resting = {idem_key: retry.due_at for idem_key, retry in self._retries.items() if retry.due_at > now}
            self._news.clear()  # before the look: what comes during it is not missed
            owed = set(self.unsent)
            try:
                rows = await self._outbox.pending(BATCH, resting)
            except StorageError as error:
                self._log.error("outbox.unreadable", detail=str(error))
                await self._spine.clock.sleep(RETRY_S)
                continue
            if rows:
                await asyncio.gather(*map(self._try, rows))
            else:
                self._gone(owed - resting.keys())
                await self._wait_for_news(min([now + IDLE_TURN_S, *resting.values()]) - now)

    def _gone(self, idem_keys: Collection[str]) -> None:
        """Results that the outbox lost with a damaged file: their leases are given up, so that the tasks are redone."""
        for idem_key in idem_keys:
            key = self.unsent.pop(idem_key)
            self._retries.pop(idem_key, None)
            self._log.error("result.lost", task=key.task_id, detail="the outbox does not hold it any more")
            self._spine.feed(ev.Happened(key=key, event=Event.UNDELIVERABLE))
        self._gate_backlog()

    async def _wait_for_news(self, limit_s: float) -> None:
        """New rows and a new session end the wait; the limit shows life to the watchdog."""
        waits = {asyncio.ensure_future(self._news.wait()), asyncio.ensure_future(self._spine.clock.sleep(limit_s))}
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _try(self, row: OutboxRow) -> None:
        """Each row has its own backoff: one that is refused for ever never holds up the others."""
        fault = await self._deliver_one(row)
        if fault is None:
            self._retries.pop(row.idem_key, None)
            return
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

    async def _deliver_one(self, row: OutboxRow) -> LinkError | None:
        """Returns the fault instead of raising it, so that one refused row never holds up the others."""
        try:
            receipt = await self._ask_receipt(row)
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
        return None

    async def _ask_receipt(self, row: OutboxRow) -> Signed:
        output, blob = row.output, None
        if output is not None and len(raw := output.encode()) > wire.MAX_INLINE_OUTPUT_BYTES:
            blob, output = hashlib.sha256(raw).hexdigest(), None
            await self._caller.link.put_blob(blob, raw)
        artifact = await self._send_artifact(row.key)
        result = wire.Result(signed=row.result, output=output, blob=blob, artifact=artifact)
        return (await self._caller.ask(result, wire.Receipt)).signed

    async def _send_artifact(self, key: LeaseKey) -> str | None:
        """Its digest, once the coordinator has it. One that was lost is not held up: the result is rejected for it, and
        the task is done again."""
        if self._artifacts is None or (blob := self._artifacts.of(key)) is None:
            return None
        try:
            await self._caller.link.put_blob(blob.sha256, await self._artifacts.read(key))
        except StorageError as error:
            self._log.error("artifact.lost", task=key.task_id, detail=str(error))
            return None
        return blob.sha256

    def _verified(self, receipt: Signed, row: OutboxRow) -> wire.ReceiptBody:
        payload = open_signed(wire.Role.RECEIPT, receipt, self._identity.coordinator_key, self._identity.verify)
        try:
            body = _receipts.decode(payload)
        except msgspec.MsgspecError as error:
            raise ProofError("receipt", f"the receipt cannot be read: {error}") from error
        told = (body.idem_key, body.node_id, LeaseKey(task_id=body.task_id, attempt=body.attempt, fence=body.fence))
        if told != (row.idem_key, self._identity.node_id, row.key):
            raise ProofError("same_attempt", "the receipt is for another result")
        if body.status in PAYING and body.result_sha256 != _sha256(row.result.payload):
            raise ProofError("result_sha256", "the receipt is for other bytes than the result that was sent")
        return body

    def _settled(self, row: OutboxRow, body: wire.ReceiptBody) -> None:
        self.unsent.pop(row.idem_key, None)
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

    def _gate_backlog(self) -> None:
        """Computing on while nothing is receipted would grow the outbox, and each hello, without end."""
        reason, shut = Reason.OUTBOX_BACKLOG, len(self.unsent) >= BACKLOG_MAX
        if shut != self._spine.node.is_shut(reason):
            detail = f"{BACKLOG_MAX} or more finished results wait for a receipt"
            self._spine.feed(ev.GateChanged(reason=reason, shut=shut, detail=detail))
>>>>>>> theirs

    # ------------------------------------------------------------------ offers that were not started

    async def _return(self, command: ev.ReturnOffer) -> None:
        """Best effort: a decline that is lost costs the coordinator the unstarted lease's short time."""
        self._log.info(
            "offer.declined", task=command.key.task_id, reason=command.reason.value, detail=command.detail or None
        )
        decline = wire.Decline(key=command.key, reason=command.reason, detail=command.detail[:1000])
        for tries in range(RETURN_TRIES):
            try:
                await self._caller.ask(decline, wire.Ack)
            except LinkError as error:
                await self._caller.back_off(tries, error, cap_s=4.0)
            else:
                return
