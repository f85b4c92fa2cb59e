"""Enrolment: a one-time token that also pins the coordinator's key, so that nothing is trusted on first use."""

from __future__ import annotations

import re

from agent.core.errors import IdentityError
from agent.core.model import Value
from agent.core.proof.signed import digest
from agent.core.wire import Role

_TOKEN = re.compile(r"ga1\.(?P<secret>[A-Za-z0-9_-]{16,256})\.(?P<key>[0-9a-f]{64})")


class Token(Value):
    """`ga1.<secret, base64url>.<coordinator's Ed25519 key, hex>`."""

    secret: str
    coordinator_key: str

    def __repr__(self) -> str:
        return f"Token(coordinator_key={self.coordinator_key[:16]}…)"

    @property
    def text(self) -> str:
        """The token as it is handed out, sent and signed."""
        return f"ga1.{self.secret}.{self.coordinator_key}"


def parse_token(text: str) -> Token:
    """Read a token; surrounding white space is ignored. Raises IdentityError, which never repeats the secret."""
    match = _TOKEN.fullmatch(text.strip())
    if match is None:
        raise IdentityError(
            "this is not an enrolment token (ga1.<secret>.<coordinator key>)",
            remedy="Copy the whole token that the coordinator printed, in one line",
        )
    return Token(secret=match["secret"], coordinator_key=match["key"])


def request_digest(token: str, node_key: str) -> bytes:
    """What the node signs: whoever holds the token also holds this key. `token` is the whole text."""
    return digest(Role.ENROL, token.encode(), node_key.encode())


def reply_digest(token: str, node_key: str, node_id: str) -> bytes:
    """What the coordinator signs: this node, by this token, has this id."""
    return digest(Role.ENROL, token.encode(), node_key.encode(), node_id.encode())
