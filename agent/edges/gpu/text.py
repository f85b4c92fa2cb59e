"""Text from a driver or a dying child, made fit for one line of a terminal."""

from __future__ import annotations

from agent.core.text import plain

LINE_CHARACTERS = 240


def one_line(text: str | bytes) -> str:
    """`text` without control characters, white space folded, cut to a line."""
    return " ".join(plain(text, LINE_CHARACTERS).split())
