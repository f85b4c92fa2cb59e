from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.errors import ProofError
from agent.core.model import TaskKind
from agent.core.proof import canonical
from agent.core.proof.canonical import DIGEST, I64, TEXT, U8, U16, U32, U64, Reader, optional, sequence
from agent.core.proof.header import Header, ProofKind, decode_header
from tests.core.proof.making import header

U64S = st.integers(0, 2**64 - 1)
I64S = st.integers(-(2**63), 2**63 - 1)
DIGESTS = st.binary(min_size=32, max_size=32).map(bytes.hex)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
BASE = header()
HEADERS = st.builds(
    Header,
    **dict.fromkeys(("attempt", "fence", "deadline_ms", "min_keep", "n_probs", "seed", "max_tokens"), U64S),
    prompt_tokens=U64S,
    **dict.fromkeys(("temperature_micros", "top_k", "top_p_micros", "min_p_micros"), I64S),
    **dict.fromkeys(("node_key", "nonce", "model_digest", "request_sha256", "output_sha256"), DIGESTS),
    **{name: st.just("") | DIGESTS for name in ("adapter_digest", "engine_digest", "prompt_sha256")},
    **dict.fromkeys(("task_id", "engine", "determinism"), TEXTS),
    **{name: st.lists(TEXTS, max_size=4).map(tuple) for name in ("samplers", "stop")},
    completion_tokens=U64S,
    version=st.just(1),
    task_kind=st.sampled_from((TaskKind.CHAT, TaskKind.COMPLETION, TaskKind.EMBEDDING)),
    proof_kind=st.sampled_from((ProofKind.TOKENS_F32, ProofKind.TEXT, ProofKind.ROWS)),
)


@given(HEADERS)
def test_every_header_reads_back_as_it_was(value: Header):
    assert decode_header(value.encode()) == value


@settings(max_examples=400)
@given(st.data())
def test_a_header_with_any_byte_changed_is_refused_or_another_header_with_just_these_bytes(data: st.DataObject):
    raw = bytearray(BASE.encode())
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    try:
        other = decode_header(bytes(raw))
    except ProofError:
        return
    assert other != BASE
    assert other.encode() == bytes(raw)


@given(st.binary(max_size=600))
def test_random_bytes_are_no_header(raw: bytes):
    with pytest.raises(ProofError) as refused:
        decode_header(raw)
    assert refused.value.check == "encoding"


@given(st.integers(0, len(BASE.encode()) - 1))
def test_a_cut_off_header_is_refused(length: int):
    with pytest.raises(ProofError):
        decode_header(BASE.encode()[:length])


def test_bytes_after_the_end_are_refused():
    with pytest.raises(ProofError, match="follow the end"):
        decode_header(BASE.encode() + b"\x00")


def test_another_version_is_refused_before_anything_else_is_read():
    with pytest.raises(ProofError, match="version 2 is unknown"):
        decode_header(b"\x02\x00")


@pytest.mark.parametrize(
    ("codec", "raw"),
    [
        (TEXT, b"\x02\x00\x00\x00\xc0\x80"),  # NUL in two bytes
        (TEXT, b"\x03\x00\x00\x00\xed\xa0\x80"),  # a surrogate
        (TEXT, b"\x01\x00\x00\x00\xff"),
        (TEXT, b"\xff\xff\xff\xff"),
        (TEXT, b"\x05\x00\x00\x00abcd"),
        (optional(DIGEST), b"\x02" + bytes(32)),
        (optional(DIGEST), b"\x01" + bytes(31)),
        (sequence(U8, 3), b"\x04\x00\x00\x00abcd"),
        (sequence(TEXT, 1 << 20), b"\x00\x00\x01\x00"),
        (canonical.choice({ProofKind.TEXT: 2}), b"\x01"),
        (U64, b"\x00" * 7),
    ],
)
def test_what_is_not_canonical_is_refused(codec, raw: bytes):
    with pytest.raises(ProofError) as refused:
        codec.read(Reader(raw))
    assert refused.value.check == "encoding"


@pytest.mark.parametrize(
    ("codec", "value"),
    [
        (U8, 256),
        (U16, -1),
        (U32, 2**32),
        (U64, 2**64),
        (I64, 2**63),
        (DIGEST, "AB" * 32),
        (DIGEST, "ab" * 31),
        (DIGEST, "ab" * 32 + "\n"),
        (TEXT, "\ud800"),
        (TEXT, "x" * (canonical.MAX_TEXT_BYTES + 1)),
        (sequence(U8, 3), (1, 2, 3, 4)),
    ],
)
def test_what_does_not_fit_is_not_written(codec, value):
    with pytest.raises(ProofError) as refused:
        codec.write(value)
    assert refused.value.check == "encoding"


def test_a_header_that_is_too_long_is_neither_written_nor_read():
    stops = ("x" * canonical.MAX_TEXT_BYTES,) * 5
    with pytest.raises(ProofError, match="is over"):
        msgspec.structs.replace(BASE, stop=stops).encode()
    with pytest.raises(ProofError, match="is over"):
        decode_header(bytes(300 << 10))
