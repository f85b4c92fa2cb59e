"""What a validator is given to check: a receipt bundle with opened leaves, read without ever failing."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import msgspec

from agent.core.checks.claim import Claim, claim_with
from agent.core.errors import ProofError
from agent.core.proof.receipt import Case, examine
from agent.core.proof.signed import Verify
from agent.core.wire import ReceiptBundle

_BUNDLE = msgspec.json.Decoder(ReceiptBundle)


class Evidence(NamedTuple):
    """Either a case whose receipt holds, or why there is none: that is a verdict, too."""

    sha256: str
    case: Case | None = None
    fault: str = ""
    """Named by the check that failed, in plain words."""


def read_evidence(raw: bytes, verify: Verify, coordinator_key: str) -> Evidence:
    """Parse a bundle and check its receipt. The leaves are left to `opened_claim`. Decodes up to 64 MiB: a second."""
    sha256 = hashlib.sha256(raw).hexdigest()
    try:
        bundle = _BUNDLE.decode(raw)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        return Evidence(sha256, fault=f"format: it is no receipt bundle: {error}")
    found = examine(bundle, verify, coordinator_key=coordinator_key, opening=False)
    if found.error is not None or found.case is None:
        why = found.error or ProofError("format", "it cannot be read")
        return Evidence(sha256, fault=f"{why.check}: {why.message}")
    if found.case.result.commitment is None:
        return Evidence(sha256, fault="commitment: the attempt did not succeed, so it claims nothing")
    return Evidence(sha256, found.case)


def opened_claim(case: Case) -> Claim | None:
    """What the opened leaves claim; None where nothing was generated. Raises ProofError."""
    if case.opened is None:
        raise ProofError("opening", "nothing is opened")
    return claim_with(case, case.opened.leaves)
