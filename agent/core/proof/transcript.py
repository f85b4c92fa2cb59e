"""The transcript of one generation: leaves of 32 tokens with their candidates, each chained to the one before."""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Sequence
from enum import IntEnum
from typing import NamedTuple, Protocol

from agent.core.proof.canonical import BYTES, U8, U16, U32, U64, malformed
from agent.core.proof.files import FileLeaf, write_file
from agent.core.proof.header import ProofKind
from agent.core.proof.merkle import HASH_BYTES, leaf_hash, root
from agent.core.proof.toploc import IMPRINT_BYTES

LEAF_TOKENS = 32
NO_PREVIOUS = bytes(HASH_BYTES)

_MAX_CANDIDATES = (1 << 16) - 1


class LeafKind(IntEnum):
    """What a leaf holds."""

    END = 0
    """The last leaf: how many entries there were, and how sure the engine was to end."""
    TOKENS = 1
    TEXT = 2
    """Text that came without token ids."""
    ROW = 3
    """One row of output numbers."""
    FILE = 4
    """One member of the archive that a program left."""


class Token(Protocol):
    """One generated token. `top_ids` and `top_logprobs` run parallel, most likely first."""

    @property
    def text(self) -> str: ...
    @property
    def token_id(self) -> int | None: ...
    @property
    def top_ids(self) -> Sequence[int]: ...
    @property
    def top_logprobs(self) -> Sequence[float]: ...


class Transcript(NamedTuple):
    """A finished transcript."""

    leaves: tuple[bytes, ...]
    root: str
    """Hex."""
    proof_kind: ProofKind


class TranscriptBuilder:
    """Takes pieces as they come and closes a leaf every 32. Not reusable.

    1,024 tokens with 40 candidates each take about 6 ms.
    """

    def __init__(self, top_logprobs: int) -> None:
        self._most = min(top_logprobs, _MAX_CANDIDATES)
        self._leaves: list[bytes] = []
        self._hashes: list[bytes] = []
        self._open_kind = LeafKind.TOKENS
        self._ids: list[int] = []
        self._open: list[bytes] = []
        self._entries = 0
        self._kinds: set[LeafKind] = set()
        self._imprints: tuple[bytes, ...] = ()

    def add(self, piece: Token) -> str:
        """Add one generated token; returns the running leaf hash (hex) when a leaf closed, else "".

        Raises ProofError("encoding") when the engine's numbers cannot be written down.
        """
        kind = LeafKind.TEXT if piece.token_id is None else LeafKind.TOKENS
        closed = self._close() if self._open and kind != self._open_kind else ""
        self._open_kind = kind
        if piece.token_id is None:
            self._open.append(BYTES.write(piece.text.encode("utf-8", "surrogatepass")))
        else:
            self._open.append(_candidates(piece.top_ids[: self._most], piece.top_logprobs[: self._most]))
            self._ids.append(piece.token_id)
        return self._close() if len(self._open) == LEAF_TOKENS else closed

    def add_rows(self, rows: Sequence[Sequence[float]]) -> str:
        """Add rows of output, a leaf each; returns the running leaf hash (hex), "" when there were none."""
        closed = self._close() if self._open else ""
        for row in rows:
            closed = self._append(LeafKind.ROW, U32.write(len(row)) + _floats(row))
            self._entries += 1
        return closed

    def add_files(self, files: Iterable[FileLeaf]) -> None:
        """Add what a program left, a leaf each. Raises ProofError("encoding")."""
        for file in files:
            self._append(LeafKind.FILE, write_file(file))
            self._entries += 1

    def add_imprints(self, imprints: Sequence[bytes]) -> None:
        """Of the hidden states of each leaf of tokens, up to the first leaf of another kind; for the end leaf."""
        self._imprints = tuple(imprints)

    def finish(self, end_logprob: float | None = None) -> Transcript:
        """Close what is open and add the end leaf. `end_logprob` is the end-of-text token's, where it is known."""
        if self._open:
            self._close()
        told = b"\x00" if end_logprob is None else b"\x01" + _floats((end_logprob,))
        self._append(LeafKind.END, U64.write(self._entries) + told + _listed(self._imprints))
        return Transcript(tuple(self._leaves), root(self._hashes).hex(), proof_kind_of(self._kinds))

    def _close(self) -> str:
        entries, ids = self._open, self._ids
        self._open, self._ids = [], []
        self._entries += len(entries)
        return self._append(self._open_kind, U16.write(len(entries)) + _ids(ids) + b"".join(entries))

    def _append(self, kind: LeafKind, body: bytes) -> str:
        previous = self._hashes[-1] if self._hashes else NO_PREVIOUS
        leaf = U8.write(kind) + U32.write(len(self._leaves)) + previous + body
        running = leaf_hash(leaf)
        self._kinds.add(kind)
        self._leaves.append(leaf)
        self._hashes.append(running)
        return running.hex()


def proof_kind_of(kinds: Collection[LeafKind]) -> ProofKind:
    """What a transcript with leaves of these kinds can show."""
    if LeafKind.TEXT in kinds:
        return ProofKind.TEXT
    if LeafKind.FILE in kinds:
        return ProofKind.FILES
    return ProofKind.ROWS if LeafKind.ROW in kinds else ProofKind.TOKENS_F32


def _ids(ids: Sequence[int]) -> bytes:
    try:
        return struct.pack(f"<{len(ids)}I", *ids)
    except struct.error as error:
        raise malformed("a token id is not a u32") from error


def _floats(values: Sequence[float]) -> bytes:
    """f32, rounded to nearest. NaN is refused: it has many encodings and stands for no probability."""
    total = sum(values)
    if total != total and any(value != value for value in values):  # noqa: PLR0124  (only NaN differs from itself)
        raise malformed("a number is NaN")
    try:
        return struct.pack(f"<{len(values)}f", *values)
    except (struct.error, OverflowError) as error:
        raise malformed("a number does not fit an f32") from error


def _listed(imprints: Sequence[bytes]) -> bytes:
    """Nothing where there are none."""
    if any(len(one) != IMPRINT_BYTES for one in imprints):
        raise malformed(f"an imprint has not {IMPRINT_BYTES} bytes")
    return U32.write(len(imprints)) + b"".join(imprints) if imprints else b""


def _candidates(ids: Sequence[int], logprobs: Sequence[float]) -> bytes:
    if len(ids) != len(logprobs):
        raise malformed(f"{len(ids)} candidates have {len(logprobs)} log-probabilities")
    return U16.write(len(ids)) + _ids(ids) + _floats(logprobs)
