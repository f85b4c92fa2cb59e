"""Who may ask the node to take nothing; and what an owner may say over the local socket, beyond the verb itself."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from msgspec import Meta

from agent.core.model import Value

LONGEST_PAUSE_S = 30 * 86_400.0

GpuName = Annotated[str, Meta(max_length=96)]
"""UUID of a GPU or MIG slice; empty for the whole node."""


class Voice(StrEnum):
    """Whose word it is. The coordinator ends only what the coordinator asked for; the owner ends all."""

    OWNER = "owner"
    COORDINATOR = "coordinator"


class PauseOrder(Value, forbid_unknown_fields=True):
    """Body of `POST /v1/pause`; none is the same as `{}`."""

    for_s: Annotated[float, Meta(gt=0, le=LONGEST_PAUSE_S)] | None = None
    """The pause ends by itself after so long; None: when resumed."""
    hand_back_after_s: Annotated[float, Meta(ge=0, le=LONGEST_PAUSE_S)] | None = None
    """How long what runs may go on before it is handed back, 0 for not at all; None: to its end."""
    gpu: GpuName = ""


class ResumeOrder(Value, forbid_unknown_fields=True):
    """Body of `POST /v1/resume`; none is the same as `{}`."""

    gpu: GpuName = ""
