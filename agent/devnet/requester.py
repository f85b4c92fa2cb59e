"""A requester's client: submit, follow, cancel, fetch the receipt. Follows across reconnects."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import TypeVar

import aiohttp
import msgspec

from agent.core.errors import LinkError, LinkFault
from agent.core.model import Blob, ExecInput
from agent.core.program import RUNTIME
from agent.core.text import cause
from agent.core.wire import DownFrame, ReceiptBundle, Refusal, RefusalCode, decode_down
from agent.devnet.core.asking import Asked, SamplingAsked, TaskAsked
from agent.devnet.core.rules import Refused
from agent.devnet.proof_views import Proofs
from agent.devnet.streams import ChunkSeen, Restarted, StateSeen, StreamEvent
from agent.devnet.views import Cancelled, Ledger, Nodes, Submitted, TaskView, TokenMade

RETRY_S = 0.5
"""Pause before a broken stream is opened again."""
QUIET_LIMIT_S = 45.0
"""Three heartbeats of silence: the connection is dead, whatever TCP thinks."""
_LINE_BYTES = 8 << 20
"""A result event is one line: an inline output of 128 KiB, escaped sixfold, and its story."""

T = TypeVar("T")
_stream_events = {"chunk": ChunkSeen, "restarted": Restarted, "state": StateSeen}


class Requester:
    """One requester of one coordinator. Every method raises Refused or LinkError(UNREACHABLE | BROKEN)."""

    def __init__(self, url: str, token: str, *, tls: ssl.SSLContext | None = None) -> None:
        self._url = url.rstrip("/")
        self._token = token
        self._tls = tls if tls is not None else True
        self._retry_s = RETRY_S

    async def __aenter__(self) -> Requester:
        self._http = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {self._token}"},
            timeout=aiohttp.ClientTimeout(total=None, connect=10.0, sock_read=QUIET_LIMIT_S),
            read_bufsize=_LINE_BYTES,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.close()

    async def submit(
        self,
        model_digest: str,
        input: Asked,
        *,
        max_tokens: int = 0,
        sampling: SamplingAsked | None = None,
        deadline_s: float | None = None,
        request_key: str = "",
    ) -> str:
        """Queue a task; returns its id. With a `request_key` it may be repeated without asking twice."""
        asked = TaskAsked(
            model_digest=model_digest,
            input=input,
            max_tokens=max_tokens,
            sampling=sampling or SamplingAsked(),
            deadline_s=deadline_s,
            request_key=request_key,
        )
        return (await self._call("POST", "/v1/tasks", Submitted, asked)).task_id

    async def task(self, task_id: str) -> TaskView:
        """The task as it is now."""
        return await self._call("GET", f"/v1/tasks/{task_id}", TaskView)

    async def cancel(self, task_id: str) -> Cancelled:
        """Stop it; tells the state that it is in now."""
        return await self._call("DELETE", f"/v1/tasks/{task_id}", Cancelled)

    async def receipt(self, task_id: str) -> ReceiptBundle:
        """Everything that `gpu-agent verify` needs; the output of a blob comes with it."""
        bundle = await self._call("GET", f"/v1/tasks/{task_id}/receipt", ReceiptBundle)
        if bundle.output is None:
            bundle = msgspec.structs.replace(bundle, output=await self.output(task_id))
        return bundle

    async def proof(self, task_id: str) -> ReceiptBundle:
        """What `receipt` has, and what was opened, the beacon and the judgement. Refused where nothing was drawn."""
        return await self._call("GET", f"/v1/tasks/{task_id}/proof", ReceiptBundle)

    async def output(self, task_id: str) -> str:
        """The output, however large."""
        return (await self._exchange("GET", f"/v1/tasks/{task_id}/output")).decode()

    async def upload(self, content: bytes) -> Blob:
        """Bring a bundle or an input, before the task that names it. The same content again is no error."""
        blob = Blob(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
        await self._exchange("PUT", f"/v1/inputs/{blob.sha256}", content)
        return blob

    async def run(self, task: ExecInput, *, deadline_s: float | None = None, request_key: str = "") -> str:
        """Queue a program whose bundle and inputs are uploaded; returns the task's id."""
        return await self.submit(RUNTIME, task, deadline_s=deadline_s, request_key=request_key)

    async def artifact(self, task_id: str) -> bytes:
        """The archive of what a program left (`core.archive`)."""
        return await self._exchange("GET", f"/v1/tasks/{task_id}/artifact")

    async def proofs(self, *, limit: int = 100) -> Proofs:
        """Challenges, newest first, and the nodes' records."""
        return await self._call("GET", f"/v1/proofs?limit={limit}", Proofs)

    async def ledger(self) -> Ledger:
        """What was earned, by whom, for what."""
        return await self._call("GET", "/v1/ledger", Ledger)

    async def nodes(self) -> Nodes:
        """Enrolled nodes, with what they offer."""
        return await self._call("GET", "/v1/nodes", Nodes)

    async def enrol_token(self) -> str:
        """A new one-time token for a node."""
        return (await self._call("POST", "/v1/enrol-tokens", TokenMade)).token

    async def result(self, task_id: str) -> TaskView:
        """Wait until the task has ended."""
        async for event in self.events(task_id):
            if isinstance(event, TaskView):
                return event
        raise AssertionError("the stream of a task ends with its result")

    async def events(
        self, task_id: str, *, lost: Callable[[str], object] = lambda _: None
    ) -> AsyncIterator[StreamEvent | TaskView]:
        """Everything that happens until the task ends; the last event is the TaskView. Reconnects by itself, and tells
        `lost` each time why it must: what it raises ends it. States and restarts are told again then, text is not."""
        place = ""
        while True:
            try:
                async for event in self._stream(task_id, place):
                    yield event
                    if isinstance(event, TaskView):
                        return
                    if isinstance(event, ChunkSeen):
                        place = f"{event.attempt}.{event.index}"
            except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
                lost(_why(error))  # the coordinator restarts or the network broke: go on where we were
            except Refused as error:
                if error.code is not RefusalCode.BUSY:
                    raise
                lost(error.message)
            await asyncio.sleep(self._retry_s)

    async def _stream(self, task_id: str, place: str) -> AsyncIterator[StreamEvent | TaskView]:
        headers = {"Accept": "text/event-stream", **({"Last-Event-ID": place} if place else {})}
        url = f"{self._url}/v1/tasks/{task_id}/events"
        async with self._http.get(url, headers=headers, ssl=self._tls) as response:
            if response.status != 200:
                raise _refused(response.status, await response.read())
            name = ""
            async for line in response.content:
                field, _, value = line.rstrip(b"\n").partition(b": ")
                if field == b"event":
                    name = value.decode()
                elif field == b"data":
                    kind = TaskView if name == "result" else _stream_events[name]
                    yield msgspec.json.decode(value, type=kind)

    async def _call(self, method: str, path: str, kind: type[T], body: msgspec.Struct | None = None) -> T:
        raw = await self._exchange(method, path, body)
        try:
            return msgspec.json.decode(raw, type=kind)
        except msgspec.DecodeError as error:
            raise LinkError(LinkFault.BROKEN, f"{path} answers something else: {error}") from error

    async def _exchange(self, method: str, path: str, body: msgspec.Struct | bytes | None = None) -> bytes:
        data = body if isinstance(body, bytes) or body is None else msgspec.json.encode(body)
        try:
            async with self._http.request(method, self._url + path, data=data, ssl=self._tls) as response:
                raw = await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            told = f"the coordinator at {self._url} cannot be reached: {_why(error)}"
            raise LinkError(LinkFault.UNREACHABLE, told, remedy="Is this its address, and does it run?") from error
        if response.status >= 300:
            raise _refused(response.status, raw)
        return raw


def _why(error: Exception) -> str:
    """What the system said of it; of what libraries say nobody is wiser."""
    known = isinstance(error, OSError) and not isinstance(error, TimeoutError)
    return cause(error) if known else "no answer in time" if isinstance(error, TimeoutError) else "the connection broke"


def _refused(status: int, raw: bytes) -> Exception:
    try:
        frame = decode_down(raw)
    except msgspec.DecodeError:
        frame = None
    match frame:
        case DownFrame(msg=Refusal() as refusal):
            return Refused(refusal.code, refusal.message, retry_after_s=refusal.retry_after_s)
        case _:
            return LinkError(LinkFault.BROKEN, f"it answers HTTP {status}: {raw[:200]!r}")
