"""The node's side over HTTP: one route a message."""

from __future__ import annotations

import errno
import logging

import msgspec
from aiohttp import web

from agent.core.attest.messages import MatrixCommitted, MatrixOpened, MatrixReady, MatrixReread
from agent.core.wire import (
    Beat,
    Bye,
    Chunk,
    Decline,
    EnrolRequest,
    Opening,
    Pull,
    RefusalCode,
    Result,
    Start,
    Up,
    tag_of,
)
from agent.devnet.core import leasing
from agent.devnet.core.proofs import opening
from agent.devnet.core.rules import Refused, bad_message
from agent.devnet.reception import Reception, read_frame
from agent.devnet.sessions import Session
from agent.devnet.web import bearer_of, body_of, framed, json, plain_body, value_of

logger = logging.getLogger(__name__)
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS})
"""Faults of the disk. A connection that broke is an OSError, too, and may be the node's doing."""
OCTETS = {"Content-Type": "application/octet-stream"}
_ENROL = msgspec.json.Decoder(EnrolRequest)
_MATRIX: tuple[type[Up], ...] = (MatrixReady, MatrixCommitted, MatrixReread, MatrixOpened)
MESSAGES: tuple[type[Up], ...] = (Beat, Pull, Start, Decline, Chunk, Result, Opening, Bye, *_MATRIX)


class NodeRoutes:
    """`POST /v1/{nonce,hello,enrol,beat,pull,start,decline,chunk,result,opening,bye}`, and `/v1/blobs/{sha256}`."""

    def __init__(self, reception: Reception) -> None:
        self._reception = reception

    def routes(self) -> list[web.RouteDef]:
        named = [web.post(f"/v1/{tag_of(kind)}", self._message) for kind in MESSAGES]
        return [
            web.post("/v1/enrol", self._enrol),
            web.post("/v1/nonce", self._nonce),
            web.post("/v1/hello", self._hello),
            web.put("/v1/blobs/{sha256}", self._blob),
            web.get("/v1/blobs/{sha256}", self._give),
            *named,
        ]

    async def _enrol(self, request: web.Request) -> web.Response:
        return json(await self._reception.enrol(await value_of(request, _ENROL)))

    async def _nonce(self, request: web.Request) -> web.Response:
        await body_of(request, limit=1024)
        return framed(self._reception.nonce())

    async def _hello(self, request: web.Request) -> web.Response:
        frame = read_frame(await body_of(request))
        welcome, _ = await self._reception.hello(frame)
        return framed(welcome, re=frame.seq)

    async def _message(self, request: web.Request) -> web.Response:
        session = self._session(request)
        frame = read_frame(await body_of(request))
        try:
            if request.path != f"/v1/{tag_of(frame.msg)}":
                raise bad_message(f"a {tag_of(frame.msg)} goes to /v1/{tag_of(frame.msg)}, not to {request.path}")
            return framed(await self._reception.answer(session, frame), re=frame.seq)
        except Refused as error:
            return framed(error.told(), re=frame.seq)

    async def _blob(self, request: web.Request) -> web.Response:
        node_id = self._session(request).node_id
        plain_body(request)
        pieces = aiter(request.content.iter_chunked(1 << 18))
        desk, name = self._reception.desk, request.match_info["sha256"]
        owed = any(desk.book.docket.owed(node_id))
        try:
            await desk.blobs.put(node_id, name, request.content_length, pieces, owed=owed)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            opening.hindered(desk.book, node_id)
            logger.warning("blob.unkept node=%s: %s", node_id, error)
            what = "the coordinator has no room for it; its log has more"
            raise Refused(RefusalCode.BUSY, what, retry_after_s=30.0) from error
        return web.Response(status=201)

    async def _give(self, request: web.Request) -> web.StreamResponse:
        """What a task of this node needs, and nothing else: a digest is no secret."""
        node_id, sha256 = self._session(request).node_id, request.match_info["sha256"]
        desk = self._reception.desk
        path = desk.path_of(sha256) if leasing.may_read(desk.book, node_id, sha256) else None
        if path is None:
            raise Refused(RefusalCode.NOT_FOUND, "no task that this node holds names such a blob")
        return web.FileResponse(path, headers=OCTETS)

    def _session(self, request: web.Request) -> Session:
        now = self._reception.desk.when().now
        return self._reception.sessions.find(now, bearer_of(request))
