"""A minimal scripted node: speaks the protocol over real sockets and does exactly what a test tells it to."""

from __future__ import annotations

import asyncio
import itertools
from types import TracebackType
from typing import Any, TypeVar

import aiohttp
import msgspec

from agent.core import wire
from agent.core.proof.signed import open_signed
from agent.devnet.keys import verify
from tests import builders
from tests.devnet.world import Actor

M = TypeVar("M", bound=wire.Down)
ANSWER_S = 20.0


class Answer:
    """An HTTP answer: the frame, and the status that it came with."""

    def __init__(self, status: int, raw: bytes, headers: Any) -> None:
        self.status = status
        self.raw = raw
        self.headers = headers

    @property
    def msg(self) -> wire.DownMessage:
        return wire.decode_down(self.raw).msg

    @property
    def code(self) -> str:
        assert isinstance(self.msg, wire.Refusal), self.raw
        return self.msg.code.value


class ScriptedNode:
    """Enrols, says hello and speaks; `stream` chooses the WebSocket."""

    def __init__(self, url: str, key: str, *, seed: int = 1, stream: bool = False) -> None:
        self.url = url
        self.key = key
        self.actor = Actor(seed)
        self.stream = stream
        self.session = ""
        self.pushes: asyncio.Queue[wire.DownMessage] = asyncio.Queue()
        self._seq = itertools.count(1)
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._replies: dict[int | None, asyncio.Future[wire.DownMessage]] = {}
        self._reader: asyncio.Task[None] | None = None

    async def __aenter__(self) -> ScriptedNode:
        self.http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60.0))
        return self

    async def __aexit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.hang_up()
        await self.http.close()

    async def post(
        self, path: str, body: bytes | msgspec.Struct = b"", token: str | None = None, **more: Any
    ) -> Answer:
        data = wire.encode(body) if isinstance(body, msgspec.Struct) else body
        token = self.session if token is None else token
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        headers |= more.pop("headers", {})
        method = more.pop("method", "POST")
        async with self.http.request(method, self.url + path, data=data, headers=headers, **more) as response:
            return Answer(response.status, await response.read(), response.headers)

    async def enrol(self, token: str) -> wire.EnrolReply:
        answer = await self.post("/v1/enrol", self.actor.enrolment(token))
        assert answer.status == 200, answer.raw
        return msgspec.json.decode(answer.raw, type=wire.EnrolReply)

    async def join(self, token: str, **hello: Any) -> wire.Welcome:
        await self.enrol(token)
        return await self.hello(**hello)

    async def hello(self, **changes: Any) -> wire.Welcome:
        changes = {"fingerprint": builders.fingerprint(pools=(builders.pool(),)), **changes}
        reply = await (self._stream_hello(changes) if self.stream else self._poll_hello(changes))
        assert isinstance(reply, wire.Welcome), reply
        self.session = reply.session
        return reply

    async def nonce(self) -> str:
        message = (await self.post("/v1/nonce")).msg
        assert isinstance(message, wire.Nonce)
        return message.nonce

    async def _poll_hello(self, changes: dict[str, Any]) -> wire.DownMessage:
        hello = self.actor.hello(await self.nonce(), self.key, **changes)
        return (await self.post("/v1/hello", wire.UpFrame(seq=0, msg=hello))).msg

    async def _stream_hello(self, changes: dict[str, Any]) -> wire.DownMessage:
        await self.hang_up()
        self._socket = await self.http.ws_connect(self.url + "/v1/link", protocols=(wire.SUBPROTOCOL,))
        opening = wire.decode_down((await self._socket.receive(ANSWER_S)).data).msg
        assert isinstance(opening, wire.Nonce)
        self._reader = asyncio.create_task(self._read(self._socket))
        return await self.exchange(wire.UpFrame(seq=0, msg=self.actor.hello(opening.nonce, self.key, **changes)))

    async def hang_up(self) -> None:
        if self._reader and self._socket:
            await self._socket.close()
            await self._reader
            self._reader = None

    async def exchange(self, frame: wire.UpFrame) -> wire.DownMessage:
        """One frame over the stream, and its answer."""
        return await self.send(wire.encode(frame).decode(), frame.seq)

    async def send(self, text: str, re: int | None) -> wire.DownMessage:
        assert self._socket
        self._replies[re] = asyncio.get_running_loop().create_future()
        await self._socket.send_str(text)
        return await asyncio.wait_for(self._replies[re], ANSWER_S)

    async def call(self, message: wire.UpMessage, kind: type[M]) -> M:
        frame = wire.UpFrame(seq=next(self._seq), msg=message)
        if self.stream:
            reply = await self.exchange(frame)
        else:
            reply = (await self.post(f"/v1/{wire.tag_of(message)}", frame)).msg
        assert isinstance(reply, kind), reply
        return reply

    async def pull(self, count: int = 1, wait_s: float = 0.0) -> list[wire.OfferBody]:
        return await self.pull_for(wire.Credit(pool="main", model_digest=builders.MODEL, count=count), wait_s)

    async def pull_for(self, credit: wire.Credit, wait_s: float = 0.0) -> list[wire.OfferBody]:
        reply = await self.call(wire.Pull(credits=(credit,), wait_s=wait_s), wire.Offers)
        payloads = [open_signed(wire.Role.OFFER, it, self.key, verify) for it in reply.offers]
        return [msgspec.json.decode(payload, type=wire.OfferBody) for payload in payloads]

    async def start(self, offer: wire.OfferBody) -> wire.Confirmed:
        return (await self.call(wire.Start(keys=(offer.key,)), wire.StartAck)).leases[0]

    async def chunk(self, offer: wire.OfferBody, index: int, text: str) -> None:
        message = wire.Chunk(key=offer.key, index=index, text=text, tokens=1)
        if self.stream:
            assert self._socket
            frame = wire.UpFrame(seq=next(self._seq), msg=message)
            await self._socket.send_str(wire.encode(frame).decode())
        else:
            await self.call(message, wire.Ack)

    async def deliver(self, delivery: wire.Delivery) -> wire.ReceiptBody:
        receipt = await self.call(wire.Result(deliveries=(delivery,)), wire.Receipt)
        answer = receipt.answers[0]
        if answer.refusal is not None:
            raise AssertionError(answer.refusal)
        payload = open_signed(wire.Role.RECEIPT, answer.signed, self.key, verify)
        return msgspec.json.decode(payload, type=wire.ReceiptBody)

    async def put_blob(self, name: str, body: bytes) -> Answer:
        return await self.post(f"/v1/blobs/{name}", body, method="PUT")

    async def get_blob(self, name: str) -> bytes:
        answer = await self.post(f"/v1/blobs/{name}", method="GET")
        assert answer.status == 200, answer.raw
        return answer.raw

    async def _read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        async for message in socket:
            frame = wire.decode_down(message.data)
            waiting = self._replies.pop(frame.re, None)
            if waiting:
                waiting.set_result(frame.msg)
            else:
                self.pushes.put_nowait(frame.msg)
