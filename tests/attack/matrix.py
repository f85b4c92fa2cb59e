"""All rows, in the order of the page: each module enters its own."""

from __future__ import annotations

from importlib import import_module

from tests.attack.rows import ROWS

MODULES = (
    "honest",
    "sampler",
    "weights",
    "prompt",
    "forger",
    "truncation",
    "withholding",
    "tamper",
    "challenge",
    "validator",
    "fuzz",
)
for _name in MODULES:
    import_module(f"tests.attack.{_name}")

__all__ = ["ROWS"]
