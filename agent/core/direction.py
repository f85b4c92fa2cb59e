"""Whose messages are whose: the two kinds that `core.wire` consists of."""

from __future__ import annotations

from agent.core.model import Value


class Up(Value, tag_field="type", tag=str.lower):
    """A message of the node."""


class Down(Value, tag_field="type", tag=str.lower):
    """A message of the coordinator."""
