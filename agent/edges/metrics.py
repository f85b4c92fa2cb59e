"""What Prometheus reads: `GET /metrics`, and nothing else. On loopback, unless its owner names another address."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp.web_request import BaseRequest
from aiohttp.web_response import Response

from agent.core.metrics import CONTENT_TYPE, Scene, exposition
from agent.edges.local_http import LocalServer


class MetricsServer(LocalServer):
    """Shows what `scene` is at each request."""

    def __init__(self, listen: str, scene: Callable[[], Scene]) -> None:
        async def show(_: BaseRequest) -> Response:
            return Response(body=exposition(scene()).encode(), headers={"Content-Type": CONTENT_TYPE})

        super().__init__("metrics", listen, {"/metrics": show})
