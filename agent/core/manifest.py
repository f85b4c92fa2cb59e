"""What a model is: every file that shapes its output, and one digest over all of them (proof.md, Header)."""

from __future__ import annotations

import hashlib
import re

import msgspec

from agent.core.model import Value

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_FILE_DIGEST = re.compile(r"[0-9a-f]{64}")
_canonical = msgspec.json.Encoder(order="sorted")


class ModelFile(Value, forbid_unknown_fields=True):
    """One file of a model: weights, tokenizer, or chat template."""

    path: str
    """File name within the model, with `/` between parts; never absolute. Part of the digest."""
    bytes: int
    sha256: str
    """64 lower-case hex digits."""

    def __post_init__(self) -> None:
        """Raises ValueError for what no file can be."""
        parts = self.path.split("/")
        if not self.path or any(part in ("", ".", "..") for part in parts):
            raise ValueError(f"{self.path!r} is not a relative file name")
        if self.bytes < 0:
            raise ValueError(f"{self.path}: a file cannot have {self.bytes} bytes")
        if not _FILE_DIGEST.fullmatch(self.sha256):
            raise ValueError(f"{self.path}: {self.sha256!r} is not a SHA-256 digest")


class ModelManifest(Value, forbid_unknown_fields=True):
    """A model's name and files. `files` may be empty for a model that only a remote engine has: then it is a claim."""

    name: str
    files: tuple[ModelFile, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Size of all files."""
        return sum(file.bytes for file in self.files)

    @property
    def digest(self) -> str:
        """`sha256:` + hex over `canonical`."""
        return f"sha256:{hashlib.sha256(self.canonical()).hexdigest()}"

    def canonical(self) -> bytes:
        """The bytes under the digest: JSON without spaces, keys sorted, files sorted by path, text as UTF-8.

        Only strings and integers occur, so this equals RFC 8785 for ASCII keys. Raises ValueError on a repeated path.
        """
        paths = [file.path for file in self.files]
        if len(set(paths)) != len(paths):
            raise ValueError(f"model {self.name!r} names a file twice")
        ordered = sorted(self.files, key=lambda file: file.path.encode())
        return _canonical.encode({"files": ordered, "name": self.name})


def is_digest(text: str) -> bool:
    """Whether `text` has the form of a manifest digest."""
    return _DIGEST.fullmatch(text) is not None
