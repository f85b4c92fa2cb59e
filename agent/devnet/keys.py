"""The coordinator's key pair and its requester token: files that only their owner may read."""

from __future__ import annotations

import functools
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent.core.errors import IdentityError


class KeyPair:
    """Ed25519; everything in and out is lower-case hex."""

    def __init__(self, secret: bytes) -> None:
        self._private = Ed25519PrivateKey.from_private_bytes(secret)
        self.public = self._private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()

    def sign(self, digest: bytes) -> str:
        return self._private.sign(digest).hex()


@functools.lru_cache(maxsize=64)
def verify(key: str, signature: str, digest: bytes) -> bool:
    """Whether `key` signed `digest`; False for anything malformed. The parts of a batch come under one signature."""
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)).verify(bytes.fromhex(signature), digest)
    except (ValueError, InvalidSignature):
        return False
    return True


def read_or_make_key(path: Path) -> KeyPair:
    """The key in `path`, made on first start. Raises IdentityError."""
    text = read_or_make_secret(path, lambda: secrets.token_bytes(32).hex())
    try:
        return KeyPair(bytes.fromhex(text))
    except ValueError as error:
        remedy = "Restore it from a backup; a new key means that every node enrols again"
        raise IdentityError(f"{path} is not an Ed25519 key of 64 hex digits", remedy=remedy) from error


def read_or_make_secret(path: Path, make: Callable[[], str]) -> str:
    """One line of secret text, 0600, made and synced when it is missing. Raises IdentityError."""
    try:
        if not path.exists():
            write_secret(path, make())
        if path.stat().st_mode & 0o077:
            raise IdentityError(f"{path} is readable by others", remedy=f"chmod 600 {path}")
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise IdentityError(f"cannot read {path}: {error}", remedy="Check the state directory's owner") from error


def write_secret(path: Path, text: str) -> None:
    """Replace `path` at once and durably, readable by its owner alone. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "w", encoding="ascii") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make a rename durable. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
