"""What an Xid means for a GPU: NVIDIA's numbers of faults, sorted into what has to be done about them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from agent.core.model import Value


class Bucket(StrEnum):
    """What NVIDIA's catalogue asks for at once."""

    IGNORE = "ignore"
    RESTART_APP = "restart_app"
    """The program's fault or misfortune: it counts against the attempt, and the card is as good as before."""
    CHECK = "check"
    """The card may be worse for it: finish what runs, take nothing new, let somebody look."""
    RESET_GPU = "reset_gpu"
    RESTART_MACHINE = "restart_machine"


class Xid(Value):
    """One number."""

    code: int
    bucket: Bucket
    text: str
    source: str
    """Where the bucket stands, with its date."""


UNKNOWN_TEXT = "not in this agent's table"


def judged(table: Mapping[int, Xid], code: int) -> Xid:
    """The entry of a number; one that nobody knew when the table was written is to be looked at."""
    return table.get(code) or Xid(code=code, bucket=Bucket.CHECK, text=UNKNOWN_TEXT, source="")
