"""Recheck: ask an engine of one's own what a task's transcript claims, and measure how far the two are apart."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import islice
from typing import NamedTuple

from agent.core import engines
from agent.core.checks import claims
from agent.core.checks.claims import Chunk, Position, Sampler
from agent.core.checks.draw import uniforms
from agent.core.checks.ending import Ending, Told, check_ending
from agent.core.checks.forward import check_closeness, check_exactness, check_plausibility
from agent.core.checks.sampling import Sampled, check_sampling
from agent.core.checks.verdict import Metrics, Replayed
from agent.core.model import ChatInput, CompletionInput
from agent.core.proof.header import Header
from agent.core.proof.leaves import Leaf
from agent.ports import Replayer


class Claim(NamedTuple):
    """What was asked of a node, and what it committed to."""

    given: ChatInput | CompletionInput
    header: Header
    leaves: tuple[Leaf, ...]
    delivered: str | None = None
    """The text that the requester got, if it is at hand."""


def without_model(claim: Claim) -> Metrics:
    """S, where the node was told its sampler chain, and the end as far as it can be told without a tokenizer."""
    claimed = claims.positions(claim.leaves)
    return Metrics(_sampled(claim.header, claimed), check_ending(claim.header, claimed, delivered=claim.delivered))


async def with_model(claim: Claim, replayer: Replayer, *, chosen: Collection[int] = (), exact: bool = False) -> Metrics:
    """Everything. `chosen`: the leaves to replay, of those that can be; none means all. `exact`: the replayer is of
    the header's determinism class, so that all is repeated in one go and must be equal, bit by bit.

    Raises EngineError.
    """
    header, found = claim.header, without_model(claim)
    prompt = await replayer.prompt_ids(claim.given)
    if header.prompt_sha256 and engines.prompt_digest(prompt) != header.prompt_sha256:
        return found._replace(prompt=False)
    claimed = claims.positions(claim.leaves)
    found = found._replace(prompt=bool(header.prompt_sha256) or None, ending=await _ending(claim, claimed, replayer))
    if exact and (ids := _known(claimed)):
        own = await replayer.replay(prompt, ids, header.n_probs)
        chunks = [(chunk, own[chunk.start : chunk.start + len(chunk.positions)]) for chunk in _replayable(claim.leaves)]
        equal = await replayer.in_one_go(ids)
        found = found._replace(exact=check_exactness(claimed[:equal], own[:equal]))
    else:
        chunks = [
            (chunk, await _replay(chunk, prompt, claimed, replayer, header.n_probs))
            for chunk in _replayable(claim.leaves)
            if not chosen or chunk.leaf in chosen
        ]
    return found._replace(chunks=tuple(_replayed(chunk, own, header) for chunk, own in chunks))


def replayable(claim: Claim) -> tuple[int, ...]:
    """Indices of the leaves that can be replayed: those with no withheld token before them."""
    return tuple(chunk.leaf for chunk in _replayable(claim.leaves))


def _replayable(leaves: Sequence[Leaf]) -> list[Chunk]:
    withheld = next((at for at, one in enumerate(claims.positions(leaves)) if one.token is None), None)
    chunks = claims.chunks(leaves)
    return [chunk for chunk in chunks if withheld is None or chunk.start + len(chunk.positions) <= withheld]


def _sampled(header: Header, claimed: Sequence[Position]) -> Sampled | None:
    sampler = _sampler(header)
    return None if sampler is None else check_sampling(claimed, sampler, header.n_probs)


def _sampler(header: Header) -> Sampler | None:
    """None where the engine draws in a way of its own. The likeliest token is the same everywhere."""
    sampler = claims.sampler(header)
    return sampler if header.samplers == engines.SAMPLERS or sampler.greedy else None


async def _replay(
    chunk: Chunk, prompt: Sequence[int], claimed: Sequence[Position], replayer: Replayer, top: int
) -> tuple[Position, ...]:
    prefix = [*prompt, *_known(claimed[: chunk.start])]
    return await replayer.replay(prefix, _known(chunk.positions), top)


def _replayed(chunk: Chunk, own: Sequence[Position], header: Header) -> Replayed:
    numbers = list(islice(uniforms(header.seed), chunk.start, chunk.start + len(chunk.positions)))
    plausible = check_plausibility(chunk.positions, own, _sampler(header), numbers)
    return Replayed(chunk.leaf, check_closeness(chunk.positions, own), plausible)


async def _ending(claim: Claim, claimed: Sequence[Position], replayer: Replayer) -> Ending:
    if not claimed or claimed[-1].token is None:
        return check_ending(claim.header, claimed, delivered=claim.delivered)
    last_ends = await replayer.ends(claimed[-1].token)
    ids = _known(claimed[:-1] if last_ends else claimed)
    # A withheld token, or one cut off in the middle of a character, leaves a text that cannot be compared.
    whole = len(ids) + last_ends == claim.header.completion_tokens
    told = Told(last_ends, await replayer.text(ids) if whole else None)
    return check_ending(claim.header, claimed, delivered=claim.delivered, told=told)


def _known(claimed: Sequence[Position]) -> tuple[int, ...]:
    """The ids, or nothing when one of them is not known."""
    ids = tuple(position.token for position in claimed if position.token is not None)
    return ids if len(ids) == len(claimed) else ()
