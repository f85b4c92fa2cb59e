"""What the agent and the child that multiplies matrices say to each other: a line of JSON each.

Apart from the child, which imports the driver's binding: the agent needs no memory for that.
"""

from __future__ import annotations

from agent.core.attest.messages import OpenedRow, Work
from agent.core.model import Value


class Commit(Value, tag=True):
    """Compute, and tell the root."""

    seed: str
    work: Work


class Reread(Value, tag=True):
    """Read again, and tell the new roots."""

    seed: str


class Open(Value, tag=True):
    """Tell rows."""

    rows: tuple[int, ...]


class Reply(Value):
    """An answer; `error` is the last one."""

    free_bytes: int = 0
    roots: tuple[str, ...] = ()
    rows: tuple[OpenedRow, ...] = ()
    error: str = ""
