from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st

from agent.core import wire
from agent.core.enrolment import Token, parse_token, reply_digest, request_digest
from agent.core.errors import IdentityError, LinkError, LinkFault
from agent.edges.enrolment import enrol
from agent.edges.identity import open_identity, open_key, read_enrolment
from agent.edges.signing import KeyPair, verify

COORDINATOR = KeyPair.generate()
TOKEN = Token(secret=secrets.token_urlsafe(24), coordinator_key=COORDINATOR.public_key).text

Serve = Callable[..., Awaitable[str]]


@pytest.fixture
async def serve():
    """Starts `POST /v1/enrol` with a given handler; returns its URL."""
    servers = []

    async def start(handler) -> str:
        app = web.Application()
        app.router.add_post("/v1/enrol", handler)
        server = TestServer(app)
        await server.start_server()
        servers.append(server)
        return str(server.make_url("/"))

    yield start
    for server in servers:
        await server.close()


def reply_of(request: wire.EnrolRequest, keys: KeyPair = COORDINATOR, **changes) -> web.Response:
    node_id = changes.pop("node_id", "node-7")
    signature = keys.sign(reply_digest(request.token, request.node_key, node_id))
    fields = {"node_id": node_id, "coordinator_key": keys.public_key, "signature": signature} | changes
    return web.json_response(fields)


async def request_in(request: web.Request) -> wire.EnrolRequest:
    return msgspec.json.decode(await request.read(), type=wire.EnrolRequest)


async def test_a_node_proves_its_key_and_keeps_the_pinned_coordinator(tmp_path: Path, serve: Serve):
    seen: list[wire.EnrolRequest] = []

    async def coordinator(http: web.Request) -> web.Response:
        request = await request_in(http)
        seen.append(request)
        return reply_of(request)

    keys = open_key(tmp_path)
    url = await serve(coordinator)
    enrolment = await enrol(url, TOKEN, keys=keys, state_dir=tmp_path, name="rig-1")
    assert verify(seen[0].node_key, seen[0].signature, request_digest(TOKEN, keys.public_key))
    assert (seen[0].node_key, seen[0].name) == (keys.public_key, "rig-1")
    assert enrolment == open_identity(tmp_path).enrolment
    assert (enrolment.node_id, enrolment.coordinator_key) == ("node-7", COORDINATOR.public_key)


async def test_enrolling_again_with_the_same_key_changes_nothing(tmp_path: Path, serve: Serve):
    async def coordinator(http: web.Request) -> web.Response:
        return reply_of(await request_in(http))

    url, keys = await serve(coordinator), open_key(tmp_path)
    first = await enrol(url, TOKEN, keys=keys, state_dir=tmp_path)
    inode = (tmp_path / "enrolment.json").stat().st_ino
    assert await enrol(url, TOKEN, keys=keys, state_dir=tmp_path) == first
    assert (tmp_path / "enrolment.json").stat().st_ino == inode


async def test_enrolling_again_repairs_a_damaged_enrolment(tmp_path: Path, serve: Serve):
    async def coordinator(http: web.Request) -> web.Response:
        return reply_of(await request_in(http))

    (tmp_path / "enrolment.json").write_text("{")
    enrolment = await enrol(await serve(coordinator), TOKEN, keys=open_key(tmp_path), state_dir=tmp_path)
    assert read_enrolment(tmp_path) == enrolment


IMPOSTOR = KeyPair.generate()


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (lambda request: reply_of(request, IMPOSTOR), "key is"),
        (lambda request: reply_of(request, IMPOSTOR, coordinator_key=COORDINATOR.public_key), "does not verify"),
        (lambda request: reply_of(request, signature="zz"), "does not verify"),
        (lambda request: reply_of(request, node_id=""), "unusable node id"),
        (lambda request: reply_of(request, node_id="a\x1b[2J"), "unusable node id"),
        (lambda request: web.Response(body=b"<html>"), "not an enrolment"),
        (lambda request: web.Response(body=b'{"node_id":"\xed\xa0\x80"}'), "not an enrolment"),
    ],
    ids=["another key", "signed by another", "no signature", "no id", "control characters", "not JSON", "not UTF-8"],
)
async def test_a_reply_that_the_pinned_key_did_not_sign_writes_nothing(tmp_path: Path, serve: Serve, reply, words):
    async def coordinator(http: web.Request) -> web.Response:
        return reply(await request_in(http))

    url, keys = await serve(coordinator), open_key(tmp_path)
    with pytest.raises(IdentityError, match=words):
        await enrol(url, TOKEN, keys=keys, state_dir=tmp_path)
    assert read_enrolment(tmp_path) is None


async def test_a_spent_token_is_told_with_its_remedy(tmp_path: Path, serve: Serve):
    async def coordinator(http: web.Request) -> web.Response:
        refusal = wire.Refusal(code=wire.RefusalCode.BAD_TOKEN, message="this token was used before")
        return web.Response(body=wire.encode(wire.DownFrame(msg=refusal)), status=401)

    url = await serve(coordinator)
    with pytest.raises(LinkError, match="used before") as refused:
        await enrol(url, TOKEN, keys=open_key(tmp_path), state_dir=tmp_path)
    assert refused.value.fault is LinkFault.REFUSED
    assert refused.value.code is wire.RefusalCode.BAD_TOKEN
    assert "new token" in refused.value.remedy


@pytest.mark.parametrize("status", [302, 404])
async def test_a_server_that_is_no_coordinator_is_told_so(tmp_path: Path, serve: Serve, status: int):
    async def server(http: web.Request) -> web.Response:
        return web.Response(status=status, headers={"Location": "/elsewhere"}, text="no")

    url = await serve(server)
    with pytest.raises(LinkError, match=f"HTTP {status}") as refused:
        await enrol(url, TOKEN, keys=open_key(tmp_path), state_dir=tmp_path)
    assert refused.value.fault is LinkFault.BROKEN


async def test_an_endless_reply_is_cut_off(tmp_path: Path, serve: Serve):
    async def server(http: web.Request) -> web.Response:
        return web.Response(body=b" " * (2 << 20))

    url = await serve(server)
    with pytest.raises(LinkError, match="larger than"):
        await enrol(url, TOKEN, keys=open_key(tmp_path), state_dir=tmp_path)


async def test_plain_http_goes_to_this_machine_alone(tmp_path: Path):
    with pytest.raises(LinkError) as refused:
        await enrol("http://192.0.2.1:9", TOKEN, keys=open_key(tmp_path), state_dir=tmp_path)
    assert refused.value.fault is LinkFault.INSECURE


@pytest.mark.parametrize("url", ["", "coordinator", "ftp://host", "https://", "http://[::1"])
async def test_a_bad_url_is_told_before_anything_is_sent(tmp_path: Path, url: str):
    with pytest.raises(LinkError) as refused:
        await enrol(url, TOKEN, keys=open_key(tmp_path), state_dir=tmp_path)
    assert refused.value.fault is LinkFault.INSECURE


async def test_an_unreachable_coordinator_is_told_without_the_token(tmp_path: Path, serve: Serve, unused_tcp_port: int):
    with pytest.raises(LinkError) as refused:
        await enrol(f"http://127.0.0.1:{unused_tcp_port}", TOKEN, keys=open_key(tmp_path), state_dir=tmp_path)
    assert refused.value.fault is LinkFault.UNREACHABLE
    assert TOKEN.split(".")[1] not in str(refused.value)


async def test_a_ca_file_that_is_none_is_told(tmp_path: Path):
    (tmp_path / "ca.pem").write_text("nothing")
    with pytest.raises(LinkError, match="no CA certificate"):
        await enrol(
            "https://127.0.0.1:9", TOKEN, keys=open_key(tmp_path), state_dir=tmp_path, ca_file=tmp_path / "ca.pem"
        )


def test_a_token_reads_back_as_it_was_written():
    token = parse_token(f"  {TOKEN}\n")
    assert token.text == TOKEN
    assert token.coordinator_key == COORDINATOR.public_key


@given(st.text())
def test_any_other_text_is_no_token(text: str):
    with pytest.raises(IdentityError, match="not an enrolment token"):
        parse_token(text)


@pytest.mark.parametrize(
    "spoil", [str.upper, lambda text: text[:-1], lambda text: text + "0", lambda text: text.replace(".", ":")]
)
def test_a_spoilt_token_is_refused_without_repeating_its_secret(spoil):
    with pytest.raises(IdentityError) as refused:
        parse_token(spoil(TOKEN))
    assert TOKEN.split(".")[1] not in str(refused.value)
