"""What a program may ask."""

from __future__ import annotations

from typing import Any

import pytest

from agent.core.model import Blob, Bundle, ExecInput, ExecLimits
from agent.core.program import CEILING, RUNTIME, blobs_of, excess, faults, published, sign_bundle
from agent.core.wire import MAX_BLOB_BYTES
from agent.devnet.keys import KeyPair, verify

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
