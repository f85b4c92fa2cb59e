"""Keys and signatures have one spelling, whatever the primitive would also read."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from agent.core.errors import ProofError
from agent.core.proof.signed import open_signed, seal, verifies
from agent.core.wire import Role
from tests.core.proof.making import NODE_KEYS

SPELLINGS = pytest.mark.parametrize(
    "spelled",
    [str.upper, lambda text: f" {text}", lambda text: f"{text}\n", lambda text: f"{text[:2]} {text[2:]}"],
    ids=["upper case", "blank before", "line end", "blank within"],
)


def reads_anything(key: str, signature: str, digest: bytes) -> bool:
    """The most lenient primitive."""
    return True


def test_what_is_spelled_as_it_should_be_is_for_the_primitive_to_judge() -> None:
    assert verifies(reads_anything, "ab" * 32, "cd" * 64, b"")
    assert not verifies(lambda *_: False, "ab" * 32, "cd" * 64, b"")


@SPELLINGS
def test_another_spelling_of_a_key_or_signature_verifies_nowhere(spelled: Callable[[str], str]) -> None:
    assert not verifies(reads_anything, spelled("ab" * 32), "cd" * 64, b"")
    assert not verifies(reads_anything, "ab" * 32, spelled("cd" * 64), b"")


@SPELLINGS
def test_no_signed_body_is_believed_by_another_spelling(spelled: Callable[[str], str]) -> None:
    signed = seal(Role.RESULT, b"{}", NODE_KEYS.public_key, NODE_KEYS.sign)
    with pytest.raises(ProofError, match="does not verify"):
        open_signed(
            Role.RESULT,
            msgspec.structs.replace(signed, signature=spelled(signed.signature)),
            signed.key,
            reads_anything,
        )
