"""Ed25519 (RFC 8032) by `cryptography`: the primitive that `core.proof` is handed as `Sign` and `Verify`."""

from __future__ import annotations

import base64
import binascii
import functools
import re
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from agent.edges.durable import create_file

# Only the one canonical spelling: `bytes.fromhex` alone would also take upper case and blanks.
_KEY = re.compile(r"[0-9a-f]{64}\Z")
_SIGNATURE = re.compile(r"[0-9a-f]{128}\Z")

_PEM = re.compile(rb"-----BEGIN PRIVATE KEY-----\n([A-Za-z0-9+/=]+)\n-----END PRIVATE KEY-----\n?\Z")
_DER_PREFIX = bytes.fromhex("302e020100300506032b657004220420")
"""Of a PKCS #8 Ed25519 key (RFC 8410); the 32 bytes of the key follow."""


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
        return cls(_plain_key(pem) or _any_key(pem))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read `path` without judging its mode. Raises OSError or ValueError."""
        return cls.from_pem(path.read_bytes())

    def to_pem(self) -> bytes:
        """The private key: for `save` alone."""
        text = base64.b64encode(_DER_PREFIX + self._private.private_bytes_raw())
        return b"-----BEGIN PRIVATE KEY-----\n" + text + b"\n-----END PRIVATE KEY-----\n"

    def save(self, path: Path) -> None:
        """Write durably with mode 0600. Raises FileExistsError rather than replace a key; else OSError."""
        create_file(path, self.to_pem())

    def sign(self, digest: bytes) -> str:
        """Signature over `digest`, 128 lower-case hex digits."""
        return self._private.sign(digest).hex()


def _plain_key(pem: bytes) -> Ed25519PrivateKey | None:
    """The key of a file as `openssl genpkey` and `to_pem` write it, else None."""
    found = _PEM.match(pem)
    try:
        der = binascii.a2b_base64(found[1], strict_mode=True) if found else b""
    except binascii.Error:
        return None
    if len(der) != len(_DER_PREFIX) + 32 or not der.startswith(_DER_PREFIX):
        return None
    return Ed25519PrivateKey.from_private_bytes(der[len(_DER_PREFIX) :])


def _any_key(pem: bytes) -> Ed25519PrivateKey:
    """Of any other PEM. Raises ValueError, also for keys of other kinds."""
    # SSH's formats and their ciphers come with this: 4 MiB that a daemon would hold all its life.
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415

    try:
        private = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ValueError("not an unencrypted PKCS #8 private key in PEM") from error
    if not isinstance(private, Ed25519PrivateKey):
        raise ValueError("not an Ed25519 key")  # noqa: TRY004  (the content is wrong, not an argument's type)
    return private


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
