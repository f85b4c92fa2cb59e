"""Reads the table of GPU models that comes with the agent."""

from __future__ import annotations

import functools
from pathlib import Path

import msgspec
import tomli

from agent.core.attest.cards import Card


@functools.cache
def card_table() -> tuple[Card, ...]:
    """All models that are known, in the order of the file."""
    raw = tomli.loads(Path(__file__).with_name("models.toml").read_text(encoding="utf-8"))
    return msgspec.convert(raw["card"], type=tuple[Card, ...])
