"""What an owner may say to his daemon over the local socket, beyond the verb itself."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from agent.core.model import Value

LONGEST_PAUSE_S = 30 * 86_400.0

GpuName = Annotated[str, Meta(max_length=96)]
"""UUID of a GPU or MIG slice; empty for the whole node."""


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
