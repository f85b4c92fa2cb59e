"""Enrols this node: trades a one-time token for a node id, and believes only the key that the token pins."""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from pathlib import Path

import aiohttp
import msgspec
from yarl import URL

from agent.core import wire
from agent.core.enrolment import Token, parse_token, reply_digest, request_digest
from agent.core.errors import IdentityError, LinkError, LinkFault
from agent.edges import signing
from agent.edges.identity import Enrolment, read_enrolment, write_enrolment
from agent.edges.signing import KeyPair

_TIMEOUT_S = 30.0
_MAX_REPLY_BYTES = 64 << 10
_MAX_NODE_ID = 128


async def enrol(
    url: str, token: str, *, keys: KeyPair, state_dir: Path, name: str = "", ca_file: Path | None = None
) -> Enrolment:
    """Enrol with the coordinator at `url` and keep the outcome in `state_dir`.

    Enrolling again with the same key gives the same node id. Raises IdentityError when the reply is not by the
    key in the token, and LinkError when there is none; nothing is written then.
    """
    parsed = parse_token(token)
    endpoint = _endpoint(url)
    raw = await _post(endpoint, _request(parsed, keys, name), ca_file)
    enrolment = Enrolment(
        node_id=_verified_node_id(raw, parsed, keys.public_key), coordinator_key=parsed.coordinator_key, url=url
    )
    await asyncio.to_thread(_keep, state_dir, enrolment)
    return enrolment


def _request(token: Token, keys: KeyPair, name: str) -> bytes:
    signature = keys.sign(request_digest(token.text, keys.public_key))
    return wire.encode(wire.EnrolRequest(token=token.text, node_key=keys.public_key, signature=signature, name=name))


def _endpoint(url: str) -> URL:
    """`/v1/enrol` below `url`. Raises LinkError(INSECURE) for plain text beyond this machine."""
    try:
        base = URL(url.strip())
        host, scheme = base.host or "", {"ws": "http", "wss": "https"}.get(base.scheme, base.scheme)
    except ValueError as error:
        raise LinkError(LinkFault.BROKEN, f"{url!r} is no URL", remedy="Use https://host[:port]") from error
    if scheme not in ("http", "https") or not host:
        raise LinkError(LinkFault.BROKEN, f"{url!r} is no http(s) URL", remedy="Use https://host[:port]")
    if scheme == "http" and not _is_loopback(host):
        raise LinkError(
            LinkFault.INSECURE,
            f"plain http to {host} would show the token to everyone on the way",
            remedy="Use https:// (plain http is for this machine alone)",
        )
    return base.with_scheme(scheme) / "v1" / "enrol"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def _post(endpoint: URL, body: bytes, ca_file: Path | None) -> bytes:
    """Send once. A redirect is refused: it could lead the token elsewhere."""
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    headers = {"Content-Type": "application/json"}
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.post(endpoint, data=body, headers=headers, ssl=_tls(ca_file), allow_redirects=False) as reply,
        ):
            raw = await reply.content.read(_MAX_REPLY_BYTES)
            while chunk := await reply.content.read(_MAX_REPLY_BYTES - len(raw) + 1):
                raw += chunk
                if len(raw) > _MAX_REPLY_BYTES:
                    raise _broken(endpoint, "its reply is too long")
            if reply.status != 200:
                raise _refused(endpoint, reply.status, raw)
            return raw
    except aiohttp.ClientSSLError as error:
        raise LinkError(
            LinkFault.INSECURE,
            f"TLS to {endpoint.host} failed: {error}",
            remedy="Check the coordinator's certificate, or set coordinator.ca_file to its own CA",
        ) from error
    except (aiohttp.ClientError, TimeoutError) as error:
        raise LinkError(
            LinkFault.UNREACHABLE,
            f"the coordinator at {endpoint.origin()} cannot be reached: {error or 'no answer in time'}",
            remedy="Check coordinator.url and the network",
        ) from error


def _tls(ca_file: Path | None) -> ssl.SSLContext | bool:
    if ca_file is None:
        return True
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # ssl.SSLError is one
        raise LinkError(
            LinkFault.INSECURE, f"{ca_file} holds no usable CA: {error}", remedy="Check coordinator.ca_file"
        ) from error


def _refused(endpoint: URL, status: int, raw: bytes) -> LinkError:
    try:
        message = wire.decode_down(raw).msg
    except (msgspec.DecodeError, UnicodeDecodeError):
        message = None
    if not isinstance(message, wire.Refusal):
        return _broken(endpoint, f"it answered HTTP {status}")
    remedy = "Ask for a new token" if message.code is wire.RefusalCode.BAD_TOKEN else ""
    return LinkError(
        LinkFault.REFUSED,
        f"the coordinator refused the enrolment: {message.message}",
        code=message.code,
        retry_after_s=message.retry_after_s,
        remedy=remedy,
    )


def _broken(endpoint: URL, what: str) -> LinkError:
    return LinkError(
        LinkFault.BROKEN,
        f"{endpoint.origin()} does not speak this protocol: {what}",
        remedy="Check that coordinator.url is a coordinator",
    )


def _verified_node_id(raw: bytes, token: Token, node_key: str) -> str:
    try:
        reply = msgspec.json.decode(raw, type=wire.EnrolReply)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise IdentityError("the coordinator's reply is not an enrolment", remedy="Check coordinator.url") from error
    if reply.coordinator_key != token.coordinator_key:
        raise IdentityError(
            f"this coordinator's key is {reply.coordinator_key[:16]}…, the token pins {token.coordinator_key[:16]}…",
            remedy="Somebody may stand in between: check coordinator.url, or ask for a new token",
        )
    if not signing.verify(token.coordinator_key, reply.signature, reply_digest(token.text, node_key, reply.node_id)):
        raise IdentityError(
            "the coordinator's signature on the enrolment does not verify",
            remedy="Somebody may stand in between: check coordinator.url",
        )
    if not (0 < len(reply.node_id) <= _MAX_NODE_ID and reply.node_id.isprintable()):
        raise IdentityError("the coordinator gave an unusable node id", remedy="Tell the coordinator's operator")
    return reply.node_id


def _keep(state_dir: Path, enrolment: Enrolment) -> None:
    try:
        if read_enrolment(state_dir) == enrolment:
            return
    except IdentityError:
        pass  # a damaged enrolment is what enrolling again repairs
    write_enrolment(state_dir, enrolment)
