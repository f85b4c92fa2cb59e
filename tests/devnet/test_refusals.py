"""Bad input over real sockets: each refused with its code and a reason, and the coordinator goes on."""

from __future__ import annotations

import gzip
from typing import Any

import aiohttp
import msgspec
import pytest

from agent.core import wire
from agent.core.refusals import STATUS_OF
from agent.devnet.coordinator import Coordinator
from agent.devnet.requester import Requester
from tests import builders
from tests.devnet.conftest import Join
from tests.devnet.node import ScriptedNode
from tests.devnet.world import Actor, sha256
from tests.patience import within

BEAT = wire.UpFrame(seq=1, msg=wire.Beat())


@pytest.fixture
async def node(join: Join) -> ScriptedNode:
    return await join()


def deep(levels: int) -> bytes:
    return b'{"seq":1,"msg":' + b"[" * levels + b"]" * levels + b"}"


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("/v1/beat", b"", "bad_message"),
        ("/v1/beat", b"not json", "bad_message"),
        ("/v1/beat", b"\xff\xfe", "bad_message"),
        ("/v1/beat", b'{"seq":1}', "bad_message"),
        ("/v1/beat", b'{"seq":-1,"msg":{"type":"beat"}}', "bad_message"),
        ("/v1/beat", b'{"seq":1,"msg":{"type":"explode"}}', "bad_message"),
        ("/v1/beat", deep(100_000), "bad_message"),
        ("/v1/beat", wire.encode(wire.UpFrame(seq=1, msg=wire.Bye())), "bad_message"),
        ("/v1/beat", b" " * (wire.MAX_MESSAGE_BYTES + 1), "too_large"),
        ("/v1/hello", wire.encode(BEAT), "bad_message"),
        ("/v1/enrol", b"{}", "bad_message"),
        ("/v1/nothing", b"{}", "not_found"),
        ("/v1/pull", wire.encode(wire.UpFrame(seq=1, msg=wire.Pull(credits=()))), "bad_message"),
    ],
    ids=lambda it: it if isinstance(it, str) else repr(bytes(it[:40])),
)
async def test_a_malformed_message_is_refused(node: ScriptedNode, path: str, body: bytes, code: str) -> None:
    answer = await node.post(path, body)
    assert (answer.code, answer.status) == (code, STATUS_OF[wire.RefusalCode(code)])
    assert "Traceback" not in answer.raw.decode()
    assert (await node.post("/v1/beat", wire.UpFrame(seq=90, msg=wire.Beat()))).status == 200


async def test_a_body_that_grows_without_end_is_cut_off(node: ScriptedNode) -> None:
    async def flood():
        while True:
            yield b" " * (1 << 16)

    try:
        answer = await node.post("/v1/beat", flood())  # type: ignore[arg-type]
        assert answer.code == "too_large"
    except aiohttp.ClientError:
        pass  # the coordinator closed the connection before we had sent all: that, too, is an end
    assert (await node.post("/v1/beat", BEAT)).status == 200


async def test_a_compressed_body_is_refused_before_it_can_explode(node: ScriptedNode) -> None:
    bomb = gzip.compress(bytes(50 << 20))
    answer = await node.post("/v1/beat", bomb, headers={"Content-Encoding": "gzip"})
    assert answer.code == "bad_message"


async def test_headers_without_measure_are_refused(node: ScriptedNode) -> None:
    answer = await node.post("/v1/beat", BEAT, headers={"X-Long": "x" * 20_000})
    assert answer.status == 400
    assert b"Traceback" not in answer.raw


async def test_a_message_is_taken_once(node: ScriptedNode) -> None:
    assert (await node.post("/v1/beat", BEAT)).status == 200
    again = await node.post("/v1/beat", BEAT)
    assert (again.status, again.code) == (409, "replayed")


async def test_messages_may_overtake_each_other_but_not_without_limit(node: ScriptedNode) -> None:
    statuses = []
    for seq in (2000, 1999, 1000, 900):
        statuses.append((await node.post("/v1/beat", wire.UpFrame(seq=seq, msg=wire.Beat()))).status)
    assert statuses == [200, 200, 200, 409]


async def test_a_nonce_opens_one_session(node: ScriptedNode) -> None:
    hello = wire.UpFrame(seq=0, msg=node.actor.hello(await node.nonce(), node.key))
    assert (await node.post("/v1/hello", hello)).status == 200
    again = await node.post("/v1/hello", hello)
    assert (again.status, again.code) == (409, "replayed")


async def test_a_hello_of_an_unknown_node_is_refused(node: ScriptedNode) -> None:
    stranger = Actor(77).hello(await node.nonce(), node.key)
    answer = await node.post("/v1/hello", wire.UpFrame(seq=0, msg=stranger))
    assert (answer.status, answer.code) == (401, "unknown_node")


async def test_a_hello_with_the_key_of_another_node_is_refused(node: ScriptedNode) -> None:
    nonce = await node.nonce()
    forged = msgspec.structs.replace(Actor(77).hello(nonce, node.key), node_id=node.actor.node_id)
    answer = await node.post("/v1/hello", wire.UpFrame(seq=0, msg=forged))
    assert (answer.status, answer.code) == (401, "bad_signature")


@pytest.mark.parametrize(("token", "code"), [("", "bad_token"), ("nonsense", "session_expired")])
async def test_a_message_without_a_session_is_refused(node: ScriptedNode, token: str, code: str) -> None:
    answer = await node.post("/v1/beat", BEAT, token=token)
    assert (answer.status, answer.code) == (401, code)
    blob = await node.post("/v1/blobs/" + "0" * 64, b"x", token=token, method="PUT")
    assert (blob.status, blob.code) == (401, code)


async def test_a_session_of_one_node_cannot_deliver_for_another(
    node: ScriptedNode, join: Join, requester: Requester
) -> None:
    thief = await join(seed=2)
    await requester.submit(builders.MODEL, builders.task().input, max_tokens=16)
    (offer,) = await node.pull()
    theirs = wire.Result(deliveries=(node.actor.success(offer),))
    (stolen,) = (await thief.call(theirs, wire.Receipt)).answers
    assert stolen.refusal
    assert stolen.refusal.code is wire.RefusalCode.BAD_SIGNATURE
    assert (await node.deliver(node.actor.success(offer))).status is wire.ReceiptStatus.ACCEPTED


@pytest.mark.parametrize(
    ("name", "body", "code"),
    [
        (sha256("x"), b"y", "bad_message"),
        ("short", b"y", "bad_message"),
        ("..%2f..%2fescape", b"y", "bad_message"),
    ],
)
async def test_a_blob_that_is_not_what_its_name_says_is_refused_and_not_kept(
    node: ScriptedNode, coordinator: Coordinator, name: str, body: bytes, code: str
) -> None:
    assert (await node.put_blob(name, body)).code == code
    assert coordinator.desk.blobs.size_of(name) is None


async def test_a_blob_announced_as_too_large_is_refused_before_it_is_read(node: ScriptedNode) -> None:
    headers = {"Content-Length": str(wire.MAX_BLOB_BYTES + 1), "Expect": "100-continue"}
    try:
        answer = await node.post("/v1/blobs/" + "0" * 64, b"", method="PUT", headers=headers)
        assert answer.code == "too_large"
    except aiohttp.ClientError:
        pass  # refused while we still had to send
    assert (await node.post("/v1/beat", BEAT)).status == 200


# --------------------------------------------------------------------------- the stream


@pytest.mark.parametrize(
    "text",
    ["", "not json", '{"seq":1}', '{"seq":1,"msg":{"type":"explode"}}', "[" * 50_000],
    ids=["empty", "no json", "no message", "unknown", "deep"],
)
async def test_a_malformed_message_on_a_stream_is_refused_and_the_stream_goes_on(join: Join, text: str) -> None:
    node = await join(stream=True)
    reply = await node.send(text, None)
    assert isinstance(reply, wire.Refusal)
    assert reply.code is wire.RefusalCode.BAD_MESSAGE
    await node.call(wire.Beat(), wire.BeatAck)


async def test_a_replayed_message_on_a_stream_is_refused(join: Join) -> None:
    node = await join(stream=True)
    await node.exchange(wire.UpFrame(seq=7, msg=wire.Beat()))
    again = await node.exchange(wire.UpFrame(seq=7, msg=wire.Beat()))
    assert isinstance(again, wire.Refusal)
    assert again.code is wire.RefusalCode.REPLAYED


async def test_an_oversized_message_ends_the_stream_and_only_that(join: Join) -> None:
    node, other = await join(seed=1, stream=True), await join(seed=2, stream=True)
    assert node._socket is not None
    await node._socket.send_str(" " * (wire.MAX_MESSAGE_BYTES + 100))
    assert node._reader is not None
    await within(node._reader)
    assert node._socket.close_code == aiohttp.WSCloseCode.MESSAGE_TOO_BIG
    await other.call(wire.Beat(), wire.BeatAck)


async def test_a_peer_that_speaks_something_else_is_let_go(join: Join) -> None:
    node = await join(stream=True)
    assert node._socket is not None
    assert node._reader is not None
    for _ in range(40):
        await node._socket.send_str("GET / HTTP/1.1")
    await within(node._reader)
    assert node._socket.close_code == aiohttp.WSCloseCode.POLICY_VIOLATION


@pytest.mark.parametrize(
    ("forge", "code"),
    [
        (lambda hello: msgspec.structs.replace(hello, signature="00" * 64), "bad_signature"),
        (lambda hello: msgspec.structs.replace(hello, nonce="00" * 32), "replayed"),
        (lambda hello: wire.Beat(), "bad_message"),
    ],
)
async def test_a_forged_hello_on_a_stream_is_refused(
    coordinator: Coordinator, node: ScriptedNode, forge: Any, code: str
) -> None:
    async with node.http.ws_connect(coordinator.url + "/v1/link", protocols=(wire.SUBPROTOCOL,)) as socket:
        opening = wire.decode_down((await socket.receive(10)).data).msg
        assert isinstance(opening, wire.Nonce)
        frame = wire.UpFrame(seq=0, msg=forge(node.actor.hello(opening.nonce, coordinator.public_key)))
        await socket.send_str(wire.encode(frame).decode())
        reply = wire.decode_down((await socket.receive(10)).data)
        assert isinstance(reply.msg, wire.Refusal)
        assert (reply.msg.code, reply.re) == (code, 0)
        assert (await socket.receive(10)).type is aiohttp.WSMsgType.CLOSE


async def test_a_stream_without_the_subprotocol_is_refused(coordinator: Coordinator, node: ScriptedNode) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await node.http.ws_connect(coordinator.url + "/v1/link")
    assert refused.value.status == 400


# --------------------------------------------------------------------------- requesters


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{}", "bad_message"),
        (b'{"model_digest":"x","input":{"kind":"exec"},"max_tokens":1}', "bad_message"),
        (b'{"model_digest":"x","input":{"kind":"completion","prompt":"p"},"max_tokens":1}', "bad_message"),
        (b'{"surprise":1}', "bad_message"),
        (b" " * (wire.MAX_MESSAGE_BYTES + 1), "too_large"),
    ],
    ids=["empty", "unknown kind", "bad digest", "unknown field", "oversized"],
)
async def test_a_malformed_task_is_refused(
    coordinator: Coordinator, node: ScriptedNode, body: bytes, code: str
) -> None:
    answer = await node.post("/v1/tasks", body, token=coordinator.requester_token)
    assert answer.code == code


async def test_a_session_token_is_no_requester_token(node: ScriptedNode) -> None:
    answer = await node.post("/v1/ledger", b"", method="GET")
    assert (answer.status, answer.code) == (401, "bad_token")
