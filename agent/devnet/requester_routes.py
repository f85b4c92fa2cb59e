"""The requester's side: tasks, their events, receipts, the ledger, nodes."""

from __future__ import annotations

import asyncio
import hmac
import re
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web

from agent.core.model import ExecInput
from agent.core.program import blobs_of
from agent.core.wire import Directive, ReceiptBundle, RefusalCode
from agent.devnet.blobs import REQUESTER
from agent.devnet.bundles import proof_of
from agent.devnet.case_store import last_judged
from agent.devnet.core import asking, presence
from agent.devnet.core.proofs.records import CaseState
from agent.devnet.core.records import ENDED, Settlement, Task, TaskState
from agent.devnet.core.rules import Refused, bad_message
from agent.devnet.desk import Desk
from agent.devnet.proof_views import proofs
from agent.devnet.store import ledger, settlement_of
from agent.devnet.streams import Place, StateSeen, event_bytes
from agent.devnet.views import (
    Cancelled,
    Health,
    Ledger,
    Nodes,
    Submitted,
    TaskView,
    TokenMade,
    node_view,
    task_view,
)
from agent.devnet.web import bearer_of, body_of, json, plain_body, value_of

QUIET_S = 15.0
"""Silence after which a comment keeps the stream alive; proxies give up at 30 to 60 s."""
_ASKED = msgspec.json.Decoder(asking.TaskAsked)
_DIRECTIVE = msgspec.json.Decoder(Directive)
MAX_LINES = 1000
_LIMIT = re.compile(r"[1-9]\d{0,3}")
_PLACE = re.compile(r"(\d{1,9})\.(\d{1,9})")

Route = Callable[[web.Request], Awaitable[web.StreamResponse]]


class RequesterRoutes:
    """Every route but /healthz needs the requester token."""

    def __init__(self, desk: Desk, token: str) -> None:
        self._desk = desk
        self._token = token.encode()
        self._following: set[asyncio.Task[Any]] = set()

    def routes(self) -> list[web.RouteDef]:
        closed = self._closed
        return [
            web.get("/healthz", self._health),
            web.post("/v1/tasks", closed(self._submit)),
            web.get("/v1/tasks/{id}", closed(self._show)),
            web.delete("/v1/tasks/{id}", closed(self._cancel)),
            web.get("/v1/tasks/{id}/events", closed(self._events)),
            web.get("/v1/tasks/{id}/output", closed(self._output)),
            web.put("/v1/inputs/{sha256}", closed(self._upload)),
            web.get("/v1/tasks/{id}/artifact", closed(self._artifact)),
            web.get("/v1/tasks/{id}/receipt", closed(self._receipt)),
            web.get("/v1/tasks/{id}/proof", closed(self._proof)),
            web.get("/v1/proofs", closed(self._proofs)),
            web.get("/v1/ledger", closed(self._ledger)),
            web.get("/v1/nodes", closed(self._nodes)),
            web.post("/v1/nodes/{id}/directives", closed(self._direct)),
            web.post("/v1/enrol-tokens", closed(self._enrol_token)),
        ]

    def close(self) -> None:
        """Let every follower go; it comes back to whoever serves next."""
        for follower in self._following:
            follower.cancel()

    def _closed(self, route: Route) -> Route:
        async def checked(request: web.Request) -> web.StreamResponse:
            if not hmac.compare_digest(bearer_of(request).encode(), self._token):
                raise Refused(RefusalCode.BAD_TOKEN, "this is not the requester token of this coordinator")
            return await route(request)

        return checked

    async def _health(self, _: web.Request) -> web.StreamResponse:
        if self._desk.fault:
            return json(Health(status="cannot write its state"), status=503)
        return json(Health(status="ok"))

    # ----------------------------------------------------------------------- tasks

    async def _submit(self, request: web.Request) -> web.StreamResponse:
        asked = await value_of(request, _ASKED)
        self._check_blobs(asked)
        task_id, nonce = f"t-{secrets.token_hex(12)}", secrets.token_hex(32)
        decision = asking.submit(self._desk.book, self._desk.when(), asked, task_id, nonce)
        return json(Submitted(task_id=await self._desk.carry_out(decision)), status=201)

    def _check_blobs(self, asked: asking.TaskAsked) -> None:
        if isinstance(asked.input, ExecInput):
            for sha256, size in blobs_of(asked.input).items():
                if (here := self._desk.blobs.size_of(sha256)) != size:
                    told = "is not here" if here is None else f"has {here} bytes"
                    what = f"blob {sha256[:64]} of {size} bytes {told}: PUT /v1/inputs/<sha256> first"
                    raise Refused(RefusalCode.NOT_FOUND, what)

    async def _upload(self, request: web.Request) -> web.StreamResponse:
        plain_body(request)
        pieces = aiter(request.content.iter_chunked(1 << 18))
        await self._desk.blobs.put(REQUESTER, request.match_info["sha256"], request.content_length, pieces)
        return web.Response(status=201)

    async def _show(self, request: web.Request) -> web.StreamResponse:
        return json(await self._view(self._task(request)))

    async def _cancel(self, request: web.Request) -> web.StreamResponse:
        task_id = request.match_info["id"]
        state = await self._desk.carry_out(asking.cancel(self._desk.book, self._desk.when(), task_id))
        return json(Cancelled(task_id=task_id, state=state))

    async def _events(self, request: web.Request) -> web.StreamResponse:
        task = self._task(request)
        self._desk.when()  # refuses when nothing would ever happen
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        await response.prepare(request)
        follower = asyncio.current_task()
        assert follower is not None
        self._following.add(follower)
        try:
            await self._follow(task, _place_of(request), response)
        finally:
            self._following.discard(follower)
        view = await self._view(task)
        await response.write(b"event: result\ndata: " + msgspec.json.encode(view) + b"\n\n")
        await response.write_eof()
        return response

    async def _follow(self, task: Task, had: Place, response: web.StreamResponse) -> None:
        """Until the task has ended. Nothing may wait between the look at its state and the first event."""
        if task.progress.state in ENDED:
            return
        async for event in self._desk.streams.follow(task.task_id, _state_of(task), had, QUIET_S):
            await response.write(b": still here\n\n" if event is None else event_bytes(event))

    async def _output(self, request: web.Request) -> web.StreamResponse:
        settlement = await self._settlement(self._task(request))
        if settlement.blob:
            kind = {"Content-Type": "text/plain; charset=utf-8"}
            return web.FileResponse(self._desk.blobs.path_of(settlement.blob), headers=kind)
        return web.Response(text=settlement.output or "")

    async def _artifact(self, request: web.Request) -> web.StreamResponse:
        settlement = await self._settlement(self._task(request))
        if settlement.artifact is None:
            raise Refused(RefusalCode.NOT_FOUND, f"task {settlement.task_id} left nothing: it was no program")
        kind = {"Content-Type": "application/x-tar"}
        return web.FileResponse(self._desk.blobs.path_of(settlement.artifact.sha256), headers=kind)

    async def _receipt(self, request: web.Request) -> web.StreamResponse:
        settlement = await self._settlement(self._task(request))
        bundle = ReceiptBundle(
            coordinator_key=self._desk.book.key,
            offer=settlement.offer,
            result=settlement.result,
            receipt=settlement.receipt,
            output=settlement.output,
        )
        return json(bundle)

    async def _proof(self, request: web.Request) -> web.StreamResponse:
        settlement = await self._settlement(self._task(request))
        case = await self._desk.case_of(settlement.task_id)
        if case is None or case.state is CaseState.WAITING:  # which of the two is nobody's business yet
            raise Refused(RefusalCode.NOT_FOUND, f"task {settlement.task_id} was not challenged, or not yet")
        content = await asyncio.to_thread(proof_of, self._desk, settlement, case)
        return web.Response(body=content, content_type="application/json")

    async def _proofs(self, request: web.Request) -> web.StreamResponse:
        most = _most(request)
        open_ = tuple(self._desk.book.docket.cases.values())
        judged = await self._desk.store.read(last_judged(most))
        return json(proofs(self._desk.book, open_, judged, most))

    # ----------------------------------------------------------------------- the rest

    async def _ledger(self, _: web.Request) -> web.StreamResponse:
        lines = await self._desk.store.read(ledger)
        total = sum(line.amount_micros for line in lines)
        return json(Ledger(lines=lines, total_micros=total, currency=self._desk.book.rules.currency))

    async def _nodes(self, _: web.Request) -> web.StreamResponse:
        now = self._desk.when().now
        return json(
            Nodes(nodes=tuple(node_view(self._desk.book, node, now) for node in self._desk.book.nodes.values()))
        )

    async def _direct(self, request: web.Request) -> web.StreamResponse:
        directive = await value_of(request, _DIRECTIVE)
        node_id = request.match_info["id"]
        streaming = self._desk.streaming(node_id)
        await self._desk.carry_out(presence.direct(self._desk.book, node_id, directive, streaming=streaming))
        return json(directive, status=202)

    async def _enrol_token(self, request: web.Request) -> web.StreamResponse:
        await body_of(request, limit=1024)
        token = new_token(self._desk.book.key)
        await self._desk.carry_out(presence.issue_token(self._desk.book, token))
        return json(TokenMade(token=token), status=201)

    def _task(self, request: web.Request) -> Task:
        return self._desk.book.task(request.match_info["id"])

    async def _view(self, task: Task) -> TaskView:
        progress = task.progress
        settlement = await self._desk.store.read(settlement_of(progress.settled_by)) if progress.settled_by else None
        promised = settlement is not None and settlement.receipt_body.beacon is not None
        case = await self._desk.case_of(task.task_id) if promised else None
        return task_view(self._desk.book, task, settlement, case)

    async def _settlement(self, task: Task) -> Settlement:
        key = task.progress.settled_by
        settlement = await self._desk.store.read(settlement_of(key)) if key else None
        if settlement is None:
            raise Refused(RefusalCode.NOT_FOUND, f"task {task.task_id} is {task.progress.state}: it has no result")
        return settlement


def new_token(coordinator_key: str) -> str:
    """A one-time enrolment token with 256 bits of chance."""
    return f"ga1.{secrets.token_urlsafe(32)}.{coordinator_key}"


def _most(request: web.Request) -> int:
    """How many lines are wanted."""
    text = request.query.get("limit", "100")
    if not _LIMIT.fullmatch(text) or int(text) > MAX_LINES:
        raise bad_message(f"limit: expected 1 to {MAX_LINES}")
    return int(text)


def _state_of(task: Task) -> StateSeen:
    lease = task.progress.lease if task.progress.state is TaskState.LEASED else None
    return StateSeen(state=task.progress.state, attempt=task.progress.attempt, node_id=lease.node_id if lease else "")


def _place_of(request: web.Request) -> Place:
    match = _PLACE.fullmatch(request.headers.get("Last-Event-ID", ""))
    return Place(int(match[1]), int(match[2])) if match else Place()
