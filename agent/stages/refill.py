"""Refill: find out which tokens an engine withheld, by drawing them again from one's own candidates.

An engine that streams text holds back tokens that end inside a character. They have no candidates to compare, but what
follows cannot be repeated without them. Only what is certain is filled in: a wrong token would accuse an honest node.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from agent.core.checks.claims import Position, Sampler
from agent.core.checks.draw import uniforms
from agent.core.checks.reach import certain_draw, possible_draws
from agent.ports import Replayer

MOST = 256
"""Withheld tokens that are asked for, a request each."""
_BROKEN = "\ufffd"


async def refilled(
    claimed: Sequence[Position], prompt: Sequence[int], replayer: Replayer, sampler: Sampler, top: int
) -> tuple[Position, ...]:
    """`claimed` with the tokens that were withheld, up to the first of which one cannot be sure. Raises EngineError."""
    numbers = list(islice(uniforms(sampler.seed), len(claimed)))
    found: list[Position] = list(claimed)
    asked, run, only = 0, 0, True
    for at, position in enumerate(claimed):
        if position.token is not None:
            if run and not only and not await _make_characters(found[at - run : at + 1], replayer):
                return (*found[: at - run], *claimed[at - run :])
            run, only = 0, True
            continue
        if asked == MOST:
            break
        asked, run = asked + 1, run + 1
        before = [*prompt, *(one.token for one in found[:at] if one.token is not None)]
        [own] = await replayer.replay(before, before[-1:], top)
        token, alone = await _drawn_again(own, sampler, numbers[at], replayer, first=run == 1)
        if token is None:
            sure = at if only else at - run + 1
            return (*found[:sure], *claimed[sure:])
        found[at], only = Position(token), only and alone
    return tuple(found)


async def _drawn_again(
    own: Position, sampler: Sampler, number: float, replayer: Replayer, *, first: bool
) -> tuple[int | None, bool]:
    """The token that was withheld, None when it may be one of several; and whether it can be no other.

    The first one that an engine withholds leaves a character unfinished. Where none of those could have been drawn,
    nothing was withheld by an engine: then the nearest draw stands, so that nobody hides behind such a place what he
    did not compute. Behind the first any token may be withheld: a letter, too, that comes instead of a missing byte.
    """
    possible = possible_draws(own, sampler, number)
    parts = [token for token in possible if _BROKEN in await replayer.text([token])] if first else []
    if len(parts) == 1 or (possible and not parts and (first or len(possible) == 1)):
        return (parts or possible)[0], True
    sure = certain_draw(own, sampler, number)
    return (None if first and sure not in parts else sure), False


async def _make_characters(run: Sequence[Position], replayer: Replayer) -> bool:
    """The token that the engine showed again completes what was withheld."""
    text = await replayer.text([one.token for one in run if one.token is not None])
    return _BROKEN not in text
