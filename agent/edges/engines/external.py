"""An engine that somebody else runs, behind a URL or a unix socket: watched, proven by a canary, never started."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path

import aiohttp
import msgspec
import structlog

from agent.core import backoff
from agent.core.engines import Profile
from agent.core.errors import EngineError
from agent.core.fingerprint import Pool
from agent.core.model import Reason, TaskKind, TaskSpec, Value
from agent.edges.engines.openai import OpenAIClient, Patience
from agent.edges.link.tls import client_context
from agent.ports import Clock, EngineOutput, Replayer

_UNIX = "unix:"
_log = structlog.get_logger("engine")


class ExternalSettings(Value):
    """One external engine."""

    name: str
    url: str
    """`http://…`, `https://…` or `unix:/path`."""
    model: str
    model_digest: str
    profile: Profile
    device: str = "external"
    kinds: tuple[TaskKind, ...] = (TaskKind.CHAT, TaskKind.COMPLETION)
    slots: int = 1
    context_tokens: int = 4096
    api_key_file: Path | None = None
    """Read at each connection attempt, so that a key can be changed without a restart."""
    validates: bool = False
    """Whether it also checks what other nodes computed."""


class ExternalTempo(Value):
    """Every duration of the watching."""

    check_every_s: float = 10.0
    check_s: float = 5.0
    misses: int = 3
    retry_cap_s: float = 30.0


class ExternalPool:
    """Implements ports.EnginePool."""

    def __init__(
        self,
        settings: ExternalSettings,
        *,
        clock: Clock,
        top_logprobs: int = 40,
        patience: Patience | None = None,
        tempo: ExternalTempo | None = None,
        rand: Callable[[], float] = random.random,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._top = top_logprobs
        self._patience = patience
        self._tempo = tempo or ExternalTempo()
        self._rand = rand
        self._client: OpenAIClient | None = None
        self._doubted = asyncio.Event()
        self._changed: Callable[[], None] = lambda: None
        self._facts = Pool(
            name=settings.name,
            device=settings.device,
            engine=settings.profile.name,
            model=settings.model,
            model_digest=settings.model_digest,
            kinds=(
                *(kind for kind in settings.kinds if kind in settings.profile.kinds),
                *((TaskKind.VERIFY,) if settings.validates else ()),
            ),
            slots=settings.slots,
            context_tokens=settings.context_tokens,
            detail="the engine has not been asked yet",
        )

    @property
    def facts(self) -> Pool:
        """Current facts; `ready` turns true after the canary."""
        return self._facts

    async def run(self, changed: Callable[[], None]) -> None:
        """Connect, prove and watch the engine until cancelled; call `changed` whenever `facts` changed."""
        self._changed = changed
        attempt = 0
        while True:
            try:
                attempt = 0 if await self._serve() else attempt + 1
                detail = "the engine stopped answering"
            except EngineError as fault:
                attempt, detail = attempt + 1, str(fault)
            self._tell(ready=False, detail=detail)
            await self._clock.sleep(backoff.delay(attempt, self._rand(), cap_s=self._tempo.retry_cap_s))

    async def check(self, task: TaskSpec) -> None:
        """Does the prompt with `max_tokens` fit the context? Raises EngineError with the reason to decline for."""
        client = self._client
        if client is None:
            raise EngineError(Reason.POOL_NOT_READY, f"the engine is not ready: {self._facts.detail}")
        await client.check(task, self._facts.context_tokens)

    async def generate(self, task: TaskSpec) -> AsyncGenerator[EngineOutput, None]:
        """Raises EngineError. Closing it stops the engine's work on this task."""
        client = self._client
        if client is None or not self._facts.ready:
            raise EngineError(Reason.ENGINE_UNAVAILABLE, f"the engine is not ready: {self._facts.detail}")
        async with self._doubting(client), contextlib.aclosing(client.generate(task)) as outputs:
            async for output in outputs:
                yield output

    @contextlib.asynccontextmanager
    async def replayer(self) -> AsyncIterator[Replayer]:
        """See the port."""
        client = self._client
        if client is None or not self._facts.ready:
            raise EngineError(Reason.ENGINE_UNAVAILABLE, f"the engine is not ready: {self._facts.detail}")
        async with self._doubting(client):
            yield client.replayer()

    @contextlib.asynccontextmanager
    async def _doubting(self, client: OpenAIClient) -> AsyncIterator[None]:
        try:
            yield
        except EngineError as fault:
            if fault.reason is Reason.ENGINE_UNAVAILABLE and self._client is client:
                self._doubt(str(fault))
            raise

    def _doubt(self, detail: str) -> None:
        """Take no further task until the engine has answered again: each would lose an attempt on a dead one."""
        self._doubted.set()
        self._tell(ready=False, detail=f"a task met a fault, asking the engine: {detail}")

    async def _serve(self) -> bool:
        """Until it stops answering; returns True then. Raises EngineError when it never was ready."""
        client = self._connect()
        try:
            client.model = await self._served_name(client)
            version = await client.version()
            engine = f"{self._settings.profile.name} {version}".rstrip()
            await client.canary(self._facts.kinds)
            self._doubted.clear()
            self._client, self._facts = client, msgspec.structs.replace(self._facts, engine=engine)
            self._tell(ready=True, detail="")
            await self._watch(client)
        finally:
            self._client = None
            await client.close()
        return True

    async def _watch(self, client: OpenAIClient) -> None:
        """Until it misses several checks, or the one that follows a task's fault."""
        misses = 0
        while misses < self._tempo.misses:
            doubted = await self._until_check()
            if not await client.healthy(self._tempo.check_s):
                misses = self._tempo.misses if doubted else misses + 1
                continue
            misses = 0
            if not self._facts.ready:
                self._tell(ready=True, detail="")

    async def _until_check(self) -> bool:
        """Wait for the next check; True when a task's fault brought it forward."""
        waits = {
            asyncio.ensure_future(self._clock.sleep(self._tempo.check_every_s)),
            asyncio.ensure_future(self._doubted.wait()),
        }
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        doubted = self._doubted.is_set()
        self._doubted.clear()
        return doubted

    def _connect(self) -> OpenAIClient:
        settings, on_socket = self._settings, self._settings.url.startswith(_UNIX)
        path = settings.url.removeprefix(_UNIX)

        def connector() -> aiohttp.BaseConnector:
            # A POST that meets the closing of an idle connection cannot be repeated: so none is kept.
            if on_socket:
                return aiohttp.UnixConnector(path, limit=0, force_close=True)
            tls = client_context() if settings.url.startswith("https:") else True
            return aiohttp.TCPConnector(limit=0, force_close=True, ssl=tls)

        return OpenAIClient(
            settings.profile,
            base_url="http://engine" if on_socket else settings.url,
            model=settings.model,
            connector=connector,
            top_logprobs=self._top,
            api_key=_read_key(settings.api_key_file),
            patience=self._patience,
        )

    async def _served_name(self, client: OpenAIClient) -> str:
        """The name under which it serves our model: the same name, or the only one there is. Raises EngineError."""
        if not await client.healthy(self._tempo.check_s):
            raise EngineError(
                Reason.ENGINE_UNAVAILABLE,
                f"no engine is ready at {self._settings.url}",
                remedy="Start it, or correct pools.url",
            )
        served = await client.served_models()
        if not served and not client.profile.lists_models:
            return self._settings.model
        if self._settings.model in served or len(served) == 1:
            return self._settings.model if self._settings.model in served else served[0]
        raise EngineError(
            Reason.UNKNOWN_MODEL,
            f"the engine serves {', '.join(served[:5]) or 'no model'}, not {self._settings.model}",
            remedy="Load the model there, or correct pools.model",
        )

    def _tell(self, *, ready: bool, detail: str) -> None:
        facts = msgspec.structs.replace(self._facts, ready=ready, detail=detail)
        if facts != self._facts or ready:
            self._facts = facts
            _log.info(
                "engine.ready" if ready else "engine.unready", pool=facts.name, engine=facts.engine, detail=detail
            )
            self._changed()


def _read_key(path: Path | None) -> str:
    """Raises EngineError. The key is never logged."""
    if path is None:
        return ""
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise EngineError(
            Reason.ENGINE_UNAVAILABLE, f"the API key file {path} cannot be read", remedy="Correct pools.api_key_file"
        ) from error
