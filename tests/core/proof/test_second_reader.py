"""Two readers, one written from docs/proof.md alone, agree on what every transcript says, and on what is none."""

from __future__ import annotations

import random
import struct
from itertools import takewhile

import msgspec
import pytest

from agent.core.errors import ProofError
from agent.core.model import Commitment
from agent.core.proof.files import FileLeaf
from agent.core.proof.header import Header, decode_header
from agent.core.proof.leaves import Leaf, check_leaves, join_leaves, split_leaves
from agent.core.proof.merkle import leaf_hash, root
from agent.core.proof.program import Ended, ProgramHeader, decode_program_header
from agent.core.proof.toploc import IMPRINT_BYTES
from agent.core.proof.transcript import LEAF_TOKENS, LeafKind, Transcript, TranscriptBuilder
from agent.ports import Piece
from tests.core.proof import second_reader
from tests.core.proof.making import header, program_header

TRANSCRIPTS = 10_000
EDGES = (0, 1, 31, 32, 33, 63, 64, 65)
"""Numbers of entries around a full leaf."""


def some_f32(chance: random.Random) -> float:
    """Any 32 bits that are a number, infinities too."""
    while True:
        [value] = struct.unpack("<f", chance.randbytes(4))
        if value == value:
            return value


def some_file(chance: random.Random) -> FileLeaf:
    mode = chance.randrange(3)
    path, sha256 = chance.randbytes(chance.randrange(5)), chance.randbytes(32).hex()
    return FileLeaf(path, chance.getrandbits(64), sha256, executable=mode == 1, directory=mode == 2)


def some_transcript(chance: random.Random) -> Transcript:
    builder, pieces = TranscriptBuilder(4), list[Piece]()
    style = chance.choice(("tokens", "text", "mixed", "rows", "files"))
    if style == "files":
        builder.add_files(some_file(chance) for _ in range(chance.randrange(4)))
    elif style == "rows":
        builder.add_rows([[some_f32(chance) for _ in range(chance.randrange(5))] for _ in range(chance.randrange(4))])
    else:
        for _ in range(chance.choice(EDGES) if chance.random() < 0.2 else chance.randrange(8)):
            told = style == "tokens" or (style == "mixed" and chance.random() < 0.9)
            listed = chance.randrange(5)
            pieces.append(
                Piece(
                    text=chance.choice(("", "a", "ü", "\ud83d")),
                    token_id=chance.getrandbits(32) if told else None,
                    top_ids=tuple(chance.getrandbits(32) for _ in range(listed)),
                    top_logprobs=tuple(some_f32(chance) for _ in range(listed)),
                )
            )
            builder.add(pieces[-1])
    if chance.random() < 0.2:
        told = list(takewhile(lambda piece: piece.token_id is not None, pieces))
        builder.add_imprints([chance.randbytes(IMPRINT_BYTES) for _ in range(0, len(told), LEAF_TOKENS)])
    return builder.finish(some_f32(chance) if chance.random() < 0.3 else None)


def by_the_agent(raw: bytes) -> tuple[tuple[Leaf, ...], str]:
    leaves = split_leaves(raw)
    fits = Commitment(header="", root=root([leaf_hash(leaf) for leaf in leaves]).hex(), leaves=len(leaves))
    return check_leaves(leaves, fits), fits.root


def bits(values) -> bytes:
    """So that 0.0 and -0.0 differ."""
    return struct.pack(f"<{len(values)}f", *values)


def assert_equal(ours: tuple[Leaf, ...], theirs: list[dict]) -> None:
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert (a.kind, a.index, a.previous, a.count) == (b["kind"], b["index"], b["previous"], second_reader.size(b))
        match a.kind:
            case LeafKind.END:
                assert (a.entries, a.end_logprob) == (b["entries"], b["end_logprob"])
                assert list(a.imprints) == b["imprints"]
            case LeafKind.TOKENS:
                assert list(a.ids) == b["ids"]
                for one, other in zip(a.candidates, b["candidates"], strict=True):
                    assert [number for number, _ in one] == [number for number, _ in other]
                    assert bits([value for _, value in one]) == bits([value for _, value in other])
            case LeafKind.TEXT:
                assert list(a.texts) == b["texts"]
            case LeafKind.FILE:
                mode = 2 * a.file.directory + a.file.executable
                assert (a.file.path, mode, a.file.size, a.file.sha256) == (b["path"], b["mode"], b["size"], b["sha256"])
            case LeafKind.ROW:
                assert bits(a.row) == bits(b["row"])


def test_ten_thousand_random_transcripts_read_the_same():
    chance = random.Random(20261122)
    counts = set()
    for _ in range(TRANSCRIPTS):
        made = some_transcript(chance)
        raw = join_leaves(made.leaves)
        theirs, their_root = second_reader.read_transcript(raw)
        ours, our_root = by_the_agent(raw)
        assert made.root == our_root == their_root
        assert made.proof_kind == second_reader.proof_kind(theirs)
        assert_equal(ours, theirs)
        counts.add(max((leaf.count for leaf in ours), default=0))
    assert {0, LEAF_TOKENS} <= counts


def _opinion(read, raw: bytes):
    try:
        return read(raw)
    except (ProofError, second_reader.RefusedError):
        return None


def test_a_damaged_transcript_is_refused_by_both_or_reads_the_same():
    chance, refused = random.Random(7), 0
    for _ in range(3000):
        raw = bytearray(join_leaves(some_transcript(chance).leaves))
        match chance.randrange(3):
            case 0:
                raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
            case 1:
                del raw[chance.randrange(len(raw)) :]
            case 2:
                raw += chance.randbytes(chance.randrange(1, 9))
        ours, theirs = _opinion(by_the_agent, bytes(raw)), _opinion(second_reader.read_transcript, bytes(raw))
        assert (ours is None) == (theirs is None)
        if ours is None or theirs is None:
            refused += 1
        else:
            assert ours[1] == theirs[1]
            assert_equal(ours[0], theirs[0])
    assert 1000 < refused < 3000


def some_header(chance: random.Random) -> Header:
    def digest() -> str:
        return chance.randbytes(32).hex()

    texts = tuple(chance.choice(("", "\n\n", "grüß", "x" * 300)) for _ in range(chance.randrange(4)))
    return msgspec.structs.replace(
        header(),
        task_id=chance.choice(("t", "日本", "")),
        fence=chance.getrandbits(64),
        nonce=digest(),
        adapter_digest=chance.choice(("", digest())),
        prompt_sha256=chance.choice(("", digest())),
        top_k=chance.getrandbits(63) - (1 << 62),
        seed=chance.getrandbits(32),
        stop=texts,
        samplers=texts[:2],
        n_probs=chance.randrange(1025),
    )


def as_told(value: Header) -> dict:
    return msgspec.to_builtins(value) | {"stop": list(value.stop), "samplers": list(value.samplers)}


def test_headers_read_the_same_also_when_they_are_damaged():
    chance, refused = random.Random(11), 0
    for _ in range(3000):
        made = some_header(chance)
        raw = made.encode()
        assert as_told(made) == second_reader.read_header(raw)
        damaged = bytearray(raw)
        damaged[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
        ours, theirs = _opinion(decode_header, bytes(damaged)), _opinion(second_reader.read_header, bytes(damaged))
        assert (ours is None) == (theirs is None)
        refused += ours is None
        if ours is not None:
            assert as_told(ours) == theirs
    assert refused > 30


def some_program_header(chance: random.Random) -> ProgramHeader:
    words = tuple(chance.choice(("", "-x", "grüß", "y" * 300)) for _ in range(chance.randrange(4)))
    return msgspec.structs.replace(
        program_header(),
        fence=chance.getrandbits(64),
        argv=words,
        outputs=words[:2],
        env=tuple(sorted((f"N{n}", word) for n, word in enumerate(words))),
        inputs=tuple(sorted((f"i{n}", chance.randbytes(32).hex()) for n in range(chance.randrange(3)))),
        merge_stderr=chance.random() < 0.5,
        ended=chance.choice(list(Ended)),
        code=chance.randrange(256),
        engine_digest=chance.choice(("", chance.randbytes(32).hex())),
    )


def program_as_told(value: ProgramHeader) -> dict:
    told = msgspec.to_builtins(value)
    return {name: as_lists(field) for name, field in told.items()}


def as_lists(value):
    return [as_lists(item) for item in value] if isinstance(value, tuple | list) else value


def test_program_headers_read_the_same_also_when_they_are_damaged():
    chance, refused = random.Random(13), 0
    for _ in range(2000):
        made = some_program_header(chance)
        raw = made.encode()
        assert program_as_told(made) == second_reader.read_program_header(raw)
        damaged = bytearray(raw)
        damaged[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
        ours = _opinion(decode_program_header, bytes(damaged))
        theirs = _opinion(second_reader.read_program_header, bytes(damaged))
        assert (ours is None) == (theirs is None)
        refused += ours is None
        if ours is not None:
            assert program_as_told(ours) == theirs
    assert refused > 30


@pytest.mark.parametrize("raw", [b"", b"\x00" * 4, b"\xff" * 4, struct.pack("<I", (32 << 20) + 1)])
def test_what_is_no_transcript_is_refused_by_both(raw: bytes):
    with pytest.raises(ProofError):
        by_the_agent(raw)
    with pytest.raises(second_reader.RefusedError):
        second_reader.read_transcript(raw)
