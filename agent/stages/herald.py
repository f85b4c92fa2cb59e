"""The herald: opens every session with what the node is, runs and still has to deliver (ports.Greeter)."""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from agent.core import events as ev
from agent.core import wire
from agent.core.fingerprint import Fingerprint
from agent.core.model import LeaseKey, State
from agent.core.proof.signed import session_digest
from agent.ports import Identity
from agent.stages.spine import Spine

BEAT_S = 10.0
BEAT_MIN_S, BEAT_MAX_S = 0.5, 60.0
"""What the coordinator may set; outside it lies or is broken."""


class Herald:
    """Speaks for the node at the start of a session, whichever transport carries it."""

    def __init__(self, spine: Spine, identity: Identity, fingerprint: Fingerprint) -> None:
        self._spine = spine
        self._identity = identity
        self._unsent: Mapping[str, LeaseKey] = {}
        self._log = structlog.get_logger("herald")
        self.fingerprint = fingerprint
        self.beat_s = BEAT_S

    def owes(self, unsent: Mapping[str, LeaseKey]) -> None:
        """The outbox, live, by idempotency key. To be told before the first hello: otherwise the coordinator would
        give what we still owe to somebody else."""
        self._unsent = unsent

    def hello(self, nonce: str) -> wire.Hello:
        """Answers the coordinator's nonce."""
        node_id = self._identity.node_id
        return wire.Hello(
            node_id=node_id,
            nonce=nonce,
            signature=self._identity.sign(session_digest(nonce, node_id, self._identity.coordinator_key)),
            fingerprint=self.fingerprint,
            running=self._running(),
            unsent=self._owed(),
        )

    def welcomed(self, hello: wire.Hello, welcome: wire.Welcome) -> None:
        """A session is open; leases that it no longer wants are lost."""
        self.obey(welcome.beat_s)
        self._log.info("session.opened", proto=welcome.proto, beat_s=welcome.beat_s, lease_s=welcome.lease_s)
        self._spine.feed(ev.Welcomed(claimed=hello.running, wanted=welcome.wanted))

    def obey(self, beat_s: float) -> None:
        """Beat as often as the coordinator asks, within reason."""
        self.beat_s = min(max(beat_s, BEAT_MIN_S), BEAT_MAX_S)

    def _running(self) -> tuple[LeaseKey, ...]:
        return tuple(a.key for a in self._spine.node.attempts.values() if a.state is not State.REPORTING)

    def _owed(self) -> tuple[LeaseKey, ...]:
        """In the outbox, and on the way into it."""
        storing = (a.key for a in self._spine.node.attempts.values() if a.state is State.REPORTING)
        return tuple({*self._unsent.values(), *storing})
