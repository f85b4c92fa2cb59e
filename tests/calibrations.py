"""Calibrations for models that no publisher measured: with made-up figures, and really signed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from agent.core.checks.calibration import (
    VERSION,
    Calibration,
    Device,
    Noise,
    Spread,
    Work,
    limits_of,
    signed_file,
)
from agent.edges.models.thresholds import Shelf, shelf
from agent.edges.signing import KeyPair
from tests import builders

KEYS = KeyPair.generate()
ENGINE = "llama-server b1-86a2835"
"""Of the wheel that tests use; `test_thresholds` fails when it is another."""
NOISE = Noise(
    closeness=Spread(mean=0.1, p99=0.18, most=0.2),
    far=Spread(mean=0.02, p99=1.0, most=1.0),
    astray=Spread(mean=0.0001, p99=0.001, most=0.002),
)


def calibration(digest: str = builders.MODEL, **changes: Any) -> Calibration:
    """Sound, for several requests at a time on the processor."""
    noise = changes.get("noise", NOISE)
    fields: dict[str, Any] = {
        "version": VERSION,
        "model": "tiny",
        "model_digest": digest,
        "engine": ENGINE,
        "args": (),
        "device": Device.CPU,
        "work": Work.GENERATION,
        "slots": 2,
        "context_tokens": 512,
        "classes": ("F-0123456789abcdef",),
        "prompts": 50,
        "chunks": 500,
        "tokens": 16_000,
        "drawn": 16_000,
        "noise": noise,
        "limits": limits_of(noise),
        "made_at": 1_800_000_000,
        "tool": "gpu-agent test",
    }
    return Calibration(**{**fields, **changes})


def written(directory: Path, digest: str = builders.MODEL, **changes: Any) -> Path:
    """A signed file for a model."""
    made = calibration(digest, **changes)
    path = directory / f"{made.work}-{digest[-8:]}.json"
    path.write_bytes(signed_file(made, KEYS.public_key, KEYS.sign))
    return path


def shelved(directory: Path, digest: str = builders.MODEL, **changes: Any) -> Shelf:
    """What a node has whose owner trusts that file."""
    return shelf(keys=[KEYS.public_key], files=[written(directory, digest, **changes)])


def resigned(calibration: Calibration) -> bytes:
    """Signed whatever it says, as a careless publisher would."""
    from agent.core.proof.signed import seal
    from agent.core.wire import Role

    return msgspec.json.encode(seal(Role.CALIBRATION, msgspec.json.encode(calibration), KEYS.public_key, KEYS.sign))
