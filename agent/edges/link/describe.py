"""What a link says about itself, for status."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from agent.edges.link.session import Gate, Session
from agent.edges.link.tls import Endpoint

S = TypeVar("S")


def described(transport: str, endpoint: Endpoint, gate: Gate[S], session: Session | None) -> Mapping[str, str]:
    """Words and numbers as text; no token."""
    return {
        "transport": transport,
        "coordinator": endpoint.name,
        "tls": "yes" if endpoint.secure else "no (loopback)",
        "state": gate.state,
        "last_fault": gate.last_fault,
        "clock_offset_s": f"{session.clock_offset_s:+.3f}" if session is not None else "",
    }
