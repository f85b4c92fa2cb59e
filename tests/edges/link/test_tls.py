"""Whom the link believes: TLS with a checked chain and name, or this very machine."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import trustme

from agent.core import wire
from agent.core.errors import LinkError, LinkFault
from agent.edges.clock import SystemClock
from agent.edges.link.baton import link_to
from agent.edges.link.tls import Endpoint, client_context
from agent.ports import Link
from tests.fakes.coordinator import FakeCoordinator
from tests.fakes.mind import TestNode

BEAT = wire.Beat()
Reach = Callable[[str], Link]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> Path:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return tmp_path / "ca.pem"


def server_context(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


@pytest.fixture(params=["websocket", "poll", "auto"])
async def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def outcome(url: str, server: FakeCoordinator, transport: str, ca_file: Path | None) -> object:
    node = TestNode()
    server.mind.enlist(node)
    link = link_to(url, node, SystemClock(), transport=transport, ca_file=ca_file)
    try:
        return await link.call(BEAT)
    except LinkError as error:
        return error
    finally:
        await link.close()


async def test_the_right_authority_and_name_are_believed(authority: trustme.CA, ca_file: Path, transport: str) -> None:
    async with FakeCoordinator(tls=server_context(authority, "127.0.0.1")) as server:
        assert isinstance(await outcome(server.url, server, transport, ca_file), wire.BeatAck)


async def test_another_authority_is_refused_before_anything_is_said(
    authority: trustme.CA, tmp_path: Path, transport: str
) -> None:
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(other)
    async with FakeCoordinator(tls=server_context(authority, "127.0.0.1")) as server:
        error = await outcome(server.url, server, transport, other)
        assert isinstance(error, LinkError)
        assert (error.fault, "ca_file" in error.remedy) == (LinkFault.INSECURE, True)
        assert not server.requests


async def test_the_system_s_authorities_do_not_vouch_for_a_private_one(authority: trustme.CA, transport: str) -> None:
    async with FakeCoordinator(tls=server_context(authority, "127.0.0.1")) as server:
        error = await outcome(server.url, server, transport, None)
        assert isinstance(error, LinkError)
        assert error.fault is LinkFault.INSECURE


async def test_a_certificate_for_another_host_is_refused(authority: trustme.CA, ca_file: Path, transport: str) -> None:
    async with FakeCoordinator(tls=server_context(authority, "coordinator.example")) as server:
        error = await outcome(server.url, server, transport, ca_file)
        assert isinstance(error, LinkError)
        assert error.fault is LinkFault.INSECURE
        assert not server.requests


async def test_tls_is_never_given_up_for_plain_text(ca_file: Path, transport: str) -> None:
    async with FakeCoordinator() as server:
        error = await outcome(server.url.replace("http:", "https:"), server, transport, ca_file)
        assert isinstance(error, LinkError)
        assert error.fault is LinkFault.INSECURE
        assert not server.requests


async def test_old_tls_is_refused(authority: trustme.CA, ca_file: Path) -> None:
    assert client_context(ca_file).minimum_version >= ssl.TLSVersion.TLSv1_2
    assert client_context(ca_file).verify_mode is ssl.CERT_REQUIRED
    assert client_context(ca_file).check_hostname


@pytest.mark.parametrize("content", [None, b"", b"not a certificate"], ids=["absent", "empty", "garbage"])
def test_an_unusable_ca_file_is_a_clear_error(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LinkError) as caught:
        client_context(path)
    assert caught.value.fault is LinkFault.INSECURE
    assert str(path) in caught.value.message


@pytest.fixture
async def listener() -> AsyncIterator[tuple[int, list[bytes]]]:
    """A port on every address of this machine that notes whatever reaches it."""
    heard: list[bytes] = []

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read(100))
        writer.close()

    async with await asyncio.start_server(note, "0.0.0.0", 0) as server:
        yield server.sockets[0].getsockname()[1], heard


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "[::ffff:127.0.0.1]", "localhost.example", "127.0.0.1.example", "10.0.0.1"]
)
async def test_plain_text_beyond_loopback_is_refused_before_a_byte_is_sent(
    host: str, listener: tuple[int, list[bytes]], transport: str
) -> None:
    port, heard = listener
    with pytest.raises(LinkError) as caught:
        link_to(f"http://{host}:{port}", TestNode(), SystemClock(), transport=transport)
    assert caught.value.fault is LinkFault.INSECURE
    assert heard == []


async def test_localhost_is_reached_in_plain_text(transport: str) -> None:
    async with FakeCoordinator() as server:
        url = server.url.replace("127.0.0.1", "localhost")
        assert isinstance(await outcome(url, server, transport, None), wire.BeatAck)


@pytest.mark.parametrize(
    "url",
    ["", "coordinator", "ftp://localhost", "http://", "http://[::1", "http://user:secret@localhost", "https://c/?a=1"],
)
def test_an_address_that_is_none_is_refused_with_a_remedy(url: str) -> None:
    with pytest.raises(LinkError) as caught:
        Endpoint(url)
    assert "https://host" in caught.value.remedy


def test_a_coordinator_may_live_below_a_path() -> None:
    endpoint = Endpoint("https://example.org/fleet/7/")
    assert str(endpoint.url("v1", "beat")) == "https://example.org/fleet/7/v1/beat"
    assert str(endpoint.stream_url()) == "wss://example.org/fleet/7/v1/link"
