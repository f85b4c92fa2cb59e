"""Report: put every outcome durably into the outbox, from where it is delivered; give unstarted offers back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import structlog

from agent.core import events as ev
from agent.core import wire
from agent.core.attempt import Event
from agent.core.errors import ConflictError, LinkError, StorageError
from agent.core.model import Outcome, Reason, Timings, Usage
from agent.core.proof.signed import seal_all
from agent.ports import Identity, Outbox, OutboxRow
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
        self, spine: Spine, caller: Caller, identity: Identity, outbox: Outbox, storage: StorageGate, deliver: Deliver
    ) -> None:
        self._spine = spine
        self._caller = caller
        self._identity = identity
        self._outbox = outbox
        self._storage = storage
        self._deliver = deliver
        self._mailbox = spine.mailbox(ev.StoreResult, ev.ReturnOffer, ev.DeliverNow)
        self._log = structlog.get_logger("report")

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
                self._deliver.abandon(row.key)
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
