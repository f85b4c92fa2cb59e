"""What the agent tells over HTTP on an address of the configuration: the metrics, and the owner's page."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar
from urllib.parse import urlsplit

import structlog
from aiohttp.web_request import BaseRequest
from aiohttp.web_response import Response

from agent.core.loopback import is_loopback
from agent.core.text import cause
from agent.edges.serving import Answer, HttpServer, routed


class Served(Protocol):
    """A section of the configuration that says where to serve."""

    @property
    def enabled(self) -> bool: ...
    @property
    def listen(self) -> str: ...


_Settings = TypeVar("_Settings", bound=Served)


def _nobody(_url: str) -> None:
    return None


async def serve(
    settings: Callable[[], _Settings],
    build: Callable[[str], LocalServer],
    changed: asyncio.Event,
    told: Callable[[str], None] = _nobody,
) -> None:
    """Serve as `settings` says now, until cancelled; anew whenever `changed` is set and they did change, or their
    address could not be had.

    `build` makes a server for an address; `told` hears where it is, and "" when it is not any more."""
    while True:
        now = settings()
        server = build(now.listen) if now.enabled else None
        try:
            if server is not None:
                await server.start()
                told(server.url)
            while settings() == now:
                changed.clear()
                await changed.wait()
                if server is not None and not server.url:
                    break
        finally:
            if server is not None:
                told("")
                await server.close()


class LocalServer:
    """Answers GET until closed. An address that cannot be had is told in the log, and all else goes on."""

    def __init__(self, section: str, listen: str, answers: Mapping[str, Answer]) -> None:
        """`section` of the configuration, for the log; `listen`: `host:port`, as the configuration checked it, where
        port 0 takes any; `answers` by path, the first being what people are sent to."""
        address = urlsplit(f"//{listen}")
        self._host, self._port = address.hostname or "", address.port or 0
        self._section, self._listen, self._path = section, listen, next(iter(answers))
        self._routes = {path: {"GET": answer} for path, answer in answers.items()}
        self._server = HttpServer(self._answer)
        self._log = structlog.get_logger(section)

    async def start(self) -> None:
        """Begin to serve; never raises for a taken address."""
        try:
            await self._server.start_at(self._host, self._port)
        except OSError as fault:
            await self.close()
            detail = f"{cause(fault)}; see {self._section}.listen"
            self._log.warning(f"{self._section}.unserved", listen=self._listen, detail=detail)
            return
        self._log.info(f"{self._section}.served", url=self.url)

    @property
    def url(self) -> str:
        """Where it is; empty while it is nowhere."""
        for host, port, *_ in self._server.addresses:
            return f"http://[{host}]:{port}{self._path}" if ":" in host else f"http://{host}:{port}{self._path}"
        return ""

    async def close(self) -> None:
        """Stop serving. Idempotent."""
        await self._server.close()

    def refused(self, request: BaseRequest) -> Response | None:
        """On loopback a page in the owner's browser must not read us under a name of its own (DNS rebinding)."""
        if is_loopback(self._host) and not is_loopback(_host_of(request.headers.get("Host", ""))):
            return Response(status=421, text=f"this is for this machine alone; see {self._section}.listen\n")
        return None

    async def _answer(self, request: BaseRequest) -> Response:
        return self.refused(request) or await routed(self._routes, request)


def _host_of(header: str) -> str:
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:  # of brackets that hold no address
        return ""
