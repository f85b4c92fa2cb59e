"""A node's whole claim about one generation, and what can be said of it without a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from agent.core import engines
from agent.core.checks import claims
from agent.core.checks.claims import Position, Sampler
from agent.core.checks.ending import Ending, check_ending
from agent.core.checks.imprints import read_imprints
from agent.core.checks.rows import check_rows, rows_of
from agent.core.checks.sampling import Sampled, check_sampling
from agent.core.checks.verdict import Metrics
from agent.core.model import ChatInput, CompletionInput, EmbeddingInput
from agent.core.proof.header import Header
from agent.core.proof.leaves import Leaf
from agent.core.proof.opening import AnyLeaf
from agent.core.proof.receipt import Case

COUNT_MARGIN, COUNT_SHARE = 16, 8
"""Prompt tokens that a count may be off by: so many, or one of so many."""
MARKS = 2
"""Likewise, of each text: its beginning and its end."""


class Claim(NamedTuple):
    """What was asked of a node, and what it committed to."""

    given: ChatInput | CompletionInput | EmbeddingInput
    header: Header
    leaves: tuple[AnyLeaf, ...]
    delivered: str | None = None
    """The text that the requester got, if it is at hand."""
    vectors: tuple[tuple[float, ...], ...] | None = None
    """Likewise the embeddings."""
    unread: bool = False
    """What was delivered is at hand, and is no answer to what was asked."""


class _Output(msgspec.Struct):
    text: str | None = None
    vectors: tuple[tuple[float, ...], ...] | None = None


def claim_with(case: Case, leaves: Sequence[AnyLeaf]) -> Claim | None:
    """What a node claims to have generated, by a verified receipt and leaves; None where nothing was generated."""
    given, header = case.offer.task.input, case.header
    if not isinstance(header, Header) or not isinstance(given, ChatInput | CompletionInput | EmbeddingInput):
        return None
    output = _output(case.bundle.output)
    answer = output.vectors if isinstance(given, EmbeddingInput) else output.text
    unread = case.bundle.output is not None and answer is None
    return Claim(given, header, tuple(leaves), output.text, output.vectors, unread)


def _output(output: str | None) -> _Output:
    try:
        return msgspec.json.decode(output or "{}", type=_Output)
    except (msgspec.DecodeError, RecursionError):
        return _Output()


def without_model(claim: Claim) -> Metrics:
    """S, where the node was told its sampler chain, and the end as far as it can be told without a tokenizer."""
    if isinstance(claim.given, EmbeddingInput):
        return Metrics(ending=answered(claim, _delivered_rows(claim)))
    claimed = claims.positions(claim.leaves)
    return Metrics(
        sampled=_sampled(claim.header, claimed),
        ending=answered(claim, check_ending(claim.header, claimed, delivered=claim.delivered)),
        candidates=claim.header.n_probs if claimed else None,
        imprints=read_imprints(claim.leaves),
    )


def answered(claim: Claim, ending: Ending) -> Ending:
    """`ending`, and a fault where the requester got something that cannot be held against the leaves at all."""
    if not claim.unread:
        return ending
    return ending._replace(faults=(*ending.faults, "what was delivered is no answer: nothing in it can be compared"))


def overcounted(header: Header, own: int, texts: int = 1) -> int:
    """Prompt tokens beyond one's `own` count of those of so many texts; 0 counts nothing. Who commits to the tokens is
    held to these; where they are not known, another version may set its own marks around each text.
    """
    if header.prompt_sha256 or not own:
        return 0
    margin = max(COUNT_MARGIN, own // COUNT_SHARE, MARKS * texts)
    return max(header.prompt_tokens - own - margin, 0)


def sampler_of(header: Header) -> Sampler | None:
    """None where the engine draws in a way of its own. The likeliest token is the same everywhere."""
    sampler = claims.sampler(header)
    return sampler if header.samplers == engines.SAMPLERS or sampler.greedy else None


def _sampled(header: Header, claimed: Sequence[Position]) -> Sampled | None:
    sampler = sampler_of(header)
    return None if sampler is None else check_sampling(claimed, sampler, header.n_probs)


def _delivered_rows(claim: Claim) -> Ending:
    """Whether the rows that were delivered are those of the leaves, as far as these are shown."""
    if claim.vectors is None:
        return Ending(decided=False)
    *leaves, _ = claim.leaves
    shown = [leaf for leaf in leaves if isinstance(leaf, Leaf)]
    delivered = claim.vectors
    if len(shown) < len(leaves) == len(delivered):
        delivered = tuple(delivered[leaf.index] for leaf in shown)
    found = check_rows(delivered, rows_of(shown))
    faults = () if found.equal == found.compared else ("the delivered rows are not those of the transcript",)
    return Ending(faults, decided=len(shown) == len(leaves))
