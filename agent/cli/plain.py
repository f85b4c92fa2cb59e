"""Text of strangers (coordinators, engines, file names) made safe for a terminal."""

from __future__ import annotations


def plain(text: str) -> str:
    """`text` on one line, with control characters, escapes and direction overrides spelled out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
