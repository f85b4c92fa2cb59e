"""Text from engines, drivers and peers, made safe to print."""

from __future__ import annotations

import os
import re

# ECMA-48: string sequences (OSC, DCS, SOS, PM, APC) end in BEL or ST; CSI ends in a final byte; the rest are two
# characters long. An unterminated string sequence loses only its introducer: what follows may be the message.
_ESCAPES = re.compile(
    r"\x1b[\]PX^_][^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)|[\x9d\x90\x98\x9e\x9f][^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)"
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|\x1b[ -/]*[0-~]?"
)
# C0 but tab and newline, DEL and C1, then what reorders or hides text on a terminal (Unicode bidi controls, zero width
# characters, line separators, the byte-order mark) and lone surrogates, which cannot be encoded at all.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
)


def plain(text: str | bytes, limit: int) -> str:
    """`text` without escape sequences, control characters and invalid UTF-8, at most `limit` characters.

    Tabs and newlines stay; a carriage return becomes a newline, so that nothing overwrites a line. A text that is cut
    ends in `…`.
    """
    if isinstance(text, bytes):
        # A character takes at most four bytes; sequences that are removed must not make a flood costly.
        text = text[: limit * 16].decode("utf-8", "replace")
    text = _ESCAPES.sub("", text.replace("\r\n", "\n"))
    text = _UNSAFE.sub("", text.replace("\r", "\n"))
    if len(text) <= limit:
        return text
    return text[: max(limit - 1, 0)] + "…" if limit > 0 else ""


def line(text: str | bytes, limit: int) -> str:
    """`plain` on one line: what somebody else said must not look like a line of ours."""
    return " ".join(plain(text, limit).split())


def cause(error: BaseException) -> str:
    """Why the network or the system said no: `Connection refused`, not how a library spells it."""
    error = getattr(error, "os_error", error)  # aiohttp wraps what the system said
    # Errors of name resolution and TLS are OSErrors too, but with numbers of their own.
    if isinstance(error, OSError) and type(error).__module__ == "builtins" and error.errno:
        return os.strerror(error.errno)
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def span(seconds: float) -> str:
    """A duration in its two largest units: `2 h 5 min`."""
    whole = int(max(seconds, 0))
    units = ((whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "min"), (whole % 60, "s"))
    shown = [f"{count} {unit}" for count, unit in units]
    first = next((place for place, (count, _) in enumerate(units) if count), len(units) - 1)
    return " ".join(shown[first : first + 2])


def counted(count: int, what: str) -> str:
    """`1 validator`, `2 validators`."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
