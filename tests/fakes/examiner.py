"""The coordinator's side of challenges, as a test writes it: a secret, what is promised of it, and what is asked."""

from __future__ import annotations

import hashlib
from typing import Any

from agent.core import wire
from agent.core.model import LeaseKey, Signed
from agent.core.proof.signed import seal
from agent.edges.signing import KeyPair
from tests import builders

SECRET = bytes(range(32))
BEACON = wire.Beacon(source=wire.BeaconSource.EPOCH, round=3, value=SECRET.hex())


def promise(*, rate_micros: int = 1_000_000, leaves: int = 2) -> wire.BeaconPromise:
    """Of SECRET; by default it draws every task."""
    commitment = hashlib.sha256(SECRET).hexdigest()
    return wire.BeaconPromise(
        source=wire.BeaconSource.EPOCH, round=3, commitment=commitment, rate_micros=rate_micros, leaves=leaves
    )


def challenge(key: LeaseKey, **changes: Any) -> wire.Challenge:
    """For all leaves of `key`, within an hour."""
    fields: dict[str, Any] = {
        "challenge_id": f"{key.task_id}/0",
        "key": key,
        "kind": wire.ChallengeKind.DRAWN,
        "answer_s": 3600.0,
        "beacon": BEACON,
    }
    return wire.Challenge(**{**fields, **changes})


def judgement(keys: KeyPair, serial: int, **changes: Any) -> Signed:
    """That an answer passed."""
    fields: dict[str, Any] = {
        "serial": serial,
        "node_id": builders.NODE,
        "subject": wire.Subject.ANSWER,
        "task_id": "task-1",
        "attempt": 1,
        "fence": 1,
        "judgement": wire.Judgement.PASSED,
        "validators": 2,
        "stake_micros": 10_000_000,
        "judged_at": 1_700_000_000 + serial,
    }
    body = wire.JudgementBody(**{**fields, **changes})
    return seal(wire.Role.JUDGEMENT, wire.encode(body), keys.public_key, keys.sign)
