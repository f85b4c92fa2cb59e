"""What a validator shows of its sealed verdict: is it the sealed one, does it answer what was asked, has it bounds?"""

from __future__ import annotations

from collections.abc import Collection

from agent.core.checks.verdict import Verdict
from agent.core.errors import ProofError
from agent.core.model import Commitment
from agent.core.payloads import VerdictBody
from agent.core.proof.leaves import split_leaves
from agent.core.proof.opening import read_opening
from agent.core.proof.sealing import MAX_VERDICT_BYTES, read_verdict
from agent.core.proof.verdict import VERDICT_LEAVES
from agent.devnet.core.proofs.records import Case, Check
from agent.devnet.core.proofs.verdicts import EXACT_CLASS

MAX_REVEALED_BYTES = 2 * MAX_VERDICT_BYTES
"""An opened verdict, with its frame."""
MAX_METRICS_CHARS = 64 << 10
"""Figures of 64 chunks take a quarter of it."""
MAX_REASONS, MAX_REASON_CHARS = 16, 500
DIGEST_CHARS = 64


def read_revealed(content: bytes, check: Check, case: Case, asked: Collection[int]) -> VerdictBody | None:
    """The verdict that a validator had sealed, of the leaves that it was `asked` for; None where it is no answer."""
    if len(content) > MAX_REVEALED_BYTES:
        return None
    commitment = Commitment(header="", root=check.root, leaves=VERDICT_LEAVES)
    try:
        opened = read_opening(content, commitment)
        verdict = read_verdict(split_leaves(opened.transcript or b""))
    except ProofError:
        return None
    if case.evidence is None or verdict.evidence != case.evidence.sha256 or verdict.verdict not in set(Verdict):
        return None
    if not _has_bounds(verdict, case) or not _has_looked(verdict, case, asked):
        return None
    # Only who is of the node's exact class can have repeated it to the bit.
    exact = case.determinism.startswith(EXACT_CLASS) and check.determinism == case.determinism
    return verdict if exact or not verdict.exact else None


def _has_looked(verdict: VerdictBody, case: Case, asked: Collection[int]) -> bool:
    """A canary is passed by whoever likes: that is held against him."""
    if case.canary or verdict.verdict != Verdict.PASS:
        return True
    return set(case.known) & set(asked) <= {it.leaf for it in verdict.recomputed}


def _has_bounds(verdict: VerdictBody, case: Case) -> bool:
    """Whether it is no longer than what a validator has to say: it is kept with its case, in memory too."""
    texts = (*verdict.reasons, verdict.thresholds, verdict.determinism, verdict.salt)
    leaves = {it.leaf for it in verdict.recomputed}
    return (
        len(verdict.metrics) <= MAX_METRICS_CHARS
        and len(verdict.reasons) <= MAX_REASONS
        and all(len(text) <= MAX_REASON_CHARS for text in texts)
        and len(leaves) == len(verdict.recomputed)
        and verdict.imprints in (0, case.imprints)
        and all(leaf < case.leaves for leaf in leaves)
        and all(len(it.sha256) == DIGEST_CHARS for it in verdict.recomputed)
    )
