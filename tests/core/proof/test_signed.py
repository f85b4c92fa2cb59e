"""Keys and signatures have one spelling, whatever the primitive would also read."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import ProofError
from agent.core.model import Batch, Signed
from agent.core.proof.signed import MAX_BATCH, open_signed, seal, seal_all, verifies
from agent.core.wire import Role
from agent.edges.signing import verify
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


def together(count: int, role: Role = Role.RESULT) -> list[Signed]:
    payloads = [b'{"n":%d}' % number for number in range(count)]
    return seal_all(role, payloads, NODE_KEYS.public_key, NODE_KEYS.sign)


@given(st.integers(0, 70))
def test_of_payloads_signed_together_each_opens_by_itself(count: int) -> None:
    opened = [open_signed(Role.RESULT, it, NODE_KEYS.public_key, verify) for it in together(count)]
    assert opened == [b'{"n":%d}' % number for number in range(count)]


def test_payloads_signed_together_cost_one_signature() -> None:
    assert len({it.signature for it in together(16)}) == 1
    assert together(1) == [seal(Role.RESULT, b'{"n":0}', NODE_KEYS.public_key, NODE_KEYS.sign)]


def placed(signed: Signed, **changes: object) -> Signed:
    return msgspec.structs.replace(signed, batch=msgspec.structs.replace(signed.batch, **changes))


FIRST, SECOND, THIRD = together(3)


@pytest.mark.parametrize(
    "forged",
    [
        msgspec.structs.replace(FIRST, payload='{"n":7}'),
        msgspec.structs.replace(FIRST, payload=SECOND.payload),
        msgspec.structs.replace(FIRST, batch=None),
        msgspec.structs.replace(FIRST, batch=SECOND.batch),
        msgspec.structs.replace(FIRST, signature=together(4)[0].signature),
        placed(FIRST, index=1),
        placed(FIRST, count=4),
        placed(FIRST, index=3),
        placed(FIRST, path=FIRST.batch.path[:-1]),
        placed(FIRST, path=(*FIRST.batch.path, "00" * 32)),
        placed(FIRST, path=tuple(sibling.upper() for sibling in FIRST.batch.path)),
        placed(FIRST, path=("zz" * 32, *FIRST.batch.path[1:])),
        placed(FIRST, count=MAX_BATCH + 1),
        placed(FIRST, index=0, count=1, path=()),
        together(3, Role.RECEIPT)[0],
    ],
)
def test_nothing_that_was_not_signed_together_opens_as_if_it_were(forged: Signed) -> None:
    with pytest.raises(ProofError) as refused:
        open_signed(Role.RESULT, forged, NODE_KEYS.public_key, verify)
    assert refused.value.check == "signature"


def test_a_signature_over_a_batch_is_none_over_its_root_as_a_payload() -> None:
    """A payload alone and a batch are told apart by their role, however the payload is chosen."""
    alone = seal(Role.RESULT, b"{}", NODE_KEYS.public_key, NODE_KEYS.sign)
    for path in ((), (alone.signature[:64],)):
        forged = msgspec.structs.replace(alone, batch=Batch(index=0, count=len(path) + 1, path=path))
        with pytest.raises(ProofError):
            open_signed(Role.RESULT, forged, NODE_KEYS.public_key, verify)
