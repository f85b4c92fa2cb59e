"""Where calibrations lie: those that came with the package, and the owner's own. Read once, each fault told."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from agent.core.checks.calibration import MAX_FILE_BYTES, Device, Trusted, Work, read_calibration, widest
from agent.core.checks.verdict import Thresholds
from agent.core.errors import ProofError
from agent.edges.signing import verify

SHIPPED = Path(__file__).parent / "calibrations"
PUBLISHER = "39393ba3742483a5c674573b131b95ac09fe260263103387c8721a82a9aaaf4d"
"""Public key of who signs the shipped ones (docs/proof.md, Calibration)."""


class Fault(NamedTuple):
    """A file that is not relied upon."""

    path: Path
    check: str
    """A `CalibrationFault`, or `unreadable`."""
    message: str


class Shelf:
    """Implements ports.Calibrations."""

    def __init__(self, trusted: Sequence[Trusted], faults: Sequence[Fault] = ()) -> None:
        self._trusted = tuple(trusted)
        self.faults = tuple(faults)

    def __len__(self) -> int:
        return len(self._trusted)

    def engines_of(self, model_digest: str) -> tuple[str, ...]:
        """Engines with which this model was measured."""
        return tuple(
            sorted({it.calibration.engine for it in self._trusted if it.calibration.model_digest == model_digest})
        )

    def thresholds_for(
        self,
        model_digest: str,
        engine: str,
        *,
        embeds: bool = False,
        args: tuple[str, ...] = (),
        device: Device | None = None,
    ) -> Thresholds | None:
        """See ports.Calibrations."""
        wanted = Work.EMBEDDING if embeds else Work.GENERATION
        return widest(
            [
                one.thresholds
                for one in self._trusted
                if (one.calibration.model_digest, one.calibration.engine) == (model_digest, engine)
                and (one.calibration.work, one.calibration.args) == (wanted, args)
                and device in (None, one.calibration.device)
            ]
        )


def shelf(directory: Path | None = None, keys: Iterable[str] = (), files: Iterable[Path] = ()) -> Shelf:
    """The shipped calibrations, those in `directory`, and `files`. `keys`: whom the owner trusts besides the publisher.

    What cannot be relied upon is among its faults, and changes nothing for the others.
    """
    trusted_keys = {PUBLISHER, *keys}
    trusted: list[Trusted] = []
    faults: list[Fault] = []
    for path in (*_in(SHIPPED, faults), *_in(directory, faults), *files):
        try:
            trusted.append(read_calibration(_content(path), trusted_keys, verify))
        except ProofError as error:
            faults.append(Fault(path, error.check, error.message))
        except OSError as error:
            faults.append(Fault(path, "unreadable", f"it cannot be read: {error.strerror}"))
    return Shelf(trusted, faults)


def _in(directory: Path | None, faults: list[Fault]) -> list[Path]:
    if directory is None:
        return []
    try:
        return sorted(path for path in directory.iterdir() if path.suffix == ".json")
    except OSError as error:
        faults.append(Fault(directory, "unreadable", f"it cannot be read: {error.strerror}"))
        return []


def _content(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_FILE_BYTES + 1)
