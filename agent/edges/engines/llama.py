"""A supervised llama-server in a sandbox: started, proven ready by a canary, watched, decoded, restarted."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import msgspec
import structlog

from agent.core import backoff
from agent.core.checks.calibration import Device
from agent.core.engines import PROFILES
from agent.core.errors import EngineError, ModelError, SandboxError
from agent.core.fingerprint import Pool
from agent.core.model import Reason, TaskKind, TaskSpec, Value
from agent.edges.engines import exits
from agent.edges.engines.launch import UNVERIFIABLE, LlamaSettings, computes_on, determinism_class, sandbox_spec
from agent.edges.engines.openai import OpenAIClient, Patience
from agent.edges.engines.placement import Placement
from agent.edges.sandbox.sockets import SandboxConnector
from agent.ports import Calibrations, Clock, EngineOutput, Replayer, Sandbox, SandboxExit, SandboxHandle

_PROFILE = PROFILES["llama-server"]
_log = structlog.get_logger("engine")


class Tempo(Value):
    """Every duration of the supervision."""

    load_s: float = 600.0
    """Until /health says that the model is loaded: tens of GB from a slow disk."""
    poll_s: float = 0.1
    health_every_s: float = 10.0
    health_s: float = 5.0
    misses: int = 3
    """Health checks in a row without an answer until the engine counts as hung."""
    steady_s: float = 60.0
    """An engine that was ready for so long starts anew with the shortest delay."""
    stop_s: float = 5.0
    """llama-server does not end on SIGTERM while it still generates: then SIGKILL follows."""
    restart_cap_s: float = 60.0


class EngineFacts(NamedTuple):
    """What is known of the engine's files before it starts."""

    digest: str
    processor: str


class _Life:
    """One run of the engine."""

    def __init__(self, handle: SandboxHandle, client: OpenAIClient) -> None:
        self.handle = handle
        self.client = client
        self.end: asyncio.Task[SandboxExit] = asyncio.create_task(handle.wait())
        self.hung = ""
        """Why we ended it, when we did."""

    def epitaph(self) -> str:
        """Why it ended. Only once `end` is done."""
        return self.hung or exits.explain(self.end.result(), self.handle.stderr_tail())


class LlamaPool:
    """Implements ports.EnginePool."""

    def __init__(
        self,
        settings: LlamaSettings,
        *,
        sandbox: Sandbox,
        clock: Clock,
        measure: Callable[[], Awaitable[EngineFacts]],
        placement: Placement | None = None,
        calibrations: Calibrations | None = None,
        top_logprobs: int = 40,
        validates: bool = False,
        patience: Patience | None = None,
        tempo: Tempo | None = None,
        rand: Callable[[], float] = random.random,
    ) -> None:
        """`measure` hashes the engine's files; it is called before each start. Without a `placement` it starts on its
        GPUs whether or not it fits. Without `calibrations` several slots are unverifiable. `validates`: it also
        checks what other nodes computed."""
        self._settings = settings
        self._sandbox = sandbox
        self._clock = clock
        self._measure = measure
        self._placement = placement
        self._calibrations = calibrations
        self._top = top_logprobs
        self._patience = patience
        self._tempo = tempo or Tempo()
        self._rand = rand
        self._life: _Life | None = None
        self._last = ""
        """Why the last life ended, until one is ready."""
        self._changed: Callable[[], None] = lambda: None
        self._facts = Pool(
            name=settings.name,
            device=settings.device,
            engine=_PROFILE.name,
            model=settings.model,
            model_digest=settings.model_digest,
            kinds=(*settings.kinds, TaskKind.VERIFY) if validates else settings.kinds,
            slots=settings.slots,
            context_tokens=settings.context_tokens,
            detail="the engine has not been started",
        )

    @property
    def facts(self) -> Pool:
        """Current facts; `ready` turns true after the canary."""
        return self._facts

    async def run(self, changed: Callable[[], None]) -> None:
        """Start, watch and restart the engine until cancelled; call `changed` whenever `facts` changed."""
        self._changed = changed
        attempt = 0
        while True:
            began = self._clock.monotonic()
            try:
                detail = await self._live()
            except (SandboxError, ModelError, EngineError) as fault:
                detail = str(fault)
            steady = self._clock.monotonic() - began >= self._tempo.steady_s
            attempt = 0 if steady else attempt + 1
            wait_s = backoff.delay(attempt, self._rand(), cap_s=self._tempo.restart_cap_s)
            self._last = detail
            self._tell(ready=False, detail=detail)
            _log.warning(
                "engine.ended", pool=self._settings.name, detail=detail, attempt=attempt, wait_s=round(wait_s, 2)
            )
            await self._clock.sleep(wait_s)

    async def check(self, task: TaskSpec) -> None:
        """Does the prompt with `max_tokens` fit the context? Raises EngineError with the reason to decline for."""
        life = self._life
        if life is None:
            raise EngineError(Reason.POOL_NOT_READY, f"the engine is not ready: {self._facts.detail}")
        await life.client.check(task, self._facts.context_tokens)

    async def generate(self, task: TaskSpec) -> AsyncGenerator[EngineOutput, None]:
        """Raises EngineError; ENGINE_CRASHED when the engine died on the way. Closing it stops the engine's work."""
        async with self._alive() as life, contextlib.aclosing(life.client.generate(task)) as outputs:
            async for output in outputs:
                yield output

    @contextlib.asynccontextmanager
    async def replayer(self) -> AsyncIterator[Replayer]:
        """See the port."""
        async with self._alive() as life:
            yield life.client.replayer()

    @contextlib.asynccontextmanager
    async def _alive(self) -> AsyncIterator[_Life]:
        """What breaks off because the engine died is told as that."""
        life = self._life
        if life is None or not self._facts.ready:
            raise EngineError(Reason.ENGINE_UNAVAILABLE, f"the engine is not ready: {self._facts.detail}")
        try:
            yield life
        except EngineError as fault:
            if fault.reason in (Reason.ENGINE_UNAVAILABLE, Reason.ENGINE_GARBAGE) and await self._died(life):
                raise EngineError(Reason.ENGINE_CRASHED, life.epitaph()) from fault
            raise

    # ------------------------------------------------------------------ one life

    def _starting(self) -> str:
        """A crash loop keeps telling why."""
        return "the engine is starting" + (f" again; before: {self._last}" if self._last else "")

    async def _live(self) -> str:
        """From start to end; returns why it ended. Raises SandboxError, ModelError, EngineError before it was ready."""
        self._tell(ready=False, detail=self._starting())
        began = self._clock.monotonic()
        measured = await self._measure()
        placed = await self._placed()
        try:
            return await self._live_at(placed, measured, began)
        finally:
            if self._placement is not None:
                self._placement.leave()

    async def _placed(self) -> LlamaSettings:
        """Where it will run: waits until it fits there. Raises EngineError."""
        if self._placement is None:
            return self._settings
        placed = await self._placement.settle(self._settings, self._refused)
        self._facts = msgspec.structs.replace(self._facts, device=placed.device)
        return placed

    def _refused(self, why: str) -> None:
        _log.warning("engine.no_room", pool=self._settings.name, detail=why)
        self._tell(ready=False, detail=why)

    async def _live_at(self, placed: LlamaSettings, measured: EngineFacts, began: float) -> str:
        settings = msgspec.structs.replace(placed, socket_dir=await asyncio.to_thread(self._fresh_socket_dir))
        self._tell(ready=False, detail=self._starting())
        handle = await self._sandbox.start(sandbox_spec(settings))
        life = _Life(handle, self._client(settings.socket))
        if self._placement is not None:
            self._placement.started(handle.pid)
        try:
            await self._until_loaded(life)
            await self._describe(life, settings, measured)
            await life.client.canary(settings.kinds)
            self._life, self._last = life, ""
            if self._placement is not None:
                self._placement.ready()
            self._tell(ready=True, detail="")
            took_ms = round((self._clock.monotonic() - began) * 1000)
            _log.info(
                "engine.ready",
                pool=settings.name,
                engine=self._facts.engine,
                determinism=self._facts.determinism,
                took_ms=took_ms,
            )
            await self._watch(life)
        except EngineError as fault:
            if await self._died(life):
                raise EngineError(Reason.ENGINE_CRASHED, life.epitaph()) from fault
            raise
        finally:
            self._life = None
            await asyncio.shield(asyncio.ensure_future(self._end(life)))
        return life.epitaph()

    def _fresh_socket_dir(self) -> Path:
        """A new directory for each life: the engine may leave anything in its own. Raises EngineError."""
        _discard_all(self._settings.socket_dir)  # also what a killed agent left behind
        try:
            return Path(tempfile.mkdtemp(dir=self._settings.socket_dir))
        except OSError as error:
            raise EngineError(
                Reason.ENGINE_UNAVAILABLE,
                f"{self._settings.socket_dir} cannot be written: {error.strerror}",
                remedy="Check node.runtime_dir",
            ) from error

    def _client(self, socket: Path) -> OpenAIClient:
        # A connection per request: llama-server closes idle ones, and a POST that met the closing cannot be repeated.
        return OpenAIClient(
            _PROFILE,
            base_url="http://engine",
            model=self._settings.model,
            connector=lambda: SandboxConnector(socket, limit=0, force_close=True),
            top_logprobs=self._top,
            patience=self._patience,
            states=self._settings.states,
        )

    async def _until_loaded(self, life: _Life) -> None:
        deadline = self._clock.monotonic() + self._tempo.load_s
        while not await life.client.healthy(self._tempo.health_s):
            if await self._ended_within(life, self._tempo.poll_s):
                raise EngineError(Reason.ENGINE_CRASHED, life.epitaph())
            if self._clock.monotonic() >= deadline:
                words = exits.last_lines(life.handle.stderr_tail()) or "nothing"
                raise EngineError(
                    Reason.ENGINE_UNAVAILABLE,
                    f"the engine did not load the model within {self._tempo.load_s:g} s (it said: {words})",
                )

    async def _describe(self, life: _Life, settings: LlamaSettings, measured: EngineFacts) -> None:
        """Facts that only the running engine knows. Raises EngineError."""
        version = await life.client.version()
        context = await life.client.slot_context() or self._settings.context_tokens
        engine = f"{_PROFILE.name} {version}".rstrip()
        self._facts = msgspec.structs.replace(
            self._facts,
            engine=engine,
            engine_digest=measured.digest,
            context_tokens=min(context, self._settings.context_tokens),
            determinism=self._determinism(settings, measured, engine),
        )

    def _determinism(self, settings: LlamaSettings, measured: EngineFacts, engine: str) -> str:
        cards = self._placement.cards(settings.gpus) if self._placement else ""
        calibrated = self._calibrations is not None and self._calibrations.thresholds_for(
            settings.model_digest,
            engine,
            embeds=settings.embeds,
            args=settings.args,
            device=Device.GPU if settings.gpus else Device.CPU,
        )
        computes = computes_on(settings, measured.processor, cards)
        chosen = determinism_class(settings, measured.digest, computes, calibrated=bool(calibrated))
        if chosen == UNVERIFIABLE:
            why = "its GPU is not known well enough" if not computes else "there is no calibration for its model"
            _log.warning("engine.unverifiable", pool=settings.name, model=settings.model, engine=engine, detail=why)
        return chosen

    async def _watch(self, life: _Life) -> None:
        """Returns once the engine has ended, by itself or because it stopped answering."""
        misses = 0
        while not await self._ended_within(life, self._tempo.health_every_s):
            misses = 0 if await life.client.healthy(self._tempo.health_s) else misses + 1
            if misses >= self._tempo.misses and not life.end.done():
                life.hung = f"the engine stopped answering ({misses} health checks in a row) and was ended"
                life.handle.kill()
                await life.end
                return

    async def _ended_within(self, life: _Life, seconds: float) -> bool:
        sleep = asyncio.ensure_future(self._clock.sleep(seconds))
        try:
            await asyncio.wait({life.end, sleep}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleep.cancel()
        return life.end.done()

    async def _died(self, life: _Life) -> bool:
        """Whether the engine has died: its sockets close a moment before its end is seen."""
        return bool(life.hung) or await self._ended_within(life, 1.0)

    async def _end(self, life: _Life) -> None:
        """Leave nothing of it. In-flight generations fail when their connections close."""
        if not life.end.done():
            await life.handle.stop(self._tempo.stop_s)
        await life.end
        await life.client.close()
        await asyncio.to_thread(_discard_all, self._settings.socket_dir)

    def _tell(self, *, ready: bool, detail: str) -> None:
        facts = msgspec.structs.replace(self._facts, ready=ready, detail=detail)
        if facts != self._facts or ready:
            self._facts = facts
            self._changed()


def _discard_all(parent: Path) -> None:
    """Best effort: nothing is reused, and the engine could have made something that is hard to remove."""
    with contextlib.suppress(OSError, RecursionError):
        for entry in parent.iterdir():
            shutil.rmtree(entry, ignore_errors=True)
