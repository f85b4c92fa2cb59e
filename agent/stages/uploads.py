"""What is too large for a message goes up as a blob first, each once: long outputs, and what programs leave."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import structlog

from agent.core import wire
from agent.ports import Artifacts, Link, OutboxRow

AT_ONCE = 4
"""A slow line is shared by no more; each holds what it sends in memory."""


def sha256(text: str) -> str:
    """Hex digest of the UTF-8 bytes."""
    return hashlib.sha256(text.encode()).hexdigest()


def too_large_inline(row: OutboxRow) -> bool:
    """Whether the output must travel beside the message."""
    output = row.output
    if output is None or len(output) * 4 <= wire.MAX_INLINE_OUTPUT_BYTES:  # UTF-8 has at most four bytes a character
        return False
    return len(output.encode()) > wire.MAX_INLINE_OUTPUT_BYTES


class Sent(NamedTuple):
    """Digests of the blobs that the coordinator has."""

    output: str | None = None
    artifact: str | None = None


class Uploads:
    """Which blobs are with the coordinator already."""

    def __init__(self, link: Link, artifacts: Artifacts | None) -> None:
        self._link = link
        self._artifacts = artifacts
        self._sent: dict[str, Sent] = {}
        """By idem_key."""
        self._under_way = 0
        self._log = structlog.get_logger("report")

    def begin(self) -> bool:
        """Take room for one more `send`; False when there is none."""
        if self._under_way >= AT_ONCE:
            return False
        self._under_way += 1
        return True

    def needs(self, row: OutboxRow) -> bool:
        """Whether something of the row has to go up before its result."""
        if row.idem_key in self._sent:
            return False
        return too_large_inline(row) or (self._artifacts is not None and self._artifacts.of(row.key) is not None)

    async def send(self, row: OutboxRow) -> None:
        """After `begin`. Raises LinkError, StorageError."""
        try:
            self._sent[row.idem_key] = Sent(await self._output(row), await self._artifact(row))
        finally:
            self._under_way -= 1

    def forget(self, idem_key: str) -> None:
        """The coordinator does not hold the blobs, or nobody needs to know any more."""
        self._sent.pop(idem_key, None)

    def delivery(self, row: OutboxRow) -> wire.Delivery:
        """The row as a message carries it."""
        sent = self._sent.get(row.idem_key, Sent())
        output = None if sent.output else row.output
        return wire.Delivery(signed=row.result, output=output, blob=sent.output, artifact=sent.artifact)

    async def _output(self, row: OutboxRow) -> str | None:
        if row.output is None or not too_large_inline(row):
            return None
        raw = row.output.encode()
        digest = hashlib.sha256(raw).hexdigest()
        await self._link.put_blob(digest, raw)
        return digest

    async def _artifact(self, row: OutboxRow) -> str | None:
        """One that was lost holds nothing up: the result is rejected for it, and the task is done again."""
        if self._artifacts is None or (blob := self._artifacts.of(row.key)) is None:
            return None
        if (raw := await self._artifacts.read(row.key)) is None:
            self._log.error("artifact.lost", task=row.key.task_id, sha256=blob.sha256, bytes=blob.bytes)
            return None
        await self._link.put_blob(blob.sha256, raw)
        return blob.sha256
