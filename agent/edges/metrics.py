"""The metrics' own small HTTP server: `GET /metrics`, and nothing else. It listens on loopback, unless its owner names
another address."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

import structlog
from aiohttp import web

from agent.config import MetricsConfig
from agent.core.loopback import is_loopback
from agent.core.metrics import CONTENT_TYPE, Scene, exposition
from agent.core.text import cause

_SHUTDOWN_S = 2.0
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def serve(settings: Callable[[], MetricsConfig], scene: Callable[[], Scene], changed: asyncio.Event) -> None:
    """Serve as `settings` says now, until cancelled; anew whenever `changed` is set and they did change."""
    while True:
        now = settings()
        server = MetricsServer(now.listen, scene) if now.enabled else None
        try:
            if server is not None:
                await server.start()
            while settings() == now:
                changed.clear()
                await changed.wait()
        finally:
            if server is not None:
                await server.close()


class MetricsServer:
    """Serves until closed. An address that cannot be had is told in the log and costs the metrics alone."""

    def __init__(self, listen: str, scene: Callable[[], Scene]) -> None:
        """`listen`: `host:port`, as the configuration checked it; port 0 takes any."""
        address = urlsplit(f"//{listen}")
        self._host, self._port = address.hostname or "", address.port or 0
        self._listen = listen
        self._scene = scene
        self._runner: web.AppRunner | None = None
        self._log = structlog.get_logger("metrics")

    async def start(self) -> None:
        """Begin to serve; never raises for a taken address."""
        app = web.Application(middlewares=[self._guard])
        app.router.add_get("/metrics", self._show)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=_SHUTDOWN_S)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port).start()
        except OSError as fault:
            await self.close()
            self._log.warning("metrics.unserved", listen=self._listen, detail=f"{cause(fault)}; see metrics.listen")
            return
        self._log.info("metrics.served", url=self.url)

    @property
    def url(self) -> str:
        """Where they are; empty while they are not."""
        addresses = self._runner.addresses if self._runner else ()
        for host, port, *_ in addresses:
            return f"http://[{host}]:{port}/metrics" if ":" in host else f"http://{host}:{port}/metrics"
        return ""

    async def close(self) -> None:
        """Stop serving. Idempotent."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    @web.middleware
    async def _guard(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """On loopback a page in the owner's browser must not read us under a name of its own (DNS rebinding)."""
        name = urlsplit(f"//{request.host}").hostname or ""
        if is_loopback(self._host) and not is_loopback(name):
            return web.Response(status=421, text="these metrics are for this machine alone; see metrics.listen\n")
        return await handler(request)

    async def _show(self, _: web.Request) -> web.StreamResponse:
        return web.Response(body=exposition(self._scene()).encode(), headers={"Content-Type": CONTENT_TYPE})
