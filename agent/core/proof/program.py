"""The header of a program's transcript: what was to be run, with what, on what, and how it ended."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, TypeVar

import msgspec

from agent.core.errors import ProofError
from agent.core.fingerprint import Pool
from agent.core.model import ExecInput, TaskKind, Value
from agent.core.payloads import OfferBody
from agent.core.proof.canonical import (
    DIGEST,
    TEXT,
    U8,
    U16,
    U64,
    Codec,
    Reader,
    choice,
    malformed,
    optional,
    sequence,
)
from agent.core.proof.fields import Fields, asked_of_all, check_asked, check_size, encode_fields
from agent.core.proof.header import ProofKind

PROGRAM_VERSION = 2
_WORDS = 1 << 15
"""Two bytes each at least, of 64 KiB that `core.program` allows."""
_NAMED = 1 << 10

A = TypeVar("A")
B = TypeVar("B")


class Ended(StrEnum):
    """How a program ended."""

    EXITED = "exited"
    SIGNALLED = "signalled"
    OUT_OF_MEMORY = "out_of_memory"
    WALL_TIME = "wall_time"
    DISK_FULL = "disk_full"
    OUTPUT_TOO_LARGE = "output_too_large"


class ProgramHeader(Value):
    """See docs/proof.md for the bytes. Digests are 64 lower-case hex digits."""

    task_id: str
    attempt: int
    fence: int
    node_key: str
    nonce: str
    deadline_ms: int
    task_kind: TaskKind
    runtime: str
    """`core.program.RUNTIME`, without the `sha256:` in front."""
    bundle: str
    publisher: str
    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    """Sorted by name, as `inputs` are."""
    inputs: tuple[tuple[str, str], ...]
    """Name → digest."""
    outputs: tuple[str, ...]
    cwd: str
    merge_stderr: bool
    limits: tuple[int, ...]
    """As `core.model.ExecLimits` lists them."""
    seed: int
    engine: str
    """What isolated the program."""
    engine_digest: str
    ended: Ended
    code: int
    """Exit status, or number of the signal."""
    artifact: str
    """Digest of the archive of what the program left."""
    output_sha256: str
    proof_kind: ProofKind = ProofKind.FILES
    version: int = PROGRAM_VERSION

    @property
    def prompt_tokens(self) -> int:
        """None: a program has no tokens."""
        return 0

    @property
    def completion_tokens(self) -> int:
        """None, likewise."""
        return 0

    def encode(self) -> bytes:
        """Canonical bytes. Raises ProofError("encoding")."""
        return encode_fields(self, _FIELDS)


def _pair(first: Codec[A], second: Codec[B]) -> Codec[tuple[A, B]]:
    return Codec(
        lambda value: first.write(value[0]) + second.write(value[1]),
        lambda reader: (first.read(reader), second.read(reader)),
    )


_FLAG: Codec[bool] = Codec(lambda value: U8.write(int(value)), lambda reader: bool(U8.read(reader)))

# The order is the format: a change here is a new version.
_FIELDS: Fields = (
    ("version", U16),
    ("task_id", TEXT),
    ("attempt", U64),
    ("fence", U64),
    ("node_key", DIGEST),
    ("nonce", DIGEST),
    ("deadline_ms", U64),
    ("task_kind", choice({TaskKind.EXEC: 4})),
    ("runtime", DIGEST),
    ("bundle", DIGEST),
    ("publisher", DIGEST),
    ("argv", sequence(TEXT, _WORDS)),
    ("env", sequence(_pair(TEXT, TEXT), _WORDS)),
    ("inputs", sequence(_pair(TEXT, DIGEST), _NAMED)),
    ("outputs", sequence(TEXT, _NAMED)),
    ("cwd", TEXT),
    ("merge_stderr", _FLAG),
    ("limits", sequence(U64, _NAMED)),
    ("seed", U64),
    ("engine", TEXT),
    ("engine_digest", optional(DIGEST)),
    ("ended", choice({ended: number for number, ended in enumerate(Ended)})),
    ("code", U64),
    ("artifact", DIGEST),
    ("proof_kind", choice({ProofKind.FILES: 4})),
    ("output_sha256", DIGEST),
)


def decode_program_header(raw: bytes) -> ProgramHeader:
    """Read canonical bytes. Raises ProofError("encoding"); what it returns encodes to the same bytes."""
    check_size(raw)
    reader = Reader(raw)
    header = ProgramHeader(**{name: codec.read(reader) for name, codec in _FIELDS})
    reader.end()
    if header.version != PROGRAM_VERSION or header.encode() != raw:
        raise malformed("the header is not in its one form")
    for named in (header.env, header.inputs):
        if list(named) != sorted(dict(named).items()):
            raise malformed("names are out of order or repeated")
    return header


def program_header(
    offer: OfferBody, pool: Pool, *, node_key: str, ended: Ended, code: int, artifact: str, output_sha256: str
) -> ProgramHeader:
    """The header of one finished attempt: what `offer` asked, done by `pool`."""
    return ProgramHeader(
        **_asked(offer),
        node_key=node_key,
        engine=pool.engine,
        engine_digest=pool.engine_digest,
        ended=ended,
        code=code,
        artifact=artifact,
        output_sha256=output_sha256,
    )


def check_program_against_offer(header: ProgramHeader, offer: OfferBody) -> None:
    """Whether the header says what the offer asked. Raises ProofError("header_offer") naming the fields."""
    if not isinstance(offer.task.input, ExecInput):
        raise ProofError("header_offer", "a program's header, but the offer asked for no program")
    check_asked(header, _asked(offer))


def _asked(offer: OfferBody) -> dict[str, Any]:
    """The header fields that the offer fixes."""
    task, program = offer.task, offer.task.input
    assert isinstance(program, ExecInput)
    return {
        **asked_of_all(offer),
        "runtime": task.model_digest.removeprefix("sha256:"),
        "bundle": program.bundle.sha256,
        "publisher": program.bundle.publisher,
        "argv": program.argv,
        "env": tuple(sorted(program.env.items())),
        "inputs": tuple(sorted((name, blob.sha256) for name, blob in program.inputs.items())),
        "outputs": program.outputs,
        "cwd": program.cwd,
        "merge_stderr": program.merge_stderr,
        "limits": msgspec.structs.astuple(program.limits),
        "seed": task.sampling.seed,
    }
