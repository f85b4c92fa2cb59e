"""The coordinator as one object: `async with Coordinator(state_dir) as c: ... c.url`."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import logging
import os
import secrets
import ssl
import time
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp
from aiohttp import web
from msgspec.structs import replace

from agent.core.attest.cards import Card
from agent.core.errors import FORBIDDEN, AgentError, StorageError
from agent.core.loopback import is_loopback
from agent.core.model import Value
from agent.core.payloads import BeaconSource
from agent.core.proof.beacon import Bls
from agent.core.wire import Directive
from agent.devnet.attest import Attester
from agent.devnet.beacons import RELAYS, DrandRelays
from agent.devnet.blobs import Blobs
from agent.devnet.case_store import exhibits_of_judged
from agent.devnet.core import leasing, presence
from agent.devnet.core.book import Book
from agent.devnet.core.proofs import sweeping as proving
from agent.devnet.core.restoring import restore
from agent.devnet.core.rules import Instant, Refused, Rules
from agent.devnet.desk import Clock, Desk
from agent.devnet.drawing import Drawing
from agent.devnet.examining import Examiner
from agent.devnet.exhibits import Exhibits
from agent.devnet.keys import read_or_make_key, read_or_make_secret, verify
from agent.devnet.node_routes import NodeRoutes
from agent.devnet.reception import Reception
from agent.devnet.requester_routes import RequesterRoutes, new_token
from agent.devnet.sessions import Sessions
from agent.devnet.store import Store, blobs_in_use
from agent.devnet.tidying import Tidier
from agent.devnet.web import MAX_LINE_BYTES, refusing
from agent.devnet.websocket import WebSocketRoute

logger = logging.getLogger(__name__)

CLOSE_S = 2.0
"""What is under way when it stops; what takes longer is asked again of whoever comes next."""


class StartError(AgentError):
    """The coordinator cannot start here."""

    exit_code = 69


class ForbiddenError(StartError):
    """Its user may not use the state directory."""

    exit_code = FORBIDDEN


class Options(Value):
    """What may be set apart from the rules."""

    rules: Rules = Rules()
    cards: tuple[Card, ...] = ()
    """What is known of GPU models, by which nodes' GPUs are judged (`Rules.attest_every_s`)."""
    session_ttl_s: float = 1800.0
    nonce_ttl_s: float = 60.0
    sweep_s: float = 0.25
    """How late a lease may be found expired."""
    tls_cert: Path | None = None
    """PEM chain; needs `tls_key`. Without TLS only loopback is served."""
    tls_key: Path | None = None
    bls: Bls | None = None
    """Checks drand's signatures; needed where `rules.proofs.beacon` is drand's."""
    drand_relays: tuple[str, ...] = RELAYS


class SystemClock:
    """The machine's own time."""

    def monotonic(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Coordinator:
    """Serves from `__aenter__` to `__aexit__`; `state_dir` (made 0700) is all that it remembers."""

    url: str
    public_key: str
    requester_token: str
    desk: Desk

    def __init__(
        self,
        state_dir: Path,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        clock: Clock | None = None,
        options: Options | None = None,
    ) -> None:
        self._state_dir = state_dir
        self._host = host
        self._port = port
        self._clock = clock or SystemClock()
        self._options = options or Options()
        self._stack = AsyncExitStack()
        self.failed = asyncio.Event()
        """Set when the state cannot be written any more: nothing is served, and a restart is due."""

    async def __aenter__(self) -> Coordinator:
        """Raises StartError, IdentityError, StorageError."""
        tls = self._tls()
        async with AsyncExitStack() as stack:
            _lock(_made(self._state_dir), stack)
            self.desk = await self._open_desk(stack)
            self._attester = Attester(self.desk, self._options.cards)
            stack.push_async_callback(self._attester.close)
            self.sweep()  # the secret of an epoch is there before the first result
            self._run(Examiner(self.desk).run(), "examiner", stack)
            self._run(Tidier(self.desk, self._clock).run(), "tidier", stack)
            await self._draw_by_drand(stack)
            await self._serve(stack, tls)
            self._run(self._sweep_for_ever(), "sweeper", stack)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    def enrol_token(self) -> str:
        """A new one-time enrolment token. It is stored before any enrolment that uses it is."""
        token = new_token(self.public_key)
        self.desk.begin(presence.issue_token(self.desk.book, token))
        return token

    def direct(self, node_id: str, kind: str, detail: str = "") -> None:
        """Ask a node to `drain`, `pause`, `resume` or `refingerprint`. Raises Refused."""
        streaming = self.desk.streaming(node_id)
        directive = Directive(kind=kind, detail=detail)
        self.desk.begin(presence.direct(self.desk.book, node_id, directive, streaming=streaming))

    def sample(self, rate_micros: int) -> None:
        """Challenge results with this probability, in millionths, from now on."""
        rules = self.desk.book.rules
        self.desk.book.rules = replace(rules, proofs=replace(rules.proofs, rate_micros=rate_micros))

    def sweep(self) -> None:
        """Look at the time now; done every `sweep_s` anyway."""
        self.desk.begin(leasing.sweep(self.desk.book, self.desk.when()))
        self.desk.begin(proving.sweep(self.desk.book, self.desk.when(), secrets.token_hex(32)))
        self._attester.sweep()
        self.desk.blobs.sweep()

    async def _sweep_for_ever(self) -> None:
        while True:
            await self._clock.sleep(self._options.sweep_s)
            try:
                self.sweep()
            except Refused:
                return  # it stops, or its store failed

    def _run(self, loop: Coroutine[Any, Any, None], name: str, stack: AsyncExitStack) -> None:
        """Until everything else has stopped."""
        task = asyncio.create_task(loop, name=f"coordinator-{name}")
        task.add_done_callback(self._ended_early)
        stack.push_async_callback(_ended, task)

    def _ended_early(self, task: asyncio.Task[None]) -> None:
        """Without the sweeper no lease would ever end, without the examiner no case: a bug must not pass unseen."""
        if not task.cancelled() and (error := task.exception()):
            logger.critical("%s.failed", task.get_name().replace("-", "."), exc_info=error)
            self.failed.set()

    async def _open_desk(self, stack: AsyncExitStack) -> Desk:
        keys = read_or_make_key(self._state_dir / "coordinator.key")
        self.public_key = keys.public
        token = self._state_dir / "requester.token"
        self.requester_token = read_or_make_secret(token, lambda: secrets.token_urlsafe(32))
        store = Store(self._state_dir / "coordinator.sqlite", self._broken)
        stack.push_async_callback(store.close)
        remembered = await store.open()
        blobs = Blobs(self._state_dir / "blobs", await store.read(blobs_in_use), self._clock.monotonic)
        book = Book(self._options.rules, keys.public, keys.sign, verify)
        restore(book, Instant(self._clock.monotonic(), int(self._clock.wall())), remembered)
        exhibits = Exhibits(self._state_dir / "exhibits")
        judged = await store.read(exhibits_of_judged)
        exhibits.clear(lambda sha256: sha256 in judged or book.docket.names(sha256))
        return Desk(book, store, blobs, exhibits, self._clock)

    async def _draw_by_drand(self, stack: AsyncExitStack) -> None:
        """Fetch rounds as soon as results wait for them. Raises StartError."""
        if self._options.rules.proofs.beacon is not BeaconSource.DRAND:
            return
        if self._options.bls is None:
            remedy = "Install gpu-agent[drand], or draw by epochs"
            raise StartError("drand's signatures cannot be checked here", remedy=remedy)
        session = await stack.enter_async_context(aiohttp.ClientSession())
        relays = DrandRelays(session, self._options.bls, relays=self._options.drand_relays, sleep=self._clock.sleep)
        drawing = Drawing(self.desk, relays, self._clock)
        await drawing.look()  # before the first promise
        self._run(drawing.run(), "beacons", stack)

    def _broken(self, fault: StorageError) -> None:
        self.desk.broken(fault)
        self.failed.set()

    async def _serve(self, stack: AsyncExitStack, tls: ssl.SSLContext | None) -> None:
        sessions = Sessions(self._options.session_ttl_s, self._options.nonce_ttl_s, secrets.token_bytes)
        reception = Reception(self.desk, sessions, self._clock, self._attester)
        stream = WebSocketRoute(reception)
        application = web.Application(middlewares=[refusing])
        application.add_routes(NodeRoutes(reception).routes())
        application.add_routes(stream.routes())
        requesters = RequesterRoutes(self.desk, self.requester_token)
        application.add_routes(requesters.routes())
        application.on_shutdown.append(lambda _: self._let_go(stream, requesters))
        # A parked pull whose client went away must hear of it: it would be granted work that nobody gets.
        runner = web.AppRunner(
            application,
            handler_cancellation=True,
            access_log=None,
            shutdown_timeout=CLOSE_S,
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_LINE_BYTES,
        )
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await self._listen(runner, tls)

    async def _let_go(self, stream: WebSocketRoute, requesters: RequesterRoutes) -> None:
        """No new connection comes any more; end what would otherwise wait for something to happen."""
        self.desk.close()
        requesters.close()
        await stream.close()

    async def _listen(self, runner: web.AppRunner, tls: ssl.SSLContext | None) -> None:
        try:
            await web.TCPSite(runner, self._host, self._port, ssl_context=tls).start()
        except OSError as error:
            raise _cannot_listen(self._host, self._port, error) from error
        port = runner.addresses[0][1]
        host = f"[{self._host}]" if ":" in self._host else self._host
        self.url = f"{'https' if tls else 'http'}://{host}:{port}"
        logger.info("coordinator.started %s", self.url)

    def _tls(self) -> ssl.SSLContext | None:
        cert, key = self._options.tls_cert, self._options.tls_key
        if cert is None and key is None:
            if not is_loopback(self._host):
                remedy = "Give a certificate and its key, or serve 127.0.0.1"
                raise StartError(f"without TLS nothing but loopback is served, not {self._host}", remedy=remedy)
            return None
        if cert is None or key is None:
            raise StartError("TLS needs both a certificate and its key")
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(cert, key)
        except (OSError, ssl.SSLError) as error:
            raise StartError(f"cannot use {cert} with {key}: {error}", remedy="Both are PEM files") from error
        return context


def _made(state_dir: Path) -> Path:
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        fault = ForbiddenError if isinstance(error, PermissionError) else StartError
        raise fault(f"cannot make {state_dir}: {error.strerror}", remedy="Choose another state directory") from error
    return state_dir


def _lock(state_dir: Path, stack: AsyncExitStack) -> None:
    """One coordinator a state directory: two would grant the same task twice."""
    try:
        fd = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        stack.callback(os.close, fd)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno == errno.EWOULDBLOCK:
            remedy = "Stop it first, or choose another state directory"
            raise StartError(f"another coordinator uses {state_dir}", remedy=remedy) from error
        fault = ForbiddenError if isinstance(error, PermissionError) else StartError
        raise fault(f"cannot lock {state_dir}: {error.strerror}", remedy="Check the directory's owner") from error


def _cannot_listen(host: str, port: int, error: OSError) -> StartError:
    if error.errno == errno.EADDRINUSE:
        remedy = "Choose another port, or 0 for any that is free"
        return StartError(f"port {port} on {host} is taken", remedy=remedy)
    return StartError(f"cannot listen on {host} port {port}: {error.strerror}", remedy="Check the address and the port")


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
