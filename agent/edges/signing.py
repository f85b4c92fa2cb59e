"""Ed25519 (RFC 8032) by `cryptography`: the primitive that `core.proof` is handed as `Sign` and `Verify`."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from agent.edges.durable import create_file

# Only the one canonical spelling: `bytes.fromhex` alone would also take upper case and blanks.
_KEY = re.compile(r"[0-9a-f]{64}\Z")
_SIGNATURE = re.compile(r"[0-9a-f]{128}\Z")


class KeyPair:
    """An Ed25519 key. Its text form is PKCS #8 PEM, so that `openssl pkey -in node.key -text` reads it."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self._public = private.public_key().public_bytes_raw().hex()

    def __repr__(self) -> str:
        return f"KeyPair({self._public[:16]}…)"

    @property
    def public_key(self) -> str:
        """64 lower-case hex digits."""
        return self._public

    @classmethod
    def generate(cls) -> Self:
        """A fresh key from the kernel's randomness."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_pem(cls, pem: bytes) -> Self:
        """Raises ValueError when `pem` is not one unencrypted Ed25519 private key."""
        try:
            private = serialization.load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise ValueError("not an unencrypted PKCS #8 private key in PEM") from error
        if not isinstance(private, Ed25519PrivateKey):
            raise ValueError("not an Ed25519 key")  # noqa: TRY004  (the content is wrong, not an argument's type)
        return cls(private)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read `path` without judging its mode. Raises OSError or ValueError."""
        return cls.from_pem(path.read_bytes())

    def to_pem(self) -> bytes:
        """The private key: for `save` alone."""
        return self._private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def save(self, path: Path) -> None:
        """Write durably with mode 0600. Raises FileExistsError rather than replace a key; else OSError."""
        create_file(path, self.to_pem())

    def sign(self, digest: bytes) -> str:
        """Signature over `digest`, 128 lower-case hex digits."""
        return self._private.sign(digest).hex()


@functools.lru_cache(maxsize=64)
def verify(key: str, signature: str, digest: bytes) -> bool:
    """Whether `signature` (hex) by `key` (hex) covers `digest`. Malformed input is False, never an exception.

    Remembers its latest answers: the parts of a batch come one by one under the same signature.
    """
    if not (_KEY.match(key) and _SIGNATURE.match(signature)):
        return False
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)).verify(bytes.fromhex(signature), digest)
    except (InvalidSignature, ValueError):  # ValueError: 32 bytes that are no point of the curve
        return False
    return True
