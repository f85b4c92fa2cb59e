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
from agent.core.model import ChatInput, CompletionInput, EmbeddingInput, FinishReason, TaskKind, Usage
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
    misdelivered: str = ""
    """What is wrong with what was delivered, whatever the leaves say; empty where nothing is, or it is not at hand."""


class _Output(msgspec.Struct):
    text: str | None = None
    vectors: tuple[tuple[float, ...], ...] | None = None
    finish_reason: FinishReason | None = None
    usage: Usage | None = None


def claim_with(case: Case, leaves: Sequence[AnyLeaf]) -> Claim | None:
    """What a node claims to have generated, by a verified receipt and leaves; None where nothing was generated."""
    given, header = case.offer.task.input, case.header
    if not isinstance(header, Header) or not isinstance(given, ChatInput | CompletionInput | EmbeddingInput):
        return None
    output = _output(case.bundle.output)
    answer = output.vectors if isinstance(given, EmbeddingInput) else output.text
    wrong = "" if case.bundle.output is None else _misdelivered(header, output, answered=answer is not None)
    return Claim(given, header, tuple(leaves), output.text, output.vectors, wrong)


def _misdelivered(header: Header, output: _Output, *, answered: bool) -> str:
    if not answered:
        return "what was delivered is no answer: nothing in it can be compared"
    if output.finish_reason not in (None, header.finish):
        return f"the requester was told that it ended by {output.finish_reason}, which is not what was committed to"
    counted = Usage(prompt_tokens=header.prompt_tokens, completion_tokens=header.completion_tokens)
    if output.usage not in (None, counted):
        return "the requester was told other token counts than those that were committed to"
    return ""


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
    """`ending`, and a fault where the requester got something that contradicts the commitment by itself."""
    if not claim.misdelivered:
        return ending
    return ending._replace(faults=(*ending.faults, claim.misdelivered))


def overcounted(header: Header, own: int, texts: int = 1) -> int:
    """Prompt tokens beyond one's `own` count of those of so many texts; 0 counts nothing. Who commits to the tokens is
    held to these; where they are not known, another version may set its own marks around each text. Of texts to embed
    nobody looks at the tokens, whatever their digest is said to be.
    """
    if not own or (header.prompt_sha256 and header.task_kind is not TaskKind.EMBEDDING):
        return 0
    margin = max(COUNT_MARGIN, own // COUNT_SHARE, MARKS * texts)
    return max(header.prompt_tokens - own - margin, 0)


def sampler_of(header: Header) -> Sampler | None:
    """None where the engine draws in a way of its own. The likeliest token is the same everywhere."""
    sampler = claims.sampler(header)
    return sampler if header.samplers == engines.SAMPLERS or sampler.greedy else None


def _sampled(header: Header, claimed: Sequence[Position]) -> Sampled | None:
    """None where draws cannot be replayed. The candidates that were promised must be there all the same."""
    found = check_sampling(claimed, claims.sampler(header), header.n_probs)
    if sampler_of(header) is not None:
        return found
    return Sampled(0, malformed=found.malformed) if found.malformed else None


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
