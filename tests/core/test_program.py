"""What a program may ask."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.model import Blob, Bundle, ExecInput, ExecLimits
from agent.core.program import CEILING, RUNTIME, blobs_of, excess, faults, published, sign_bundle
from agent.core.proof.program import Ended, ProgramHeader, decode_program_header, program_header
from agent.core.wire import MAX_BLOB_BYTES
from agent.devnet.keys import KeyPair, verify
from tests import builders

PUBLISHER = KeyPair(b"\x09" * 32)
DIGEST = "ab" * 32


def program(**changes: Any) -> ExecInput:
    bundle = sign_bundle(DIGEST, 1024, PUBLISHER.public, PUBLISHER.sign)
    return ExecInput(**{"bundle": bundle, "argv": ("/bundle/run", "1"), **changes})


def test_a_plain_program_is_without_fault():
    asked = program(env={"FRAME": "7"}, inputs={"scene.json": Blob(sha256="cd" * 32, bytes=3)}, cwd="/bundle/sub.d")
    assert faults(asked) == []
    assert blobs_of(asked) == {DIGEST: 1024, "cd" * 32: 3}


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("argv", (), "argv"),
        ("argv", ("",), "argv"),
        ("argv", ("a\0b",), "argv"),
        ("argv", ("a", "\ud800"), "argv"),
        ("argv", ("a", "b" * (64 << 10)), "argv"),
        ("env", {"A=B": "1"}, "env"),
        ("env", {"": "1"}, "env"),
        ("env", {"A": "1\0"}, "argv, env"),
        ("cwd", "/etc", "cwd"),
        ("cwd", "/bundle/../etc", "cwd"),
        ("cwd", "out", "cwd"),
        ("inputs", {"../x": Blob(sha256=DIGEST, bytes=1)}, "inputs"),
        ("inputs", {".hidden": Blob(sha256=DIGEST, bytes=1)}, "inputs"),
        ("inputs", {"a": Blob(sha256="../" + DIGEST, bytes=1)}, "inputs.a"),
        ("inputs", {"a": Blob(sha256=DIGEST, bytes=MAX_BLOB_BYTES + 1)}, "inputs.a"),
        ("inputs", {"a": Blob(sha256=DIGEST, bytes=1), "b": Blob(sha256=DIGEST, bytes=2)}, "inputs"),
        ("inputs", {f"i{n}": Blob(sha256=DIGEST, bytes=1) for n in range(65)}, "inputs"),
        ("outputs", ("",), "outputs"),
        ("outputs", ("a" * 257,), "outputs"),
        ("outputs", ("*",) * 33, "outputs"),
        ("limits", ExecLimits(wall_s=0), "limits.wall_s"),
        ("limits", ExecLimits(memory_bytes=1 << 41), "limits.memory_bytes"),
        ("limits", ExecLimits(out_bytes=MAX_BLOB_BYTES), "limits.out_bytes"),
        ("bundle", Bundle(sha256="/" * 64, bytes=1, publisher=DIGEST, signature="0" * 128), "bundle"),
        ("bundle", Bundle(sha256=DIGEST, bytes=0, publisher=DIGEST, signature="0" * 128), "bundle.bytes"),
        ("bundle", Bundle(sha256=DIGEST, bytes=1, publisher=DIGEST, signature=""), "bundle.signature"),
    ],
)
def test_what_no_sandbox_could_do_is_told_by_its_field(field: str, value: Any, says: str):
    told = faults(program(**{field: value}))
    assert told
    assert all(line.startswith(says) for line in told)


def committed(asked: ExecInput) -> ProgramHeader:
    spec = builders.task(task_input=asked, model=RUNTIME, max_tokens=0)
    fields = {"node_key": DIGEST, "ended": Ended.EXITED, "code": 0, "artifact": DIGEST, "output_sha256": DIGEST}
    return program_header(builders.offer(spec=spec), builders.pool(), **fields)


WORDS = st.text(max_size=30) | st.sampled_from(["/out", "/bundle", "**", "A", "\0", "\ud800", "x" * 70_000])
NUMBERS = st.integers(0, 2**53 - 1) | st.sampled_from([1, 600, 1 << 20, 32 << 20])
DIGESTS = st.sampled_from([DIGEST, DIGEST, DIGEST.upper(), "", "/" * 64])
SIZES = dict.fromkeys(ExecLimits.__struct_fields__, st.sampled_from([1, 600, 1 << 20]))
PROGRAMS = st.builds(
    ExecInput,
    bundle=st.builds(Bundle, sha256=DIGESTS, bytes=NUMBERS, publisher=DIGESTS, signature=st.just("0" * 128) | WORDS),
    argv=st.lists(WORDS, max_size=4).map(tuple),
    env=st.dictionaries(WORDS, WORDS, max_size=2),
    inputs=st.dictionaries(WORDS, st.builds(Blob, sha256=DIGESTS, bytes=NUMBERS), max_size=2),
    outputs=st.lists(WORDS, max_size=3).map(tuple),
    cwd=st.sampled_from(["/out", "/tmp", "/bundle"]) | WORDS,
    merge_stderr=st.booleans(),
    limits=st.just(ExecLimits()) | st.builds(ExecLimits, **SIZES),
)


@given(PROGRAMS)
def test_whatever_is_asked_is_judged_and_what_is_without_fault_travels_and_is_committed_to(asked: ExecInput):
    if not faults(asked):
        assert msgspec.json.decode(msgspec.json.encode(asked), type=ExecInput) == asked
        assert decode_program_header(committed(asked).encode()) == committed(asked)


@pytest.mark.parametrize("many", [{"argv": ("a",) * 32_000}, {"env": {f"N{n:x}": "" for n in range(9_000)}}])
def test_the_most_words_that_are_allowed_fit_a_header(many: dict[str, Any]):
    asked = program(**many)
    assert faults(asked) == []
    assert decode_program_header(committed(asked).encode()) == committed(asked)


def test_every_limit_over_what_the_owner_allows_is_named():
    asked = ExecLimits(memory_bytes=2 << 30, wall_s=601)
    assert excess(asked, ExecLimits()) == ["memory_bytes 2147483648 is over 536870912", "wall_s 601 is over 600"]
    assert excess(ExecLimits(), CEILING) == []


def test_a_bundle_is_published_by_exactly_its_signer():
    bundle = program().bundle
    other = KeyPair(b"\x0a" * 32).public
    assert published(bundle, verify)
    for changed in ({"sha256": "ac" * 32}, {"bytes": 1025}, {"publisher": other}, {"signature": "0" * 128}):
        assert not published(Bundle(**{**{n: getattr(bundle, n) for n in bundle.__struct_fields__}, **changed}), verify)


def test_the_runtime_has_one_name_for_ever():
    assert RUNTIME == "sha256:b4fc7215afafba8d268ca6a562976cd3fa6834fdba3b2983379cb8e419df408e"
