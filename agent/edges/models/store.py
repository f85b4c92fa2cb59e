"""Model files: each is hashed before use, and told by its digest. What was hashed once is known by its inode."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec

from agent.core.errors import ModelError
from agent.core.fingerprint import Model
from agent.core.manifest import ModelFile, ModelManifest
from agent.edges.durable import make_private_directory, replace_file

BLOCK_BYTES = 1 << 20
_SLICE_BYTES = 64 << 20
"""Hashed in one go: about 0.1 s, then progress is told and a cancellation is heard."""
_TICK_S = 0.1
"""A file changed this lately could change again without a new time stamp (as git's "racy" entries)."""
_MOST_KNOWN = 4096

Progress = Callable[[str, int, int], None]
"""(file name, bytes done, bytes in all); may be called from another thread."""

_known_files = msgspec.json.Decoder(dict[str, str])


class Verified(NamedTuple):
    """A model whose files are what they should be."""

    manifest: ModelManifest
    facts: Model


class Hashed(NamedTuple):
    """One file's content."""

    size: int
    sha256: str


def _silent(_name: str, _done: int, _total: int) -> None:
    pass


class ModelStore:
    """Hashes files. `cache_dir` remembers (device, inode, size, mtime, ctime) → SHA-256; losing it costs time only."""

    def __init__(self, cache_dir: Path, wall: Callable[[], float] = time.time) -> None:
        self._wall = wall
        self._path = cache_dir / "sha256.json"
        self._known = _read_known(self._path)

    async def verify(
        self,
        name: str,
        weights: Path,
        *,
        chat_template: Path | None = None,
        expected: str | None = None,
        license: str = "",
        progress: Progress = _silent,
    ) -> Verified:
        """Hash the model's files and compare the manifest's digest with `expected`.

        Raises ModelError, with what was expected and what to do.
        """
        files = [await self._file(name, weights, weights.name, progress)]
        if chat_template is not None:
            # Under a fixed name, so that the digest tells of the template's content and not of where it lies.
            files.append(await self._file(name, chat_template, "chat-template.jinja", progress))
        manifest = ModelManifest(name=name, files=tuple(files))
        if expected is not None and manifest.digest != expected:
            raise ModelError(
                f"model {name} is {manifest.digest} ({weights}: SHA-256 {files[0].sha256}), expected {expected}",
                remedy="Fetch the model again; if this file is the right one, set its digest in models.digest",
            )
        facts = Model(name=name, digest=manifest.digest, bytes=manifest.size_bytes, license=license)
        return Verified(manifest, facts)

    async def sha256(self, path: Path, progress: Progress = _silent) -> Hashed:
        """Size and digest of a regular file. Raises ModelError."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise _unreadable(path, error) from error
        try:
            return await self._sha256(fd, path, progress)
        except OSError as error:
            raise _unreadable(path, error) from error
        finally:
            os.close(fd)

    async def _file(self, model: str, path: Path, inside: str, progress: Progress) -> ModelFile:
        try:
            hashed = await self.sha256(path, progress)
        except ModelError as fault:
            raise ModelError(f"model {model}: {fault.message}", remedy=fault.remedy) from fault
        return ModelFile(path=inside, bytes=hashed.size, sha256=hashed.sha256)

    async def _sha256(self, fd: int, path: Path, progress: Progress) -> Hashed:
        before = os.fstat(fd)
        if not stat.S_ISREG(before.st_mode):
            raise ModelError(f"{path} is not a file", remedy="Name the model file itself")
        key = _key(before)
        if key in self._known:
            return Hashed(before.st_size, self._known[key])
        sha256, done = hashlib.sha256(), 0
        while read := await asyncio.to_thread(_feed, fd, sha256, _SLICE_BYTES):
            done += read
            progress(path.name, done, before.st_size)
        if _key(os.fstat(fd)) != key or done != before.st_size:
            raise ModelError(f"{path} changed while it was read", remedy="Wait until it is complete and start again")
        if self._wall() - before.st_ctime > _TICK_S:
            await self._remember(key, sha256.hexdigest())
        return Hashed(before.st_size, sha256.hexdigest())

    async def _remember(self, key: str, digest: str) -> None:
        self._known[key] = digest
        while len(self._known) > _MOST_KNOWN:
            del self._known[next(iter(self._known))]
        try:
            make_private_directory(self._path.parent)
            await asyncio.to_thread(replace_file, self._path, msgspec.json.encode(self._known))
        except OSError:
            return  # a full or read-only cache makes the next start slower, no more


def _feed(fd: int, sha256: hashlib._Hash, limit: int) -> int:
    """Hash up to `limit` bytes; 0 at the end."""
    done = 0
    while done < limit and (block := os.read(fd, BLOCK_BYTES)):
        sha256.update(block)
        done += len(block)
    return done


def _key(of: os.stat_result) -> str:
    return f"{of.st_dev}:{of.st_ino}:{of.st_size}:{of.st_mtime_ns}:{of.st_ctime_ns}"


def _read_known(path: Path) -> dict[str, str]:
    try:
        return _known_files.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return {}  # absent, or damaged: then everything is hashed again


def _unreadable(path: Path, error: OSError) -> ModelError:
    if error.errno == errno.ENOENT:
        return ModelError(f"{path} does not exist", remedy="Fetch the model or correct models.path")
    if error.errno == errno.ELOOP:
        remedy = f"Name the file itself: {os.path.realpath(path)}"
        return ModelError(f"{path} is a symbolic link, which could change under the engine", remedy=remedy)
    if error.errno == errno.EACCES:
        return ModelError(f"{path} may not be read", remedy=f"Allow it: `chmod a+r '{path}'`")
    return ModelError(f"{path} cannot be read: {error.strerror}", remedy="Check the disk and the file")
