"""The daemon: composes the agent, runs its loops in one TaskGroup, and turns signals into *drain* (finish what runs)
and *abort* (hand back now)."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine
from typing import Any, cast

import structlog
from msgspec import Struct
from msgspec.structs import replace

from agent import __version__
from agent.compose import Composer, Parts
from agent.config import Config
from agent.core import events as ev
from agent.core.challenges import ProofStory
from agent.core.errors import AgentError, ConfigError
from agent.core.orders import PauseOrder, ResumeOrder
from agent.core.status import Status, headline
from agent.edges.clock import SystemClock
from agent.edges.control import ControlServer
from agent.edges.engines.build import PoolBuilder, build_pools
from agent.edges.host import Host
from agent.edges.local_http import LocalServer, serve
from agent.edges.logs import configure
from agent.edges.metrics import MetricsServer
from agent.edges.systemd import ServiceManager, keep_alive, keep_starting, watchdog_period_s
from agent.stages.overview import Overview

STATUS_EVERY_S = 5.0
ABANDONED = 75
"""EX_TEMPFAIL: stopped as asked, but a task was neither finished nor handed back; the log names it."""
NOT_YET = "what needs_restart names does not hold yet, but from the next start of the agent on"
CRASHED = 70
"""EX_SOFTWARE of sysexits(3): a fault of the agent itself."""


class Daemon:
    """One run of the agent. `reload` reads the configuration again and raises ConfigError when that is invalid."""

    def __init__(self, config: Config, reload: Callable[[], Config], pools: PoolBuilder = build_pools) -> None:
        self._config = config
        self._read_again = reload
        self._pools = pools
        self._clock = SystemClock()
        self._manager = ServiceManager.of_environment()
        self._log = structlog.get_logger("agent")
        self._stop = asyncio.Event()
        self._abort = asyncio.Event()
        self._reloaded = asyncio.Event()
        self._parts: Parts | None = None
        self._waiting_for = ""

    async def run(self) -> int:
        """Run until stopped; returns the exit status. Raises AgentError when it cannot start."""
        self._listen_to_signals()
        self._log.info("agent.starting", version=__version__, name=self._name)
        async with contextlib.AsyncExitStack() as stack:
            control = ControlServer(self._config.control_socket, self)
            await control.start()  # first: it keeps a second daemon off this one's state
            stack.push_async_callback(control.close)
            self._parts = await self._started(stack)
            status = 0 if self._parts is None else await self._serve(self._parts)
        self._log.info("agent.stopped", status=status)
        return status

    # ------------------------------------------------------------------ building

    @property
    def _name(self) -> str:
        return self._config.node.name or Host().facts().hostname

    async def _started(self, stack: contextlib.AsyncExitStack) -> Parts | None:
        """All parts, or None when told to stop before: a large model or a coordinator that is down may take long."""
        composer = Composer(self._config, self._name, self._clock, stack, self._verifying, self._waits, self._pools)
        composing = asyncio.create_task(composer.compose(), name="compose")
        others = [
            asyncio.create_task(self._stop.wait()),
            asyncio.create_task(keep_starting(self._manager, self._clock)),
        ]
        try:
            await asyncio.wait({composing, *others}, return_when=asyncio.FIRST_COMPLETED)
            return composing.result() if composing.done() else None
        finally:
            for task in (composing, *others):
                task.cancel()
            await asyncio.gather(composing, *others, return_exceptions=True)

    def _verifying(self, file: str, done: int, total: int) -> None:
        """Progress of hashing a large model, for `systemctl status`."""
        self._manager.status(f"verifying {file}: {100 * done // max(total, 1)} %")

    def _waits(self, what: str) -> None:
        if what != self._waiting_for:
            self._manager.status(f"waiting: {what}" if what else "starting")
        self._waiting_for = what

    # ------------------------------------------------------------------ running

    async def _serve(self, parts: Parts) -> int:
        self._obey(parts)  # it may have been reloaded since they were composed
        try:
            async with asyncio.TaskGroup() as group:
                running = [group.create_task(loop, name=name) for name, loop in parts.loops.items()]
                running += [group.create_task(loop, name="manager") for loop in self._manager_loops(parts)]
                running += [group.create_task(loop, name=name) for name, loop in self._served(parts.overview).items()]
                self._manager.ready(headline(parts.overview.status()))
                self._log.info("agent.ready", node=parts.spine.node.node_id)
                await self._stop.wait()
                status = await self._leave(parts)
                for task in running:
                    task.cancel()
        except BaseExceptionGroup as faults:  # of the loops; sorted into what was expected and bugs
            expected, bugs = faults.split(AgentError)
            if bugs is not None:  # told in full; the service manager then starts afresh
                self._log.critical("agent.crashed", exc_info=bugs)
                return CRASHED
            raise _first(expected or faults) from faults
        return status

    async def _leave(self, parts: Parts) -> int:
        limit_s = self._config.node.drain_limit_s
        self._manager.stopping(headline(parts.overview.status()))
        self._manager.extend_timeout(limit_s + 60.0)
        return 0 if await parts.drain.leave(limit_s, self._abort) else ABANDONED

    def _served(self, overview: Overview) -> dict[str, Coroutine[Any, Any, None]]:
        """What is told over HTTP, as the configuration says at each moment."""

        def metrics(listen: str) -> LocalServer:
            return MetricsServer(listen, overview.scene)

        def page(listen: str) -> LocalServer:
            from agent.edges.page import PageServer  # noqa: PLC0415  (costs nothing while it is off)

            return PageServer(listen, overview.status)

        def page_is(url: str) -> None:
            overview.page = url

        return {
            "metrics": serve(lambda: self._config.metrics, metrics, self._reloaded),
            "page": serve(lambda: self._config.page, page, self._reloaded, page_is),
        }

    def _manager_loops(self, parts: Parts) -> list[Coroutine[Any, Any, None]]:
        if not self._manager.present:
            return []
        loops = [self._tell_manager(parts.overview)]
        if (period_s := watchdog_period_s()) is not None:
            stalled = lambda: parts.pulse.stalled(self._clock.monotonic())  # noqa: E731
            loops.append(keep_alive(self._manager, period_s, self._clock, stalled))
        return loops

    async def _tell_manager(self, overview: Overview) -> None:
        told = ""
        while True:
            if (line := headline(overview.status())) != told:
                self._manager.status(line)
                told = line
            await self._clock.sleep(STATUS_EVERY_S)

    # ------------------------------------------------------------------ signals and the control socket

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._on_term)
        loop.add_signal_handler(signal.SIGINT, self._on_term)
        loop.add_signal_handler(signal.SIGQUIT, self._on_quit)
        loop.add_signal_handler(signal.SIGHUP, self._on_hup)

    def _on_term(self) -> None:
        """The first drains, the second aborts."""
        if self._stop.is_set():
            self._abort.set()
        self._log.info("agent.stopping", how="abort" if self._abort.is_set() else "drain")
        self._stop.set()

    def _on_quit(self) -> None:
        self._abort.set()
        self._log.info("agent.stopping", how="abort")
        self._stop.set()

    def _on_hup(self) -> None:
        self._manager.reloading()
        try:
            self._reload_now()
        except ConfigError as error:
            self._log.error("config.kept", detail=str(error), faults=error.faults)
        if self._parts is not None:
            self._manager.ready(headline(self._parts.overview.status()))

    def _reload_now(self) -> None:
        """Take over what can change while running. Raises ConfigError; then nothing changes."""
        new, old = self._read_again(), self._config
        configure(new.logs)
        drain_limit_s, failures = new.node.drain_limit_s, new.node.breaker_failures
        live = replace(
            old,
            logs=new.logs,
            metrics=new.metrics,
            page=new.page,
            owner=replace(new.owner, power_limit_w=old.owner.power_limit_w),  # the unit of root's reads that alone
            node=replace(old.node, drain_limit_s=drain_limit_s, breaker_failures=failures),
        )
        changed, later = _differing(new, old), _differing(new, live)
        self._config = live
        self._reloaded.set()
        if self._parts is not None:
            self._obey(self._parts)
        if later:
            self._log.warning("config.reloaded", changed=changed, needs_restart=later, detail=NOT_YET)
        else:
            self._log.info("config.reloaded", changed=changed or None)

    def _obey(self, parts: Parts) -> None:
        """What can change while running is as the configuration says by now."""
        parts.advertise.drain_limit_s = self._config.node.drain_limit_s
        parts.watchers.obey(self._config)
        parts.spine.feed(ev.BreakerLimitChanged(failures=self._config.node.breaker_failures))

    def status(self) -> Status:
        """For the control socket."""
        return self._running.overview.status()

    async def proofs(self, limit: int) -> ProofStory:
        """What was challenged, and how it was judged."""
        return await self._running.hearing.docket.story(limit)

    async def drain(self) -> None:
        """Finish what runs and take nothing new; the daemon stays."""
        self._running.spine.feed(ev.DrainAsked(limit_s=self._config.node.drain_limit_s))

    async def pause(self, order: PauseOrder) -> None:
        """Take nothing new, on one GPU or at all, for a while or until resumed."""
        await self._running.pausing.pause(order)

    async def resume(self, order: ResumeOrder) -> None:
        """End a pause or a drain; what was found damaged has been seen. Of one GPU: end its pause."""
        if not order.gpu:
            self._running.storage.acknowledged()
        await self._running.pausing.resume(order)

    async def reload(self) -> None:
        """As SIGHUP does, but a ConfigError reaches the caller."""
        self._reload_now()

    @property
    def _running(self) -> Parts:
        if self._parts is None:
            if self._waiting_for:
                raise AgentError("the agent is still starting, and waits", remedy=self._waiting_for)
            raise AgentError(
                "the agent is still starting",
                remedy="Its log says what it waits for: a coordinator to enrol with, a large model to verify, a driver",
            )
        return self._parts


def _differing(one: Struct, other: Struct, within: str = "") -> list[str]:
    """Settings by which they differ, as they are called in the file."""
    found: list[str] = []
    for name in one.__struct_fields__:
        mine, theirs = getattr(one, name), getattr(other, name)
        if isinstance(mine, Struct) and isinstance(theirs, Struct):
            found += _differing(mine, theirs, f"{within}{name}.")
        elif mine != theirs:
            found.append(within + name)
    return found


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    """One failure that says what to do beats a tree of them."""
    for error in group.exceptions:
        return _first(error) if isinstance(error, BaseExceptionGroup) else cast("BaseException", error)
    raise AssertionError("an exception group is never empty")
