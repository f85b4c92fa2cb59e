"""What lasts of the owner's pauses, over crashes and restarts of the agent: one small JSON file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from agent.core.errors import StorageError
from agent.core.pauses import KeptPause
from agent.edges.durable import replace_file, sync_directory

FILE_NAME = "pauses.json"
_MAX_BYTES = 1 << 20


class PausesFile:
    """Implements ports.Pauses. There is no file while nothing is paused."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE_NAME

    def load(self) -> Sequence[KeptPause]:
        """What `keep` wrote last. Raises StorageError for a file that is there and cannot be understood."""
        try:
            with self._path.open("rb") as file:
                return msgspec.json.decode(file.read(_MAX_BYTES), type=list[KeptPause])
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise StorageError(f"{self._path} cannot be read ({error.strerror})") from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StorageError(f"{self._path} is damaged ({error})") from error

    def keep(self, pauses: Sequence[KeptPause]) -> None:
        """Durable when it returns. Raises StorageError."""
        try:
            if pauses:
                replace_file(self._path, msgspec.json.encode(pauses))
            else:
                self._path.unlink(missing_ok=True)
                sync_directory(self._path.parent)
        except OSError as error:
            raise StorageError(f"cannot write {self._path}: {error.strerror}") from error
