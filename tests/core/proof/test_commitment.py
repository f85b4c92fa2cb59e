from __future__ import annotations

import base64

import msgspec
import pytest

from agent.core.errors import ProofError
from agent.core.model import Commitment, EmbeddingInput
from agent.core.proof.commitment import commit, read_commitment
from agent.core.proof.header import Header, ProofKind, check_against_offer
from agent.core.wire import OfferBody
from agent.edges.signing import KeyPair
from tests import builders
from tests.core.proof.making import NODE_KEYS, header, transcript

MADE = transcript()
HEADER = header(MADE)
COMMITMENT = commit(HEADER, MADE)


def check_of(commitment: Commitment, key: str = NODE_KEYS.public_key) -> str:
    with pytest.raises(ProofError) as refused:
        read_commitment(commitment, key)
    return refused.value.check


def changed(**fields) -> Commitment:
    return msgspec.structs.replace(COMMITMENT, **fields)


def test_a_commitment_reads_back_as_its_header():
    assert read_commitment(COMMITMENT, NODE_KEYS.public_key) == HEADER


def test_the_chain_that_the_engine_was_told_is_in_the_header():
    assert HEADER.samplers == ("top_k", "top_p", "min_p", "temperature")
    assert HEADER.min_keep == 2


def test_an_engine_whose_chain_we_do_not_choose_claims_none():
    made = header(MADE, pool=builders.pool(engine="vllm 0.9"))
    assert (made.samplers, made.min_keep) == ((), 0)


def test_another_key_is_not_the_committing_one():
    assert check_of(COMMITMENT, KeyPair.generate().public_key) == "commitment_key"


@pytest.mark.parametrize(
    "fields", [{"root": ""}, {"root": COMMITMENT.root.upper()}, {"root": COMMITMENT.root[:-2]}, {"leaves": 0}]
)
def test_what_is_no_root_over_leaves_is_refused(fields):
    assert check_of(changed(**fields)) == "commitment_root"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text + "=",
        lambda text: text + "\n",
        lambda text: text[:-8],
        lambda text: "",
        lambda text: "é" + text[1:],
        lambda text: "A" * (1 << 20),
        lambda text: base64.b64encode(base64.b64decode(text) + b"\x00").decode(),
    ],
)
def test_a_header_that_is_not_canonical_is_refused(spoil):
    assert check_of(changed(header=spoil(COMMITMENT.header))) == "commitment_header"


def test_spare_bits_of_base64_are_not_ignored():
    text = base64.b64encode(b"x").decode()  # "eA==": "eB==" decodes to the same byte
    assert base64.b64decode("eB==") == base64.b64decode(text)
    assert check_of(changed(header="eB==")) == "commitment_header"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("task_id", "other"),
        ("attempt", 2),
        ("fence", 2),
        ("nonce", "00" * 32),
        ("deadline_ms", 1),
        ("model_digest", "00" * 32),
        ("seed", 8),
        ("max_tokens", 15),
        ("temperature_micros", 0),
        ("top_k", 1),
        ("top_p_micros", 1),
        ("min_p_micros", 1),
        ("stop", ("x",)),
        ("adapter_digest", "ab" * 32),
    ],
)
def test_every_field_that_the_offer_fixes_is_compared(field: str, value):
    altered: Header = msgspec.structs.replace(HEADER, **{field: value})
    with pytest.raises(ProofError, match=field) as refused:
        check_against_offer(altered, builders.offer())
    assert refused.value.check == "header_offer"


@pytest.mark.parametrize("chain", [{"samplers": ()}, {"samplers": ("temperature", "top_k")}, {"min_keep": 1}])
def test_a_chain_that_the_engine_does_not_have_would_be_replayed_by_nobody(chain: dict):
    altered: Header = msgspec.structs.replace(HEADER, **chain)
    with pytest.raises(ProofError, match="sampler chain") as refused:
        check_against_offer(altered, builders.offer())
    assert refused.value.check == "header_offer"
    check_against_offer(msgspec.structs.replace(altered, engine="one that draws as it likes"), builders.offer())


def test_an_answer_has_a_token_at_least_where_the_engine_shows_what_ends_a_text():
    """A prompt is paid, too: who says that the text ended before it began would have it for nothing."""
    nothing: Header = msgspec.structs.replace(HEADER, completion_tokens=0)
    with pytest.raises(ProofError, match="none is no answer") as refused:
        check_against_offer(nothing, builders.offer())
    assert refused.value.check == "header_offer"
    check_against_offer(
        msgspec.structs.replace(nothing, engine="ollama 0.5", samplers=(), min_keep=0), builders.offer()
    )
    check_against_offer(msgspec.structs.replace(HEADER, completion_tokens=1), builders.offer())


ROWS = builders.offer(spec=builders.task(task_input=EmbeddingInput(texts=("a",)), max_tokens=16))


@pytest.mark.parametrize(
    ("offer", "lie"),
    [
        (builders.offer(), {"proof_kind": ProofKind.ROWS}),
        (ROWS, {"proof_kind": ProofKind.TOKENS_F32, "completion_tokens": 0}),
        (ROWS, {"proof_kind": ProofKind.ROWS, "completion_tokens": 1}),
    ],
    ids=["rows for a text", "tokens for rows", "tokens beside rows"],
)
def test_an_embedding_comes_to_rows_and_is_paid_for_no_tokens_of_output(offer: OfferBody, lie: dict):
    altered: Header = msgspec.structs.replace(header(MADE, offer), **lie)
    with pytest.raises(ProofError, match="embedding") as refused:
        check_against_offer(altered, offer)
    assert refused.value.check == "header_offer"
    honest = {"proof_kind": ProofKind.ROWS, "completion_tokens": 0}
    check_against_offer(msgspec.structs.replace(header(MADE, ROWS), **honest), ROWS)
