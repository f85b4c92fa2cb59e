"""Recheck: ask an engine of one's own what a task's transcript claims, and measure how far the two are apart."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from itertools import islice, takewhile
from typing import NamedTuple

from agent.core import engines
from agent.core.checks import claims
from agent.core.checks.claim import Claim, answered, overcounted, sampler_of, without_model
from agent.core.checks.claims import Chunk, Position
from agent.core.checks.draw import uniforms
from agent.core.checks.ending import Ending, Hidden, Told, check_ending, hidden
from agent.core.checks.forward import (
    Exactness,
    check_closeness,
    check_exactness,
    check_plausibility,
    figures_sha256,
)
from agent.core.checks.imprints import Imprinted, check_imprints, imprinted_ids
from agent.core.checks.rows import Row, Rows, check_rows, rows_of
from agent.core.checks.verdict import Metrics, Replayed
from agent.core.errors import EngineError
from agent.core.model import EmbeddingInput
from agent.core.proof.header import Header
from agent.core.proof.leaves import Leaf
from agent.ports import Replayer
from agent.stages.refill import refilled

_BROKEN = "\ufffd"
_PENDING = 3
"""Characters at a text's end that may hide it: a first byte of four, and two that do not belong behind it."""

__all__ = ["Claim", "with_model", "without_model"]


async def with_model(
    claim: Claim, replayer: Replayer, *, chosen: Collection[int] = (), exact: bool = False, apart: bool = False
) -> Metrics:
    """Everything. `chosen`: the leaves to replay; none means all that can be. `exact`: the replayer is of
    the header's determinism class, so that all is repeated in one go and must be equal, bit by bit. `apart`: each leaf
    by itself even where all are wanted, as a verifier does who sees but some of them.

    Raises EngineError.
    """
    header, found = claim.header, without_model(claim)
    if isinstance(claim.given, EmbeddingInput):
        own = await replayer.rows(claim.given.texts)
        rows = _rows(claim, own.rows, () if exact else chosen)
        more = overcounted(header, own.prompt_tokens, len(claim.given.texts))
        return found._replace(rows=rows, same_class=exact, overcounted=more)
    prompt = await replayer.prompt_ids(claim.given)
    if header.prompt_sha256 and not is_prompt(header, prompt):
        return found._replace(prompt=False)
    found = found._replace(prompt=bool(header.prompt_sha256) or None, overcounted=overcounted(header, len(prompt)))
    try:
        found = await _repeated(claim, found, prompt, replayer, chosen, exact=exact, apart=apart)
        return found._replace(imprints=await _imprinted(claim, found, prompt, replayer))
    except EngineError:
        if await _has(replayer, prompt, claims.positions(claim.leaves)):
            raise
        return found._replace(vocabulary=False)


async def _repeated(
    claim: Claim,
    found: Metrics,
    prompt: tuple[int, ...],
    replayer: Replayer,
    chosen: Collection[int],
    *,
    exact: bool,
    apart: bool,
) -> Metrics:
    header, shown = claim.header, claims.positions(claim.leaves)
    behind = (Position(None),) * hidden(header, len(shown))
    claimed = (*shown, *behind)
    if not (found.ending and found.ending.faults):  # drawing again costs a request a token: not for one who lies anyway
        claimed = await _filled(header, claimed, prompt, replayer)
    known = next((at for at, one in enumerate(claimed) if one.token is None), len(claimed))
    chunks = [chunk for chunk in claims.chunks(claim.leaves) if chunk.start < known]
    wanted = [chunk for chunk in chunks if exact or not chosen or chunk.leaf in chosen]
    replay = _Replay(header, prompt, claimed[: min(known, len(shown))], replayer)
    # All at once costs as much as the generation did; each chunk by itself also reads all that is before it.
    at_once = len(wanted) == len(chunks) and not apart
    figures = await (replay.at_once(wanted) if at_once else replay.one_by_one(wanted))
    return found._replace(
        ending=await _unpretended(answered(claim, await _ending(claim, claimed, replayer)), shown, claimed, replayer),
        unknown=len(claimed) - known,
        chunks=tuple(_replayed(chunk, own, header) for chunk, own in zip(wanted, figures, strict=True)),
        exact=await replay.exactness(figures) if exact else None,
    )


async def _imprinted(claim: Claim, found: Metrics, prompt: Sequence[int], replayer: Replayer) -> Imprinted | None:
    """All of them behind one prefill, also those of leaves that are not shown."""
    read = found.imprints
    if read is None or read.faults:
        return read
    own = await replayer.peaks(prompt, imprinted_ids(claim.leaves))
    return read if own is None else check_imprints(claim.leaves, own)


class _Replay(NamedTuple):
    """The known tokens of one task, to be said again."""

    header: Header
    prompt: tuple[int, ...]
    claimed: Sequence[Position]
    replayer: Replayer

    async def at_once(self, chunks: Sequence[Chunk]) -> list[tuple[Position, ...]]:
        """Figures of each of `chunks`, computed as the node computed them: token by token from the prompt."""
        own = await self.replayer.replay(self.prompt, _known(self.claimed), self.header.n_probs)
        return [own[chunk.start : chunk.start + len(chunk.positions)] for chunk in chunks]

    async def one_by_one(self, chunks: Sequence[Chunk]) -> list[tuple[Position, ...]]:
        """Figures of each of `chunks`, after all that is before it was read in one go."""
        return [await self._chunk(chunk) for chunk in chunks]

    async def _chunk(self, chunk: Chunk) -> tuple[Position, ...]:
        prefix = [*self.prompt, *_known(self.claimed[: chunk.start])]
        return await self.replayer.replay(prefix, _known(chunk.positions), self.header.n_probs)

    async def exactness(self, own: Sequence[Sequence[Position]]) -> Exactness:
        """Of figures that were made `at_once`. Behind a token that cannot be forced they are close, but not equal."""
        equal = await self.replayer.in_one_go(_known(self.claimed))
        shown = [one for one in self.claimed[:equal] if one.ids]
        return check_exactness(shown, [one for figures in own for one in figures][: len(shown)])


def is_prompt(header: Header, prompt: tuple[int, ...]) -> bool:
    """Whether these are the tokens that the header counts and names."""
    return (len(prompt), engines.prompt_digest(prompt)) == (header.prompt_tokens, header.prompt_sha256)


async def _has(replayer: Replayer, prompt: tuple[int, ...], claimed: Sequence[Position]) -> bool:
    """Whether the model has all tokens that are claimed. An engine refuses others: were that its failure, they would
    keep everybody from a verdict. One that works before and after, and refuses, says so. Raises EngineError.
    """
    highest, one = max((position.token or 0 for position in claimed), default=0), prompt[:1]
    await replayer.replay(one, one, 1)
    with contextlib.suppress(EngineError):
        await replayer.replay(one, [highest], 1)
        return True
    await replayer.replay(one, one, 1)
    return False


def _rows(claim: Claim, own: Sequence[Row], chosen: Collection[int]) -> Rows:
    """Those that are shown, and chosen."""
    wanted = [leaf for leaf in claim.leaves if isinstance(leaf, Leaf) and (not chosen or leaf.index in chosen)]
    return check_rows(rows_of(wanted), [own[leaf.index] for leaf in wanted if leaf.index < len(own)])


async def _filled(
    header: Header, claimed: tuple[Position, ...], prompt: Sequence[int], replayer: Replayer
) -> tuple[Position, ...]:
    sampler = sampler_of(header)
    if sampler is None or all(one.token is not None for one in claimed):
        return claimed
    return await refilled(claimed, prompt, replayer, sampler, header.n_probs)


def _replayed(chunk: Chunk, own: Sequence[Position], header: Header) -> Replayed:
    numbers = list(islice(uniforms(header.seed), chunk.start, chunk.start + len(chunk.positions)))
    plausible = check_plausibility(chunk.positions, own, sampler_of(header), numbers)
    return Replayed(chunk.leaf, check_closeness(chunk.positions, own), plausible, figures_sha256(own))


async def _ending(claim: Claim, claimed: Sequence[Position], replayer: Replayer) -> Ending:
    """`claimed`: what is shown, filled in, and what an engine counted behind it."""
    shown = claims.positions(claim.leaves)
    last = claimed[-1].token if claimed else None
    ends = None if last is None else await replayer.ends(last)
    said = claimed[:-1] if ends else claimed
    before, behind = said[: len(shown)], said[len(shown) :]
    # Where one token is not known the text cannot be compared.
    text = await replayer.text(_known(before)) if all(one.token is not None for one in before) else None
    told = Told(ends, text, await _hidden(behind, replayer) if len(claimed) > len(shown) else None)
    told = told._replace(went_on=await _went_on([*takewhile(_is_known, claimed[:-1])], replayer))
    if claim.header.stop and text not in (None, claim.delivered):
        fewer = range(1, min(len(before), max(map(len, claim.header.stop))) + 1)
        told = told._replace(shorter=tuple([await replayer.text(_known(before[:-count])) for count in fewer]))
    return check_ending(claim.header, shown, delivered=claim.delivered, told=told)


def _is_known(position: Position) -> bool:
    return position.token is not None


async def _went_on(before: Sequence[Position], replayer: Replayer) -> bool:
    """Whether one of these tokens ends the text: no grammar can force such a token, and it is no part of a character,
    which none can force either.
    """
    ids, at, asked = _known(before), 0, set[int]()
    while at < len(ids) and (run := await replayer.in_one_go(ids[at:])):
        at, token = at + run, ids[at + run - 1]
        if token not in asked and _BROKEN not in await replayer.text([token]) and await replayer.ends(token):
            return True
        asked.add(token)
    return False


async def _unpretended(
    ending: Ending, shown: Sequence[Position], claimed: Sequence[Position], replayer: Replayer
) -> Ending:
    """A doubt where tokens are said to be withheld, and the first of them that the model says is whole: an engine would
    have shown it.
    """
    begins = [at for at, one in enumerate(shown) if one.token is None and (not at or shown[at - 1].token is not None)]
    drawn = [token for at in begins if (token := claimed[at].token) is not None]
    whole = sum([_BROKEN not in await replayer.text([token]) for token in drawn])
    words = f"tokens are said to be withheld in {whole} places where the model says what any engine shows"
    return ending._replace(doubts=(*ending.doubts, words)) if whole else ending


async def _hidden(behind: Sequence[Position], replayer: Replayer) -> Hidden | None:
    """An engine that streams shows nothing while the text's last bytes are none, or not all, of a character."""
    known = _known([*takewhile(lambda one: one.token is not None, behind)])
    if behind and not known:
        return None
    texts = [await replayer.text(known[:count]) for count in range(1, len(known) + 1)]
    return Hidden(all(_BROKEN in text[-_PENDING:] for text in texts), len(known) == len(behind))


def _known(claimed: Sequence[Position]) -> tuple[int, ...]:
    """The ids, or nothing when one of them is not known."""
    ids = tuple(position.token for position in claimed if position.token is not None)
    return ids if len(ids) == len(claimed) else ()
