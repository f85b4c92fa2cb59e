"""How much, and for how long: the bounds of every message, on every transport."""

from __future__ import annotations

from typing import Annotated

import msgspec

PROTO_MIN, PROTO_MAX = 1, 1
SUBPROTOCOL = "gpu-agent.v1"

MAX_MESSAGE_BYTES = 1 << 20
"""Largest frame on any transport; an inline output, escaped at worst sixfold, still fits (768 KiB)."""
MAX_INLINE_OUTPUT_BYTES = 128 << 10
"""A larger output goes up as a blob first. 128 KiB escaped sixfold stays inside MAX_MESSAGE_BYTES."""
MAX_BLOB_BYTES = 64 << 20
MAX_PULL_WAIT_S = 25.0
MAX_DELIVERIES = 64
"""Outcomes in one result message: a small one takes 4 KB, so that is a quarter of a frame."""

Seconds = Annotated[float, msgspec.Meta(ge=0, le=10 * 365 * 86400)]
"""A duration; ten years is for ever, and keeps every clock in range."""
