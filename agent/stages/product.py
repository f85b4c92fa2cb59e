"""What passes from execute to prove to report: values, not places."""

from __future__ import annotations

from dataclasses import dataclass

from agent.core.model import Commitment, Timings, Usage
from agent.core.proof.transcript import TranscriptBuilder
from agent.ports import Finished


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """What an engine made of one task."""

    output: str
    """JSON text for the requester (docs/protocol.md, Output)."""
    builder: TranscriptBuilder
    finished: Finished
    timings: Timings


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """A product with its commitment: ready to be released."""

    output: str
    output_sha256: str
    usage: Usage
    timings: Timings
    commitment: Commitment
