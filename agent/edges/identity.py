"""Who this node is: its key, made on first start and guarded, and the coordinator that it is enrolled with."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import msgspec

from agent.core.errors import IdentityError, StorageError
from agent.core.model import Value
from agent.edges import signing
from agent.edges.durable import NO_ROOM, REMEDY_FOR_ROOM, make_private_directory, replace_file
from agent.edges.signing import KeyPair

KEY_NAME = "node.key"
ENROLMENT_NAME = "enrolment.json"
_MAX_FILE_BYTES = 64 << 10
"""Far above a key (119 bytes) or an enrolment (about 200)."""


class Enrolment(Value):
    """What an enrolment settled, kept in `enrolment.json`."""

    node_id: str
    coordinator_key: str
    """Ed25519 public key, hex: pinned, no other is believed."""
    url: str


class NodeIdentity:
    """The port `Identity`: a key pair and one enrolment."""

    def __init__(self, keys: KeyPair, enrolment: Enrolment) -> None:
        self._keys = keys
        self.enrolment = enrolment

    @property
    def node_id(self) -> str:
        return self.enrolment.node_id

    @property
    def public_key(self) -> str:
        return self._keys.public_key

    @property
    def coordinator_key(self) -> str:
        return self.enrolment.coordinator_key

    def sign(self, digest: bytes) -> str:
        return self._keys.sign(digest)

    def verify(self, key: str, signature: str, digest: bytes) -> bool:
        return signing.verify(key, signature, digest)


def open_identity(state_dir: Path, key_file: Path | None = None) -> NodeIdentity:
    """The identity of an enrolled node. Raises IdentityError, also when the node is not enrolled yet."""
    keys = open_key(state_dir, key_file)
    enrolment = read_enrolment(state_dir)
    if enrolment is None:
        raise IdentityError(
            "this node is not enrolled with a coordinator",
            remedy="Run `gpu-agent enrol` with a token of your coordinator",
        )
    return NodeIdentity(keys, enrolment)


# --------------------------------------------------------------------------- the node's key


def open_key(state_dir: Path, key_file: Path | None = None) -> KeyPair:
    """The node's key: systemd's credential `node.key`, else `key_file`, else the state directory's.

    The latter two are made (0600, durable) where there is none. Raises IdentityError and then leaves the file alone;
    StorageError when there is no room for one.
    """
    credential = _credential()
    if credential is not None:
        # systemd's own protection: a private mount and, on newer versions, an ACL that looks like group access.
        return _parse_key(credential, _read(credential, private=False))
    path = key_file or state_dir / KEY_NAME
    keys = None if _present(path) else _create_key(path)
    return keys or _parse_key(path, _read(path, private=True))


def _credential() -> Path | None:
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    path = Path(directory, KEY_NAME) if directory else None
    return path if path is not None and _present(path) else None


def _present(path: Path) -> bool:
    """False only when there is surely nothing: what cannot be looked at fails later, with its own words."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _create_key(path: Path) -> KeyPair | None:
    """None when another process made the file meanwhile."""
    keys = KeyPair.generate()
    try:
        make_private_directory(path.parent)
        keys.save(path)
    except OSError as error:
        if isinstance(error, FileExistsError) and _present(path):
            return None
        what = f"the node key {path} cannot be created: {error.strerror}"
        if error.errno in NO_ROOM:
            raise StorageError(what, full=True, remedy=REMEDY_FOR_ROOM) from error
        raise IdentityError(
            f"{what} ({error.filename})",
            remedy=f"Make {path.parent} a directory that {_user(os.geteuid())} may write",
        ) from error
    return keys


def _read(path: Path, *, private: bool) -> bytes:
    """Read a small regular file through one descriptor, so that what is checked is what is read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (os.O_NOFOLLOW if private else 0))
    except OSError as error:
        raise IdentityError(
            f"{path} cannot be opened: {error.strerror}",
            remedy=f"It must be a regular file that {_user(os.geteuid())} may read",
        ) from error
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise IdentityError(f"{path} is not a regular file", remedy="Move it away and start again")
        if private:
            _check_private(path, facts)
        return os.read(descriptor, _MAX_FILE_BYTES)
    finally:
        os.close(descriptor)


def _check_private(path: Path, facts: os.stat_result) -> None:
    if facts.st_uid != os.geteuid():
        raise IdentityError(
            f"{path} belongs to {_user(facts.st_uid)}, but the agent runs as {_user(os.geteuid())}",
            remedy=f"Run the agent as {_user(facts.st_uid)}, or `chown {_user(os.geteuid())} {path}`",
        )
    mode = stat.S_IMODE(facts.st_mode)
    if mode & 0o077:
        raise IdentityError(
            f"{path} is open to others (mode {mode:04o}); it must be 0600",
            remedy=f"`chmod 600 {path}`; if others may have read it, move it away and enrol again with a new key",
        )


def _parse_key(path: Path, pem: bytes) -> KeyPair:
    try:
        return KeyPair.from_pem(pem)
    except ValueError as error:
        raise IdentityError(
            f"{path} holds no usable key ({error}); it was left as it is",
            remedy="Restore it from a backup, or move it away and enrol again with a new key",
        ) from error


def _user(uid: int) -> str:
    import pwd  # noqa: PLC0415  (needed for an error message alone)

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


# --------------------------------------------------------------------------- enrolment


def read_enrolment(state_dir: Path) -> Enrolment | None:
    """What `write_enrolment` kept; None when the node never enrolled. Raises IdentityError."""
    path = state_dir / ENROLMENT_NAME
    if not _present(path):
        return None
    try:
        return msgspec.json.decode(_read(path, private=False), type=Enrolment)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise IdentityError(
            f"{path} is damaged ({error}); it was left as it is",
            remedy="Restore it from a backup, or run `gpu-agent enrol` again with a new token",
        ) from error


def write_enrolment(state_dir: Path, enrolment: Enrolment) -> None:
    """Keep an enrolment durably, mode 0600, in place of the one before. Raises IdentityError, StorageError."""
    path = state_dir / ENROLMENT_NAME
    try:
        make_private_directory(state_dir)
        replace_file(path, msgspec.json.format(msgspec.json.encode(enrolment), indent=2) + b"\n")
    except OSError as error:
        what = f"the enrolment cannot be written to {path}: {error.strerror}"
        if error.errno in NO_ROOM:
            raise StorageError(what, full=True, remedy=REMEDY_FOR_ROOM) from error
        raise IdentityError(what, remedy=f"Make {state_dir} writable for {_user(os.geteuid())}") from error
