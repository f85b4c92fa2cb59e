"""Execute: confirm the lease, wait for the engine, generate; one asyncio task for what an attempt does now."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from agent.core import events as ev
from agent.core import lease, wire
from agent.core.attempt import Event
from agent.core.errors import EngineError, LinkError
from agent.core.model import ExecInput, LeaseKey, Reason, TaskKind, VerifyInput
from agent.ports import Clock, EnginePool
from agent.stages.calls import Caller, passes
from agent.stages.containment import contained
from agent.stages.execution import Execution
from agent.stages.generation import Generation
from agent.stages.spine import Spine
from agent.stages.stream import Stream
from agent.stages.supply import Supply
from agent.stages.together import Together
from agent.stages.validate import UnfitError, Validate

STAGING_LIMIT_S = 60.0
"""An engine that is not back by then fails the attempt, so that another node can have the task."""
CONFIRM_CAP_S = 4.0
"""Retries of a start are quick: the lease is short and nothing runs yet."""


_SUPPLIED = {TaskKind.EXEC, TaskKind.VERIFY}
"""Kinds of task that need more than the engine before they run."""


class Started(NamedTuple):
    """What the coordinator said of one start."""

    lease: wire.Confirmed | None
    """None: nothing."""
    asked_at: float
    """Monotonic time at which it was asked."""


class Execute:
    """Owns the asyncio task of every attempt that works."""

    def __init__(
        self,
        spine: Spine,
        caller: Caller,
        pools: Mapping[str, EnginePool],
        stream: Stream,
        *,
        top_logprobs: int,
        supply: Supply | None = None,
        validate: Validate | None = None,
    ) -> None:
        """`supply`: what programs need before they run; `validate`: checks what others claim. None where not done."""
        self._spine = spine
        self._caller = caller
        self._pools = pools
        self._stream = stream
        self._top_logprobs = top_logprobs
        self._supply = supply
        self._validate = validate
        self._supplied = frozenset(name for name, pool in pools.items() if _SUPPLIED & set(pool.facts.kinds))
        self._working: dict[LeaseKey, asyncio.Task[None]] = {}
        self._starts = Together(self._send_starts)
        self._mailbox = spine.mailbox(ev.ConfirmStart, ev.Stage, ev.Generate, ev.StopWork)
        self.tokens: dict[LeaseKey, int] = {}
        """Tokens so far of every running attempt, for status."""

    async def run(self) -> None:
        """Run until cancelled; then every engine stream is closed before this returns."""
        async with contextlib.aclosing(self._starts), asyncio.TaskGroup() as group:
            while True:
                command = await self._mailbox.get()
                match command:
                    case ev.StopWork(key=key):
                        self._stop(key)
                    case ev.ConfirmStart():
                        self._begin(group, command.key, partial(self._confirm, command))
                    case ev.Stage() if command.pool in self._supplied:
                        self._begin(group, command.key, partial(self._stage, command))
                    case ev.Stage() if self._pools[command.pool].facts.ready:  # nearly always: no task to wait in
                        self._happened(command.key, Event.STAGED)
                    case ev.Stage():
                        self._begin(group, command.key, partial(self._stage, command))
                    case ev.Generate():
                        self._begin(group, command.key, partial(self._generate, command))

    def _begin(self, group: asyncio.TaskGroup, key: LeaseKey, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        task = group.create_task(contained(self._spine, key, work), name=f"attempt {key.task_id}")
        self._working[key] = task
        task.add_done_callback(lambda done: self._ended(key, done))

    def _ended(self, key: LeaseKey, task: asyncio.Task[None]) -> None:
        if self._working.get(key) is task:
            del self._working[key]

    def _stop(self, key: LeaseKey) -> None:
        if (task := self._working.pop(key, None)) is not None:
            task.cancel()
        if self._validate is not None:
            self._validate.drop(key)

    def _fail(self, key: LeaseKey, reason: Reason, detail: str) -> None:
        self._spine.feed(ev.Happened(key=key, event=Event.FAILED, reason=reason, detail=detail))

    # ------------------------------------------------------------------ LEASED

    async def _confirm(self, command: ev.ConfirmStart) -> None:
        """The coordinator is asked while we look closer: neither waits for the other. What is unfit goes back."""
        answer = self._starts.ask(command.key)
        try:
            if not isinstance(command.offer.task.input, VerifyInput):  # whose evidence nobody has seen yet
                await self._pools[command.pool].check(command.offer.task)
        except EngineError as error:
            self._happened(command.key, Event.UNFIT, reason=error.reason, detail=str(error))
            return
        await self._ask_start(command.key, answer)

    async def _ask_start(self, key: LeaseKey, answer: Awaitable[Started]) -> None:
        failures = 0
        while True:  # the lease's own deadline ends this: the core then stops the work
            try:
                started = await answer
            except LinkError as error:
                if not passes(error):
                    self._happened(key, Event.START_REFUSED, detail=error.message)
                    return
                await self._caller.back_off(failures, error, cap_s=CONFIRM_CAP_S)
                failures += 1
                answer = self._starts.ask(key)
                continue
            self._started(key, started)
            return

    async def _send_starts(self, keys: Sequence[LeaseKey]) -> Sequence[Started]:
        """One message for all attempts that are about to start. Raises LinkError."""
        asked_at = self._clock.monotonic()
        ack = await self._caller.ask(wire.Start(keys=tuple(keys)), wire.StartAck)
        told = {confirmed.key: confirmed for confirmed in ack.leases}
        return [Started(told.get(key), asked_at) for key in keys]

    def _started(self, key: LeaseKey, started: Started) -> None:
        lease_ = started.lease
        if lease_ is not None and lease_.ok:
            deadline = lease.local_deadline(started.asked_at, lease_.lease_ms / 1000)
            self._happened(key, Event.START_CONFIRMED, lease_deadline=deadline)
        else:
            self._happened(key, Event.START_REFUSED, detail=(lease_ and lease_.detail) or "the lease no longer stands")

    # ------------------------------------------------------------------ STAGING

    async def _stage(self, command: ev.Stage) -> None:
        try:
            async with asyncio.timeout(STAGING_LIMIT_S):
                while not self._pools[command.pool].facts.ready:
                    await self._spine.changed()
        except TimeoutError:
            detail = self._pools[command.pool].facts.detail
            self._fail(command.key, Reason.ENGINE_UNAVAILABLE, f"not ready within {STAGING_LIMIT_S:.0f} s: {detail}")
            return
        try:
            await self._bring(command)
        except UnfitError as unfit:
            self._happened(command.key, Event.HAND_BACK_ASKED, reason=unfit.reason, detail=unfit.detail)
        else:
            self._happened(command.key, Event.STAGED)

    async def _bring(self, command: ev.Stage) -> None:
        """Raises EngineError, UnfitError."""
        match self._spine.node.attempts[command.key].offer.task.input:
            case ExecInput() as asked if self._supply is not None:
                await self._supply.bring(command.key, asked)
            case VerifyInput() as asked if self._validate is not None:
                await self._validate.bring(command.key, command.pool, asked)
            case _:
                pass

    # ------------------------------------------------------------------ RUNNING

    async def _generate(self, command: ev.Generate) -> None:
        asked = command.offer.task.input
        if isinstance(asked, VerifyInput) and self._validate is not None:
            verdict = await self._validate.product(command.key, command.pool, asked)
            self._happened(command.key, Event.GENERATED, product=verdict)
            return
        generation = self._accumulator(command.offer)
        outputs = self._pools[command.pool].generate(command.offer.task)
        try:
            async with contextlib.aclosing(outputs):
                async for output in outputs:
                    chunk = generation.take(output)
                    self.tokens[command.key] = generation.tokens
                    if chunk is not None:
                        self._stream.send(chunk)
            if (last := generation.flush()) is not None:
                self._stream.send(last)
            product = generation.product()
        finally:
            self.tokens.pop(command.key, None)
        self._happened(command.key, Event.GENERATED, product=product)

    def _accumulator(self, offer: wire.OfferBody) -> Generation | Execution:
        if isinstance(offer.task.input, ExecInput):
            return Execution(offer, self._clock)
        return Generation(offer, self._clock, top_logprobs=self._top_logprobs)

    def _happened(self, key: LeaseKey, event: Event, **more: Any) -> None:
        self._spine.feed(ev.Happened(key=key, event=event, **more))

    @property
    def _clock(self) -> Clock:
        return self._spine.clock
