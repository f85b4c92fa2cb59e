"""A beacon counts only as the promised one: its own round, of its own source, with the value that was fixed before."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import ProofError
from agent.core.payloads import Beacon, BeaconPromise, BeaconSource
from agent.core.proof.beacon import kept, known_at
from agent.core.proof.drand import CHAINS, DEFAULT, QUICKNET, Chain
from agent.edges.drand import load_bls

ROUNDS = json.loads((Path(__file__).parents[2] / "golden" / "drand" / "rounds.json").read_text())
CHAINED = [case for case in ROUNDS if case["chain"] == DEFAULT.hash]
BLS = load_bls()
SECRET = hashlib.sha256(b"of the epoch").hexdigest()
EPOCH = BeaconPromise(
    source=BeaconSource.EPOCH,
    round=7,
    commitment=hashlib.sha256(bytes.fromhex(SECRET)).hexdigest(),
    rate_micros=50_000,
    leaves=8,
)
TOLD = Beacon(source=BeaconSource.EPOCH, round=7, value=SECRET)


def recorded(case: dict) -> tuple[BeaconPromise, Beacon]:
    value = hashlib.sha256(bytes.fromhex(case["signature"])).hexdigest()
    promise = msgspec.structs.replace(EPOCH, source=BeaconSource.DRAND, round=case["round"], commitment=case["chain"])
    return promise, Beacon(
        source=BeaconSource.DRAND,
        round=case["round"],
        value=value,
        signature=case["signature"],
        previous=case.get("previous_signature", ""),
    )


def refused(promise: BeaconPromise, beacon: Beacon, **changes: object) -> str:
    with pytest.raises(ProofError) as caught:
        kept(promise, msgspec.structs.replace(beacon, **changes), BLS)
    assert caught.value.check == "beacon"
    return caught.value.message


def test_the_secret_whose_digest_was_promised_is_the_beacon() -> None:
    kept(EPOCH, TOLD)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"round": 8}, "round 7 of epoch was promised"),
        ({"source": BeaconSource.DRAND}, "round 7 of epoch was promised"),
        ({"value": hashlib.sha256(b"another").hexdigest()}, "not the secret"),
        ({"value": SECRET.upper()}, "lower-case hex"),
        ({"value": " " + SECRET[:63]}, "lower-case hex"),
        ({"value": SECRET + "00"}, "32 bytes"),
        ({"value": ""}, "32 bytes"),
    ],
)
def test_no_other_secret_or_spelling_is(changes: dict, why: str) -> None:
    assert why in refused(EPOCH, TOLD, **changes)


@pytest.mark.parametrize("case", ROUNDS, ids=lambda case: f"{CHAINS[case['chain']].name}-{case['round']}")
def test_rounds_that_drand_made_are_genuine(case: dict) -> None:
    promise, beacon = recorded(case)
    assert beacon.value == case.get("randomness", beacon.value)
    kept(promise, beacon, BLS)


@pytest.mark.parametrize("case", ROUNDS, ids=lambda case: f"{CHAINS[case['chain']].name}-{case['round']}")
def test_a_signature_of_another_round_is_refused(case: dict) -> None:
    promise, beacon = recorded(case)
    later = msgspec.structs.replace(promise, round=promise.round + 1)
    assert "did not sign this as round" in refused(later, beacon, round=promise.round + 1)


def test_a_round_of_another_chain_is_refused() -> None:
    promise, beacon = recorded(ROUNDS[0])
    elsewhere = msgspec.structs.replace(promise, commitment=DEFAULT.hash)
    assert "signature" in refused(elsewhere, beacon)
    assert "did not sign" in refused(elsewhere, beacon, previous=CHAINED[0]["previous_signature"])
    unknown = msgspec.structs.replace(promise, commitment="ab" * 32)
    assert "no chain of drand that is known here: quicknet" in refused(unknown, beacon)


def test_signatures_of_ones_own_making_are_refused() -> None:
    promise, beacon = recorded(ROUNDS[0])
    other = ROUNDS[1]["signature"]
    digest = hashlib.sha256(bytes.fromhex(other)).hexdigest()
    assert "did not sign" in refused(promise, beacon, signature=other, value=digest)
    assert "not the digest of the signature" in refused(promise, beacon, value=SECRET)
    # The neutral point, which would verify under a key that is one too; no point at all; a point out of the subgroup.
    for made in ("c0" + "00" * 47, "ff" * 48, "80" + "00" * 46 + "04", "00" * 48):
        value = hashlib.sha256(bytes.fromhex(made)).hexdigest()
        assert "did not sign" in refused(promise, beacon, signature=made, value=value)
    for misspelt in ("", "00", beacon.signature.upper(), beacon.signature + "0"):
        assert "48 or 96 bytes" in refused(promise, beacon, signature=misspelt)


def test_a_chained_round_needs_the_signature_before_it() -> None:
    promise, beacon = recorded(CHAINED[0])
    assert "48 or 96 bytes" in refused(promise, beacon, previous="")
    assert "did not sign" in refused(promise, beacon, previous=CHAINED[1]["previous_signature"])


def test_without_the_library_no_round_of_drand_holds() -> None:
    promise, beacon = recorded(ROUNDS[0])
    with pytest.raises(ProofError, match=r"gpu-agent\[drand\]"):
        kept(promise, beacon)


@pytest.mark.parametrize("chain", CHAINS.values(), ids=lambda chain: chain.name)
def test_a_chains_hash_covers_all_that_is_known_of_it(chain: Chain) -> None:
    """As drand's common/chain/info.go makes it; the name is left out of the default chain's."""
    fixed = chain.period_s.to_bytes(4, "big") + chain.genesis_at.to_bytes(8, "big")
    fixed += bytes.fromhex(chain.public_key) + bytes.fromhex(chain.genesis_seed)
    name = b"" if chain is DEFAULT else chain.name.encode()
    assert hashlib.sha256(fixed + name).hexdigest() == chain.hash


def test_rounds_come_when_drand_says() -> None:
    """Round 27,946,612 of quicknet is that of 2026-04-20, midnight UTC: the README of the Ruby client says so."""
    assert datetime.fromtimestamp(QUICKNET.time_of(27_946_612), UTC) == datetime(2026, 4, 20, tzinfo=UTC)


@given(chain=st.sampled_from([QUICKNET, DEFAULT]), received_at=st.integers(0, 1 << 33))
def test_the_promised_round_is_the_first_that_is_two_periods_away(chain: Chain, received_at: int) -> None:
    number = chain.round_to_promise(received_at)
    assert chain.time_of(number) >= received_at + 2 * chain.period_s
    assert number == 1 or chain.time_of(number - 1) < received_at + 2 * chain.period_s


@given(chain=st.sampled_from([QUICKNET, DEFAULT]), received_at=st.integers(0, 1 << 33), later=st.integers(0, 1000))
def test_a_promised_round_is_known_from_its_time_on(chain: Chain, received_at: int, later: int) -> None:
    number = chain.round_to_promise(received_at)
    promise = BeaconPromise(source=BeaconSource.DRAND, round=number, commitment=chain.hash, rate_micros=1, leaves=1)
    assert not known_at(promise, received_at)
    assert not known_at(promise, chain.time_of(number) - 0.001)
    assert known_at(promise, chain.time_of(number) + later)
    assert not known_at(msgspec.structs.replace(promise, source=BeaconSource.EPOCH), 1 << 40)
    assert not known_at(msgspec.structs.replace(promise, commitment="5a" * 32), 1 << 40)


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_what_is_no_signature_verifies_nowhere(key: bytes, signature: bytes) -> None:
    assert BLS is not None
    assert not BLS(QUICKNET.suite, key, b"message", signature)
