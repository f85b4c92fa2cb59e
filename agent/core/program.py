"""What a program may ask, and whether its bundle is one that the owner runs. Pure; the same on both sides."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from agent.core.globs import MAX_PATTERN_BYTES
from agent.core.manifest import ModelManifest
from agent.core.model import Blob, Bundle, ExecInput, ExecLimits
from agent.core.payloads import Role
from agent.core.proof.signed import Sign, Verify, digest, verifies
from agent.core.wire import MAX_BLOB_BYTES

RUNTIME: Final = ModelManifest(name="exec/v1").digest
"""Stands where a model's digest stands: the directories, limits and rules of docs/exec.md around a program."""
MAX_ARGV_BYTES = 64 << 10
MAX_INPUTS = 64
MAX_OUTPUTS = 32
ARCHIVE_ROOM_BYTES = 8 << 20
"""Of a blob, for headers, stdout and stderr; the rest is for the files in /out."""
CEILING = ExecLimits(
    memory_bytes=1 << 40,
    cpu_millis=1_024_000,
    pids=1 << 16,
    wall_s=7 * 86_400,
    tmp_bytes=1 << 36,
    out_bytes=MAX_BLOB_BYTES - ARCHIVE_ROOM_BYTES,
    stdout_bytes=4 << 20,
)
"""Beyond this nobody can ask; each owner sets less."""
FLOOR = ExecLimits(
    memory_bytes=16 << 20, cpu_millis=50, pids=16, wall_s=1, tmp_bytes=1 << 12, out_bytes=1 << 12, stdout_bytes=1
)
"""With less some backend could not even build the sandbox, and that would look like the node's fault."""
_DIGEST = re.compile(r"[0-9a-f]{64}")
_SIGNATURE = re.compile(r"[0-9a-f]{128}")
_INPUT_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_CWD = re.compile(r"/(out|tmp|bundle(/[A-Za-z0-9_][A-Za-z0-9._-]{0,99}){0,16})")


def bundle_digest(sha256: str, size: int) -> bytes:
    """What a publisher signs: digest and size of the archive."""
    return digest(Role.BUNDLE, bytes.fromhex(sha256), size.to_bytes(8, "little"))


def sign_bundle(sha256: str, size: int, publisher: str, sign: Sign) -> Bundle:
    """A bundle as `publisher` (public key, hex) publishes it."""
    return Bundle(sha256=sha256, bytes=size, publisher=publisher, signature=sign(bundle_digest(sha256, size)))


def published(bundle: Bundle, verify: Verify) -> bool:
    """Whether the publisher that the bundle names signed exactly it."""
    return verifies(verify, bundle.publisher, bundle.signature, bundle_digest(bundle.sha256, bundle.bytes))


def blobs_of(task: ExecInput) -> dict[str, int]:
    """Digest → size of all that has to be brought before the program runs."""
    inputs = {blob.sha256: blob.bytes for blob in task.inputs.values()}
    return {task.bundle.sha256: task.bundle.bytes, **inputs}


def excess(asked: ExecLimits, most: ExecLimits) -> list[str]:
    """What is asked beyond `most`, in words."""
    return [
        f"{name} {getattr(asked, name)} is over {getattr(most, name)}"
        for name in ExecLimits.__struct_fields__
        if getattr(asked, name) > getattr(most, name)
    ]


def faults(task: ExecInput) -> list[str]:
    """Everything that no sandbox could do, whoever owns it; each line begins with the field's name."""
    return [
        *_bundle(task.bundle),
        *_words(task),
        *_inputs(task.inputs),
        *_outputs(task.outputs),
        *(f"limits.{line}" for line in [*excess(task.limits, CEILING), *_too_low(task.limits)]),
    ]


def _bundle(bundle: Bundle) -> Iterator[str]:
    if not (_DIGEST.fullmatch(bundle.sha256) and _DIGEST.fullmatch(bundle.publisher)):
        yield "bundle: sha256 and publisher are 64 lower-case hex digits each"
    if not _SIGNATURE.fullmatch(bundle.signature):
        yield "bundle.signature: expected 128 lower-case hex digits"
    if not 0 < bundle.bytes <= MAX_BLOB_BYTES:
        yield f"bundle.bytes: expected 1 to {MAX_BLOB_BYTES}"


def _words(task: ExecInput) -> Iterator[str]:
    words = [*task.argv, *task.env, *task.env.values()]
    if not task.argv or not task.argv[0]:
        yield "argv: the program is missing"
    if any(_unfit(word) for word in words):
        yield "argv, env: a word holds a zero byte or is no text"
    elif sum(len(word.encode()) + 1 for word in words) > MAX_ARGV_BYTES:
        yield f"argv, env: more than {MAX_ARGV_BYTES} bytes together"
    for name in task.env:
        if not _VARIABLE.fullmatch(name):
            yield f"env: {name[:100]!r} is no name of a variable"
    if not _CWD.fullmatch(task.cwd):
        yield f"cwd: {task.cwd[:100]!r} is neither /out nor /tmp nor /bundle or below it"


def _inputs(inputs: dict[str, Blob]) -> Iterator[str]:
    if len(inputs) > MAX_INPUTS:
        yield f"inputs: at most {MAX_INPUTS}"
    for name, blob in inputs.items():
        if not _INPUT_NAME.fullmatch(name):
            yield f"inputs: {name[:100]!r} is no plain file name"
        if not _DIGEST.fullmatch(blob.sha256) or blob.bytes > MAX_BLOB_BYTES:
            yield f"inputs.{name[:100]}: expected a SHA-256 digest and at most {MAX_BLOB_BYTES} bytes"
    sizes = {(blob.sha256, blob.bytes) for blob in inputs.values()}
    if len({sha256 for sha256, _ in sizes}) != len(sizes):
        yield "inputs: one digest has two sizes"


def _outputs(patterns: tuple[str, ...]) -> Iterator[str]:
    if len(patterns) > MAX_OUTPUTS:
        yield f"outputs: at most {MAX_OUTPUTS} patterns"
    for pattern in patterns:
        if not pattern or _unfit(pattern) or len(pattern.encode()) > MAX_PATTERN_BYTES:
            yield f"outputs: {pattern[:100]!r} is no pattern of 1 to {MAX_PATTERN_BYTES} bytes"


def _too_low(asked: ExecLimits) -> list[str]:
    return [
        f"{name} {getattr(asked, name)} is under {getattr(FLOOR, name)}"
        for name in ExecLimits.__struct_fields__
        if getattr(asked, name) < getattr(FLOOR, name)
    ]


def _unfit(word: str) -> bool:
    return "\0" in word or any("\ud800" <= c <= "\udfff" for c in word)
