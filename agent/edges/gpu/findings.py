"""What lasts of the findings about GPUs, over restarts of the agent: one small JSON file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from agent.core.errors import StorageError
from agent.core.findings import Finding
from agent.edges.durable import replace_file

FILE_NAME = "gpu-findings.json"
_MAX_BYTES = 1 << 20


class FindingsFile:
    """Implements ports.Findings."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE_NAME

    def load(self) -> Sequence[Finding]:
        """What `keep` wrote last. A file that cannot be read or decoded counts as empty, and is kept aside: findings
        show again by themselves, an agent that does not start shows nothing.
        """
        try:
            raw = self._path.read_bytes()[:_MAX_BYTES]
            return msgspec.json.decode(raw, type=list[Finding])
        except FileNotFoundError:
            return ()
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            self._put_aside()
            return ()

    def keep(self, findings: Sequence[Finding]) -> None:
        """Durable when it returns. Raises StorageError."""
        try:
            replace_file(self._path, msgspec.json.encode(findings))
        except OSError as error:
            raise StorageError(f"cannot write {self._path}: {error.strerror}") from error

    def _put_aside(self) -> None:
        try:
            self._path.replace(self._path.with_suffix(".json.corrupt"))
        except OSError:  # it stays where it is, and is overwritten by the next finding
            return
