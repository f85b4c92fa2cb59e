"""Outputs that are too large for a message go up as blobs first, each once."""

from __future__ import annotations

import hashlib

from agent.core import wire
from agent.ports import Link, OutboxRow

AT_ONCE = 4
"""A slow line is shared by no more; each holds its output in memory."""


def sha256(text: str) -> str:
    """Hex digest of the UTF-8 bytes."""
    return hashlib.sha256(text.encode()).hexdigest()


def too_large_inline(row: OutboxRow) -> bool:
    """Whether the output must travel beside the message."""
    output = row.output
    if output is None or len(output) * 4 <= wire.MAX_INLINE_OUTPUT_BYTES:  # UTF-8 has at most four bytes a character
        return False
    return len(output.encode()) > wire.MAX_INLINE_OUTPUT_BYTES


class Uploads:
    """Which outputs are with the coordinator already."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._done: dict[str, str] = {}
        """idem_key → digest of the blob."""
        self._under_way = 0

    @property
    def room(self) -> bool:
        """Whether one more may begin."""
        return self._under_way < AT_ONCE

    def needs(self, row: OutboxRow) -> bool:
        """Whether the row's output has to go up before its result."""
        return row.idem_key not in self._done and too_large_inline(row)

    async def send(self, row: OutboxRow) -> None:
        """Raises LinkError."""
        raw = (row.output or "").encode()
        blob = hashlib.sha256(raw).hexdigest()
        self._under_way += 1
        try:
            await self._link.put_blob(blob, raw)
        finally:
            self._under_way -= 1
        self._done[row.idem_key] = blob

    def forget(self, idem_key: str) -> None:
        """The coordinator does not hold the blob, or nobody needs to know any more."""
        self._done.pop(idem_key, None)

    def delivery(self, row: OutboxRow) -> wire.Delivery:
        """The row as a message carries it."""
        blob = self._done.get(row.idem_key)
        return wire.Delivery(signed=row.result, output=None if blob else row.output, blob=blob)
