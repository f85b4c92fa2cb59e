"""Attest: shows the coordinator that a GPU is one, by a product of matrices that only a GPU computes in time.

The devices take no new work meanwhile, and what runs on them ends first. Nothing here delays a beat: the engine is a
process of its own, and what fails costs a verdict.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

import structlog

from agent.core import events as ev
from agent.core.attest.budget import Budget, Hold
from agent.core.attest.messages import (
    CPU,
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
    Standing,
)
from agent.core.devices import uuids_of
from agent.core.errors import AttestError, LinkError
from agent.core.model import Reason
from agent.core.release import UNLOADS
from agent.ports import MatrixEngine
from agent.stages.calls import Caller, D, passes
from agent.stages.spine import Spine

P = TypeVar("P")

ANSWER_S = 600.0
"""For one answer of the engine; the coordinator gives up far sooner."""
TRIES = 3
"""Of a message whose answer was lost: the coordinator gives the same again, and starts no clock anew."""
OWNERS = UNLOADS | {Reason.DRAINING, Reason.GPU_HOT, Reason.GPU_POWER}
"""Gates by which its owner keeps machine or GPU to himself, or rested: a challenge waits, as work does."""
HELD = "the coordinator checks that it is a GPU; that takes a minute"
OWNER = "its owner needs the machine"
BUSY = "not now: what runs on these GPUs goes on, and is not waited for any longer"
TOO_LONG = "it had these devices for as long as challenges may (10 min of an hour)"
CLEAR_S = 120.0
"""How long GPUs take no work so that what runs there can end. Then work goes on, and another challenge may find them
idle."""
OFF = "switched off by its owner (gpu.attest)"


class Attest:
    """One challenge at a time; while one runs, others are not heard: they come with every beat."""

    def __init__(self, spine: Spine, caller: Caller, engine: MatrixEngine | None) -> None:
        """`engine`: None where the owner wants no challenge."""
        self._spine = spine
        self._caller = caller
        self._engine = engine
        self._asked: asyncio.Queue[MatrixAsked] = asyncio.Queue(maxsize=1)
        self._busy = ""
        self._budget = Budget()
        self._held_since: float | None = None
        """When the challenge that runs last made room for itself, monotonic."""
        self._log = structlog.get_logger("attest")
        self.found: dict[str, Attestation] = {}
        """Device → what the coordinator said last."""

    def asked(self, question: MatrixAsked | None) -> None:
        """With the answer to a beat. What is being done, or waits to be, is not taken twice."""
        if question and question.challenge_id != self._busy and self._asked.empty():
            self._busy = question.challenge_id
            self._asked.put_nowait(question)

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            question = await self._asked.get()
            try:
                await self._answer(question)
            except LinkError as error:  # a beat brings a new challenge, or the same where the line alone was to blame
                self._log.warning("attest.broken_off", challenge=question.challenge_id, detail=str(error))
                if passes(error) and self._busy == question.challenge_id:
                    self._busy = ""

    async def _answer(self, question: MatrixAsked) -> None:
        self._log.info("attest.asked", challenge=question.challenge_id, devices=question.devices)
        if self._engine is None:
            await self._refuse(question, OFF)
            return
        try:
            self._refuse_senseless(question)
            self._refuse_unlent(question)
            self._engine.check(question.devices)
            try:
                await self._with(question, self._engine)
            finally:
                self._let_go(question)
        except AttestError as error:
            await self._refuse(question, str(error))

    async def _with(self, question: MatrixAsked, engine: MatrixEngine) -> None:
        """The GPUs' memory is the engine's meanwhile: it is let go before any work comes, and at once when the owner
        does. Raises AttestError and LinkError."""
        proving: asyncio.Future[None] | None = None
        try:
            free = await self._ready(question, engine)
            proving = asyncio.ensure_future(self._prove(question.challenge_id, free, engine))
            until = self._held_until(question)
            while not proving.done():
                if self._wanted_back(question):
                    raise AttestError(OWNER)
                if self._spine.clock.monotonic() >= until:
                    raise AttestError(TOO_LONG)
                await self._changed_or(proving)
            return proving.result()
        finally:
            if proving is not None:
                proving.cancel()
            await engine.close()
            await asyncio.gather(*filter(None, [proving]), return_exceptions=True)

    async def _changed_or(self, proving: asyncio.Future[None]) -> None:
        changed = asyncio.ensure_future(self._spine.changed())
        try:
            await asyncio.wait({proving, changed}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()

    async def _prove(self, challenge: str, free: tuple[int, ...], engine: MatrixEngine) -> None:
        go = await self._say(MatrixReady(challenge_id=challenge, free_bytes=free), MatrixGo)
        if not go.seed:
            return
        roots = await engine.commit(go.seed, _one_each(go.works, free), ANSWER_S)
        again = await self._say(MatrixCommitted(challenge_id=challenge, roots=roots), MatrixAgain)
        read = await engine.reread(again.seed, ANSWER_S)
        drawn = await self._say(MatrixReread(challenge_id=challenge, roots=read), MatrixDrawn)
        rows = await engine.open(_one_each(drawn.rows, free), ANSWER_S)
        judged = await self._say(MatrixOpened(challenge_id=challenge, rows=rows), MatrixJudged)
        self._heard(judged.attestations)

    def _heard(self, attestations: Sequence[Attestation]) -> None:
        for it in attestations:
            self.found[it.device] = it
            well = it.standing in (Standing.ATTESTED, Standing.CPU)
            (self._log.info if well else self._log.warning)(
                "attest.judged",
                device=it.device,
                standing=it.standing.value,
                gops=it.gops,
                commit_ms=it.commit_ms,
                reread_ms=it.reread_ms,
                detail=it.detail,
            )
        self._spine.wake()

    async def _refuse(self, question: MatrixAsked, why: str) -> None:
        """Before the start that is an answer; later the coordinator finds out by the clock."""
        self._log.warning("attest.refused", challenge=question.challenge_id, detail=why)
        try:
            await self._say(MatrixReady(challenge_id=question.challenge_id, refusal=why), MatrixGo)
        except LinkError as error:
            if passes(error):
                raise

    async def _say(self, message: MatrixReady | MatrixCommitted | MatrixReread | MatrixOpened, reply: type[D]) -> D:
        """Ask again at once when the line breaks: the clock runs. Raises LinkError."""
        for _ in range(TRIES - 1):
            try:
                return await self._caller.ask(message, reply)
            except LinkError as error:
                if not passes(error):
                    raise
        return await self._caller.ask(message, reply)

    # ------------------------------------------------------------------ the devices

    def _refuse_senseless(self, question: MatrixAsked) -> None:
        """Raises AttestError."""
        if not question.devices or len(set(question.devices)) < len(question.devices):
            raise AttestError("the challenge names no device, or one of them twice")

    def _refuse_unlent(self, question: MatrixAsked) -> None:
        """Raises AttestError for a GPU that no pool is on: what runs there is its owner's, and may need its memory."""
        lent = {uuid for pool in self._spine.node.pools.values() for uuid in uuids_of(pool)} | {CPU}
        if unlent := [device for device in question.devices if device not in lent]:
            raise AttestError(f"no pool of this node is on {', '.join(unlent)}")

    def _hold(self, question: MatrixAsked) -> None:
        """No new work comes to these GPUs. Raises AttestError where challenges have had their share of them."""
        now = self._spine.clock.monotonic()
        if refusal := self._budget.refusal(question.challenge_id, question.devices, now):
            raise AttestError(refusal)
        self._held_since = now
        self._gate(question, shut=True)

    def _held_until(self, question: MatrixAsked) -> float:
        """Monotonic; of devices that are held."""
        assert self._held_since is not None
        return self._held_since + self._budget.left_s(question.devices, self._held_since)

    def _let_go(self, question: MatrixAsked) -> None:
        if self._held_since is not None:
            hold = Hold(question.challenge_id, self._held_since, self._spine.clock.monotonic())
            self._budget.spend(question.devices, hold)
            self._held_since = None
            self._gate(question, shut=False)

    def _gate(self, question: MatrixAsked, *, shut: bool) -> None:
        gpus = _gpus(question)
        if gpus:
            self._spine.feed(ev.DeviceGateChanged(devices=gpus, reason=Reason.ATTESTING, shut=shut, detail=HELD))

    async def _ready(self, question: MatrixAsked, engine: MatrixEngine) -> tuple[int, ...]:
        """Prepare when nothing runs there and the owner needs nothing of it; again when he came meanwhile. Work comes
        for as long as he is what is waited for: he may need but one of these GPUs. Raises AttestError."""
        until = self._spine.clock.monotonic() + question.answer_s
        while True:
            await self._while(lambda: self._is_owners(question), until, OWNER)
            self._hold(question)
            cleared_by = min(until, self._spine.clock.monotonic() + CLEAR_S)
            await self._while(lambda: self._is_busy(question) and not self._is_owners(question), cleared_by, BUSY)
            if not self._is_owners(question):
                free = await engine.prepare(question.devices, question.columns)
                if not self._is_owners(question) and not self._is_busy(question):
                    return free
                await engine.close()
            self._let_go(question)

    async def _while(self, holds: Callable[[], bool], until: float, why: str) -> None:
        """Raises AttestError at `until`, monotonic."""
        while holds():
            if self._spine.clock.monotonic() >= until:
                raise AttestError(why)
            await self._spine.changed()

    def _is_owners(self, question: MatrixAsked) -> bool:
        """Whether he needs any of these GPUs now."""
        return bool(self._spine.node.reasons(_gpus(question)) & OWNERS)

    def _is_busy(self, question: MatrixAsked) -> bool:
        return bool(self._spine.node.on_devices(_gpus(question)))

    def _wanted_back(self, question: MatrixAsked) -> bool:
        """Whether the owner wants what the engine has filled by now. Heat and power, which the challenge itself brings
        about, only keep the next one out."""
        return bool(self._spine.node.reasons(_gpus(question)) & UNLOADS)


def _one_each(parts: tuple[P, ...], devices: Sequence[object]) -> tuple[P, ...]:
    """What the coordinator says of each device. Raises AttestError for more or less than one part a device."""
    if len(parts) != len(devices):
        raise AttestError(f"the coordinator speaks of {len(parts)} devices, and {len(devices)} are challenged")
    return parts


def _gpus(question: MatrixAsked) -> tuple[str, ...]:
    return tuple(device for device in question.devices if device != CPU)
