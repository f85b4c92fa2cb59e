"""Who may speak: nonces that open a session once, and sessions that expire. Pure but for the chance passed in."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from agent.core.seq import ReplayWindow
from agent.core.wire import RefusalCode
from agent.devnet.core.rules import Refused

MAX_NONCES = 10_000
"""Handshakes under way. Asking for a nonce needs no key, so the oldest make room."""
MAX_SESSIONS_OF_A_NODE = 4
"""A stream, the polling that stands in for it, and as many that a crash or a broken network left behind."""


@dataclass(slots=True, eq=False)
class Session:
    """One node's right to speak, until it expires."""

    node_id: str
    token_sha256: str
    expires: float
    window: ReplayWindow = field(default_factory=ReplayWindow)

    def admit(self, seq: int) -> None:
        """Raises Refused(REPLAYED)."""
        after = self.window.admit(seq)
        if after is None:
            raise Refused(RefusalCode.REPLAYED, f"seq {seq} was used before or is too old; every message has its own")
        self.window = after


class _Issued(NamedTuple):
    """A nonce that was given out."""

    number: int
    """Rises with every nonce."""
    expires: float


_NEVER = _Issued(0, float("-inf"))


class Sessions:
    """All nonces and sessions; they live in memory, so a restart asks every node for a new hello."""

    def __init__(self, ttl_s: float, nonce_ttl_s: float, chance: Callable[[int], bytes]) -> None:
        """`chance(n)` gives n unforeseeable bytes."""
        self.ttl_s = ttl_s
        self._nonce_ttl_s = nonce_ttl_s
        self._chance = chance
        self._nonces: dict[str, _Issued] = {}
        self._issued = 0
        self._greeted: dict[str, int] = {}
        """Node → number of the nonce that its latest hello used."""
        self._sessions: dict[str, Session] = {}
        self._of_node: dict[str, list[Session]] = {}

    def nonce(self, now: float) -> str:
        """32 random bytes, hex."""
        while len(self._nonces) >= MAX_NONCES:
            del self._nonces[next(iter(self._nonces))]
        nonce = self._chance(32).hex()
        self._issued += 1
        self._nonces[nonce] = _Issued(self._issued, now + self._nonce_ttl_s)
        return nonce

    def use_nonce(self, now: float, nonce: str, node_id: str = "") -> int:
        """Use it up, and return its number for `greeted`. Raises Refused(REPLAYED).

        A hello that another one of its node has overtaken is refused too: it tells of leases as they were before, and
        would end those that the node was granted since.
        """
        issued = self._nonces.pop(nonce, _NEVER)
        if issued.expires <= now:
            what = f"this nonce was used, or is older than {self._nonce_ttl_s:g} s, or is not ours; ask for another"
            raise Refused(RefusalCode.REPLAYED, what)
        if issued.number < self._greeted.get(node_id, 0):
            raise Refused(RefusalCode.REPLAYED, "a later hello of this node was answered before; say hello again")
        return issued.number

    def greeted(self, node_id: str, number: int) -> None:
        """A hello with nonce `number` was verified and acted on."""
        self._greeted[node_id] = number

    def open(self, now: float, node_id: str) -> tuple[str, Session]:
        """A new session and its bearer token; only the token's digest is kept."""
        token = self._chance(32).hex()
        session = Session(node_id, _digest(token), now + self.ttl_s)
        self._sessions[session.token_sha256] = session
        own = self._of_node.setdefault(node_id, [])
        own.append(session)
        if len(own) > MAX_SESSIONS_OF_A_NODE:
            self._forget(own[0])
        return token, session

    def find(self, now: float, token: str) -> Session:
        """By digest, so that timing tells nothing of a token. Raises Refused(SESSION_EXPIRED)."""
        session = self._sessions.get(_digest(token))
        if session is None:
            raise Refused(RefusalCode.SESSION_EXPIRED, "no such session here, or no more: say hello again")
        self.check(now, session)
        return session

    def check(self, now: float, session: Session) -> None:
        """Raises Refused(SESSION_EXPIRED)."""
        if session.expires <= now or session.token_sha256 not in self._sessions:
            self._forget(session)
            raise Refused(RefusalCode.SESSION_EXPIRED, "the session is over: say hello again")

    def newest(self, session: Session) -> bool:
        """Whether the node has opened none since: what an older one says of the node as a whole may be out of date."""
        return self._of_node[session.node_id][-1] is session

    def _forget(self, session: Session) -> None:
        if self._sessions.pop(session.token_sha256, None):
            own = self._of_node[session.node_id]
            own.remove(session)
            if not own:
                del self._of_node[session.node_id]


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
