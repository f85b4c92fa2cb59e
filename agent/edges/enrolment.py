"""Enrols this node: trades a one-time token for a node id, and believes only the key that the token pins."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from agent.core import wire
from agent.core.enrolment import Token, parse_token, reply_digest, request_digest
from agent.core.errors import IdentityError
from agent.edges import signing
from agent.edges.identity import Enrolment, read_enrolment, write_enrolment
from agent.edges.link.dial import Dialer
from agent.edges.link.http import read_answer
from agent.edges.link.tls import Endpoint, client_context
from agent.edges.signing import KeyPair

_TIMEOUT_S = 30.0
_MAX_NODE_ID = 128


async def enrol(
    url: str, token: str, *, keys: KeyPair, state_dir: Path, name: str = "", ca_file: Path | None = None
) -> Enrolment:
    """Enrol with the coordinator at `url` and keep the outcome in `state_dir`.

    Enrolling again with the same key gives the same node id. Raises IdentityError when the reply is not by the
    key in the token, and LinkError when there is none; nothing is written then.
    """
    parsed = parse_token(token)
    raw = await _post(Endpoint(url.strip()), _request(parsed, keys, name), ca_file)
    enrolment = Enrolment(
        node_id=_verified_node_id(raw, parsed, keys.public_key), coordinator_key=parsed.coordinator_key, url=url
    )
    await asyncio.to_thread(_keep, state_dir, enrolment)
    return enrolment


def _request(token: Token, keys: KeyPair, name: str) -> bytes:
    signature = keys.sign(request_digest(token.text, keys.public_key))
    return wire.encode(wire.EnrolRequest(token=token.text, node_key=keys.public_key, signature=signature, name=name))


async def _post(endpoint: Endpoint, body: bytes, ca_file: Path | None) -> bytes:
    """Send once, and follow no redirect: it could lead the token elsewhere."""
    dialer = Dialer(endpoint, client_context(ca_file))
    try:
        answer = await dialer.request("POST", "enrol", body, limit_s=_TIMEOUT_S)
        if answer.status != 200:
            read_answer(dialer, answer)  # raises: a refusal, or what it is instead
        return answer.body
    finally:
        await dialer.close()


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
