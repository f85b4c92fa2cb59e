"""Serves the owner's page on loopback: `GET /` and three files of its own. There is no other verb and no other path.

Whoever can connect is a program of this machine, but may be a browser with somebody else's page in it. So the Host
header must name this machine (a rebound DNS name does not), what a page of another origin asks for is refused, nothing
allows such a page to read or to frame this one, and no byte of the status can become script or style.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from aiohttp.web_exceptions import HTTPException
from aiohttp.web_request import BaseRequest
from aiohttp.web_response import Response

from agent.core.status import Status
from agent.edges.local_http import LocalServer
from agent.edges.page.screen import document
from agent.edges.serving import Answer

_FILES = {"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Server": "gpu-agent",
}


class PageServer(LocalServer):
    """Shows what `status` is at each request."""

    def __init__(self, listen: str, status: Callable[[], Status]) -> None:
        async def show(_: BaseRequest) -> Response:
            return Response(text=document(status(), time.time()), content_type="text/html", charset="utf-8")

        super().__init__("page", listen, {"/": show} | {f"/{name}": _file(name, kind) for name, kind in _FILES.items()})

    def refused(self, request: BaseRequest) -> Response | None:
        """A page of another site may link here, and no more. Only browsers send these headers, and all of today do."""
        site, mode = request.headers.get("Sec-Fetch-Site", "none"), request.headers.get("Sec-Fetch-Mode", "navigate")
        if site not in ("none", "same-origin") and mode != "navigate":
            return Response(status=403, text="this page answers itself alone\n")
        return super().refused(request)

    async def _answer(self, request: BaseRequest) -> Response:
        try:
            response = await super()._answer(request)
        except HTTPException as refusal:  # of a path or a method: answered here, to have the headers too
            response = Response(status=refusal.status, text=f"{refusal.reason}\n")
        response.headers.update(_HEADERS)
        return response


def _file(name: str, kind: str) -> Answer:
    content = (Path(__file__).parent / name).read_bytes()

    async def show(_: BaseRequest) -> Response:
        return Response(body=content, content_type=kind, charset="utf-8")

    return show
