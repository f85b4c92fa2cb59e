from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core import wire
from agent.core.errors import ProofError
from agent.core.model import Outcome, Reason, Usage
from agent.core.proof.commitment import commit
from agent.core.proof.receipt import CHECKS, examine, verify_bundle
from agent.edges.signing import KeyPair, verify
from tests import builders
from tests.core.proof.making import COORDINATOR_KEYS, bundle, header, transcript

GOOD = bundle()
replace = msgspec.structs.replace


def check_of(spoilt: wire.ReceiptBundle, **options) -> str:
    with pytest.raises(ProofError) as refused:
        verify_bundle(spoilt, verify, **options)
    return refused.value.check


def test_a_sound_bundle_passes_every_check():
    assert verify_bundle(GOOD, verify) == [check.name for check in CHECKS]
    assert verify_bundle(GOOD, verify, coordinator_key=COORDINATOR_KEYS.public_key) == [check.name for check in CHECKS]


def test_a_bundle_survives_json():
    assert verify_bundle(msgspec.json.decode(wire.encode(GOOD), type=wire.ReceiptBundle), verify)


def test_a_transcript_is_checked_where_it_is_at_hand():
    framed = b"".join(len(leaf).to_bytes(4, "little") + leaf for leaf in transcript().leaves)
    assert examine(GOOD, verify, transcript=framed).passed[-1].name == "transcript"
    spoilt = examine(GOOD, verify, transcript=framed[:-1])
    assert spoilt.failed is not None
    assert spoilt.failed.name == "transcript"


def test_a_failed_attempt_needs_neither_output_nor_commitment():
    failed = bundle(
        output=None,
        result={
            "outcome": Outcome.FAILED,
            "reason": Reason.ENGINE_CRASHED,
            "output_sha256": "",
            "output_bytes": 0,
            "commitment": None,
        },
    )
    assert verify_bundle(failed, verify)[-1] == "accepted"


def test_a_bundle_without_its_output_still_verifies():
    assert verify_bundle(replace(GOOD, output=None), verify)


def test_another_coordinator_than_the_expected_one_is_refused():
    assert check_of(GOOD, coordinator_key=KeyPair.generate().public_key) == "coordinator_key"


OTHER = KeyPair.generate()
OTHER_OFFER = builders.offer(spec=builders.task(seed=8))
MADE = transcript()

# What was changed → the check that must notice.
TAMPERED = {
    "version": (replace(GOOD, version=2), "format"),
    "offer is no JSON": (replace(GOOD, offer=replace(GOOD.offer, payload="{")), "format"),
    "result lacks a field": (replace(GOOD, result=replace(GOOD.result, payload="{}")), "format"),
    "receipt has one too many": (
        replace(GOOD, receipt=replace(GOOD.receipt, payload='{"extra":1,' + GOOD.receipt.payload[1:])),
        "format",
    ),
    "coordinator's key": (replace(GOOD, coordinator_key=OTHER.public_key), "coordinator_key"),
    "offer's key": (replace(GOOD, offer=replace(GOOD.offer, key=OTHER.public_key)), "coordinator_key"),
    "receipt's key": (replace(GOOD, receipt=replace(GOOD.receipt, key=OTHER.public_key)), "coordinator_key"),
    "offer's payload": (replace(GOOD, offer=replace(GOOD.offer, payload=GOOD.offer.payload + " ")), "offer_signature"),
    "offer's signature": (
        replace(GOOD, offer=replace(GOOD.offer, signature=GOOD.receipt.signature)),
        "offer_signature",
    ),
    "result's payload": (
        replace(GOOD, result=replace(GOOD.result, payload=GOOD.result.payload.replace("completed", "aborted"))),
        "result_signature",
    ),
    "result's key": (replace(GOOD, result=replace(GOOD.result, key=OTHER.public_key)), "result_signature"),
    "result's signature": (replace(GOOD, result=replace(GOOD.result, signature="00" * 64)), "result_signature"),
    "amount": (
        replace(GOOD, receipt=replace(GOOD.receipt, payload=GOOD.receipt.payload.replace("1234567", "9234567"))),
        "receipt_signature",
    ),
    "receipt's signature": (replace(GOOD, receipt=replace(GOOD.receipt, signature="")), "receipt_signature"),
    "result of another node": (bundle(result={"node_id": "node-2"}), "same_attempt"),
    "result of another task": (bundle(result={"task_id": "task-2"}), "same_attempt"),
    "result of another attempt": (bundle(result={"attempt": 2}), "same_attempt"),
    "result of another fence": (bundle(result={"fence": 2}), "same_attempt"),
    "result of another key": (bundle(result={"idem_key": "other"}), "same_attempt"),
    "receipt of another node": (bundle(receipt={"node_id": "node-2"}), "same_attempt"),
    "receipt of another task": (bundle(receipt={"task_id": "task-2"}), "same_attempt"),
    "receipt of another attempt": (bundle(receipt={"attempt": 2}), "same_attempt"),
    "receipt of another fence": (bundle(receipt={"fence": 2}), "same_attempt"),
    "receipt of another key": (bundle(receipt={"idem_key": "other"}), "same_attempt"),
    "receipt of another result": (bundle(receipt={"result_sha256": "00" * 32}), "result_digest"),
    "stale": (bundle(receipt={"status": wire.ReceiptStatus.STALE}), "accepted"),
    "rejected": (bundle(receipt={"status": wire.ReceiptStatus.REJECTED}), "accepted"),
    "receipt of another output": (bundle(receipt={"output_sha256": "00" * 32}), "output_digest"),
    "output": (replace(GOOD, output="{}"), "output_digest"),
    "output's length": (bundle(result={"output_bytes": 1}), "output_digest"),
    "no commitment": (bundle(result={"commitment": None}), "commitment"),
    "result re-signed by another key": (bundle(node=OTHER), "commitment_key"),
    "commitment without a root": (
        bundle(result={"commitment": replace(commit(header(MADE), MADE), root="")}),
        "commitment_root",
    ),
    "commitment to another offer": (
        bundle(result={"commitment": commit(header(MADE, OTHER_OFFER), MADE)}),
        "header_offer",
    ),
    "commitment to another output": (
        bundle(result={"commitment": commit(header(MADE, output_sha256="00" * 32), MADE)}),
        "header_output",
    ),
    "other token counts": (bundle(result={"usage": Usage(prompt_tokens=9, completion_tokens=4000)}), "header_output"),
    "receipt of another commitment": (bundle(receipt={"commitment_root": "00" * 32}), "root"),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_what_was_tampered_with_fails_its_own_check(what: str):
    spoilt, check = TAMPERED[what]
    assert check_of(spoilt) == check


def test_every_check_is_failed_by_some_tampering():
    caught = {check for _, check in TAMPERED.values()}
    assert {check.name for check in CHECKS} <= caught


def test_checks_passed_before_the_failed_one_are_told():
    verdict = examine(replace(GOOD, output="{}"), verify)
    assert [check.name for check in verdict.passed] == [check.name for check in CHECKS[:7]]
    assert verdict.failed is CHECKS[7]


@given(st.text(max_size=200))
def test_any_payload_ends_in_a_verdict(payload: str):
    assert examine(replace(GOOD, receipt=replace(GOOD.receipt, payload=payload)), verify).error is not None


@given(st.data())
def test_one_changed_character_of_a_signed_payload_never_verifies(data: st.DataObject):
    name = data.draw(st.sampled_from(["offer", "result", "receipt"]))
    signed = getattr(GOOD, name)
    at = data.draw(st.integers(0, len(signed.payload) - 1))
    other = data.draw(st.characters(codec="ascii").filter(lambda character: character != signed.payload[at]))
    payload = signed.payload[:at] + other + signed.payload[at + 1 :]
    assert examine(replace(GOOD, **{name: replace(signed, payload=payload)}), verify).error is not None
