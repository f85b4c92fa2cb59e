"""How a key of the configuration is explained."""

from __future__ import annotations

from msgspec import Meta


def says(sentence: str, *, example: object = None) -> Meta:
    """What a key is for, in one sentence; `example` stands in for a missing default."""
    return Meta(extra={"doc": sentence, "example": example})
