"""What can be said of opened leaves without a model: are they the committed ones, and does the seed draw their tokens?

Pure, but slow: 20 ms for 1,024 tokens. It is called from a thread.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from agent.core.checks.claim import claim_with, without_model
from agent.core.checks.claims import chunks, positions
from agent.core.checks.forward import figures_sha256
from agent.core.checks.imprints import committed
from agent.core.checks.verdict import Thresholds, Verdict, judge
from agent.core.engines import TokenIds, profile_of
from agent.core.errors import ProofError
from agent.core.model import TaskKind, Value
from agent.core.payloads import ReceiptBundle, RecomputedLeaf
from agent.core.proof.header import Header
from agent.core.proof.leaves import Leaf
from agent.core.proof.opening import AnyLeaf, OpenedTranscript
from agent.core.proof.receipt import Case, read_case
from agent.core.proof.signed import Verify

FEWEST_TOKENS = 16
UNVERIFIABLE = "U"
"""The class of engines that cannot be asked for the same again."""


class Found(Value):
    """What a look at an opening showed."""

    fault: str = ""
    """Why these are not the leaves that were asked for; empty when they are."""
    verdict: Verdict = Verdict.PASS
    """By the draws and the end alone."""
    reasons: tuple[str, ...] = ()
    repeatable: bool = False
    """Whether another node could repeat it on the model."""
    figures: tuple[RecomputedLeaf, ...] = ()
    """Digests of what it claims of each leaf of tokens."""
    known: tuple[int, ...] = ()
    """Leaves of tokens before which every token is told: whoever repeats the claim has figures of them."""
    determinism: str = ""
    """The class that it promised."""
    imprints: int = 0
    """How many it committed to."""

    def said(self) -> str:
        """The reasons, in one line."""
        return "; ".join(self.reasons)


def look(bundle: ReceiptBundle, verify: Verify, asked: tuple[int, ...] = ()) -> Found:
    """Examine the opening of an accepted result, whose output is in `bundle` if it is text. `asked`: the leaves that
    were to be shown; none means all.
    """
    case = read_case(bundle, verify)
    if bundle.output is None:
        return Found(verdict=Verdict.FAIL, reasons=("what was delivered is no text",))
    try:
        opened = case.opened
    except ProofError as error:
        return Found(fault=error.message)
    if opened is None:
        return Found(fault="nothing is shown")
    lacking = len(set(asked) - set(opened.opened)) if asked else int(not opened.whole)
    if lacking:
        return Found(fault="not all leaves that were asked for are shown")
    found = _drawn(case, opened)
    return msgspec.structs.replace(
        found,
        figures=figures_of(opened.leaves),
        known=_known(opened.leaves),
        determinism=getattr(case.header, "determinism", ""),
        imprints=len(committed(opened.leaves)),
    )


def figures_of(leaves: Sequence[AnyLeaf]) -> tuple[RecomputedLeaf, ...]:
    """Digests of what is claimed of each leaf that is long enough for no two computations to come to the same bits."""
    return tuple(
        RecomputedLeaf(leaf=chunk.leaf, sha256=figures_sha256(chunk.positions))
        for chunk in chunks(leaves)
        if len(chunk.positions) >= FEWEST_TOKENS
    )


def _known(leaves: Sequence[AnyLeaf]) -> tuple[int, ...]:
    tokens = positions(leaves)
    first = next((at for at, one in enumerate(tokens) if one.token is None), len(tokens))
    return tuple(chunk.leaf for chunk in chunks(leaves) if chunk.start < first)


def repeatable(header: object) -> bool:
    """Whether the engine promised that its work can be repeated, and is one that anybody could repeat: what a node says
    of an engine that nobody knows, or that shows no tokens, is no promise, else whoever makes up a name would be paid
    for what nobody can check.
    """
    if not isinstance(header, Header) or header.determinism == UNVERIFIABLE:
        return False
    profile = profile_of(header.engine)
    shows = header.task_kind is TaskKind.EMBEDDING or (profile and profile.token_ids is not TokenIds.NONE)
    return profile is not None and bool(shows)


def _drawn(case: Case, opened: OpenedTranscript) -> Found:
    """S and the end, where all is shown. Who promised nothing cannot be held to candidates that he has not."""
    claim, can_repeat = claim_with(case, opened.leaves), repeatable(case.header)
    if claim is None:
        return Found(repeatable=can_repeat)
    if not opened.whole:
        return _partly(claim.header, opened, repeatable=can_repeat)
    found = without_model(claim)
    if not can_repeat:
        found = found._replace(candidates=None)
    judged = judge(found, Thresholds())
    return Found(verdict=judged.verdict, reasons=judged.reasons, repeatable=can_repeat)


def _partly(header: Header, opened: OpenedTranscript, *, repeatable: bool) -> Found:
    """Draws cannot be replayed. But who claims more candidates than fit into an opening must have them."""
    shown = [leaf for leaf in opened.leaves if isinstance(leaf, Leaf)]
    if any(len(listed) < header.n_probs for leaf in shown for listed in leaf.candidates):
        return Found(verdict=Verdict.FAIL, reasons=("tokens lack the candidates that were promised",))
    return Found(repeatable=repeatable)


def evidence_of(bundle: ReceiptBundle) -> bytes:
    """What a validator reads."""
    return msgspec.json.encode(bundle)
