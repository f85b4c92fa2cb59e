"""Why the text ended, and whether it is the text of these tokens."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from agent.core.checks import stops
from agent.core.checks.claims import Position
from agent.core.model import FinishReason
from agent.core.proof.header import Header

_MOST_CUT_OFF = 3
"""Tokens inside one UTF-8 character: max_tokens may cut them off before the engine shows any; so may the text's end."""
_MOST_BROKEN = 16
"""Likewise, where tokens are bytes that make no character: each new first byte hides some more. Models say such things
hardly ever; one of random weights did it once in 400 answers, with 4 tokens.
"""
_MOST_IN_A_ROW = 64
"""Likewise, in the midst of a text: one of random weights had 22 once in 1,500 answers, when it said one byte again and
again."""


class Hidden(NamedTuple):
    """Tokens that an engine counted behind the last one that it showed."""

    inside: bool
    """From the first on they leave the text inside a character, so that an engine had nothing to show."""
    all_known: bool
    """Of some only the first ones may be known."""


class Told(NamedTuple):
    """What only the model's tokenizer knows."""

    last_ends: bool | None
    """The last token is one that ends the text; None when it is not known which it is."""
    text: str | None = None
    """Of the tokens that are shown, but an ending one; None when not every one is known."""
    hidden: Hidden | None = None
    """Of the tokens behind these; None when there are none, or it is not known which they are."""
    went_on: bool = False
    """There are tokens behind one that ends the text."""
    shorter: tuple[str, ...] = ()
    """`text` without the last token, without the last two, and so on: as far as a stop string may hide them."""


class Ending(NamedTuple):
    """What the check found."""

    faults: tuple[str, ...] = ()
    """In plain words; empty when nothing speaks against the claims."""
    decided: bool = True
    """Whether the reason for the end could be checked at all. Without a tokenizer a stop cannot."""
    doubts: tuple[str, ...] = ()
    """What is hardly ever so, but may be."""


def hidden(header: Header, shown: int) -> int:
    """Tokens behind the last one shown, where the text is said to have ended inside a character: the engine shows
    neither that character's tokens nor the one that ended the text. A verifier draws them again.
    """
    missing = header.completion_tokens - shown
    return missing if 0 < missing <= _most(header, _MOST_BROKEN) else 0


def check_ending(
    header: Header, claimed: Sequence[Position], *, delivered: str | None = None, told: Told | None = None
) -> Ending:
    """Whether the generation ended as the header says. `claimed`: the tokens that are shown. `delivered` is the text
    that the requester got, if it is known.

    Without `told` only counts are checked, and whether a stop string was delivered.
    """
    faults, decided = _counts(header, claimed), header.finish is FinishReason.LENGTH
    behind = told.hidden if told else None
    doubts = _row_of_withheld(header, claimed)
    if not (behind and behind.all_known):
        doubts += _hidden_behind(header, len(claimed))
    if delivered is not None:
        faults += [*_kept_out(header, claimed, delivered), *_held_back(header, claimed, delivered)]
    if told is None:
        return Ending(tuple(faults), decided, tuple(doubts))
    if told.last_ends is not None:
        faults += [*_reason(header, told), *_went_on(header, claimed, told)]
        decided = told.last_ends or told.text is not None or not header.stop
    if told.text is not None and delivered is not None:
        faults += _text(header, claimed, told, delivered)
    if behind and not behind.inside:
        faults.append("tokens that nobody was shown are counted, but the text does not end inside a character")
    return Ending(tuple(faults), decided, tuple(doubts))


def _counts(header: Header, claimed: Sequence[Position]) -> list[str]:
    counted, allowed, shown = header.completion_tokens, header.max_tokens, len(claimed)
    faults = []
    if counted > allowed:
        faults.append(f"{counted} tokens are counted where {allowed} were allowed")
    if not header.samplers and _withheld(claimed):
        return faults  # of such an engine a piece of text is what came at once, and its context may be another
    if not 0 <= counted - shown <= _most(header, _MOST_BROKEN):
        faults.append(f"{counted} tokens are counted, but the transcript has {shown}")
    if header.finish is FinishReason.LENGTH and counted < allowed:
        faults.append(f"max_tokens is given as the reason, but it ended after {counted} of {allowed} tokens")
    return faults


def _most(header: Header, broken: int) -> int:
    """Tokens that may be hidden at the end: of what is no whole character, and the one that ended it."""
    return broken + (header.finish is FinishReason.STOP)


def _row_of_withheld(header: Header, claimed: Sequence[Position]) -> list[str]:
    count = max(_rows(claimed), default=0)
    if not header.samplers or count <= _MOST_BROKEN:
        return []
    return [f"{count} tokens are withheld one after the other: more than characters have"]


def _rows(claimed: Sequence[Position]) -> list[int]:
    """How many tokens are withheld one after the other, in each place."""
    return [len([*row]) for known, row in groupby(claimed, lambda one: one.token is not None) if not known]


def _hidden_behind(header: Header, shown: int) -> list[str]:
    missing = header.completion_tokens - shown
    if missing <= _most(header, _MOST_CUT_OFF):
        return []
    return [f"{missing} tokens at the end are counted and not shown: more than a character has"]


def _reason(header: Header, told: Told) -> list[str]:
    cut = bool(header.stop) if told.text is None else stops.may_cut(header.stop, told.text)
    if header.finish is FinishReason.LENGTH and told.last_ends:
        return ["the text had ended, but max_tokens is given as the reason"]
    if header.finish is FinishReason.STOP and not told.last_ends and not cut:
        return ["it stopped, but neither by an end-of-text token nor by a stop string"]
    return []


def _went_on(header: Header, claimed: Sequence[Position], told: Told) -> list[str]:
    """An engine ends with the token that ends the text, or that makes up a stop string."""
    faults = ["it goes on after a token that ends the text"] if told.went_on else []
    before = told.text if told.last_ends else next(iter(told.shorter), "")
    # Inside a character it does not look for one.
    if before and not _withheld(claimed[-_MOST_CUT_OFF - 1 :]) and _met(header, claimed, before):
        faults.append("it goes on after a stop string, though the text was cut there")
    return faults


def _kept_out(header: Header, claimed: Sequence[Position], delivered: str) -> list[str]:
    met = dict.fromkeys(_met(header, claimed, delivered).values())
    return [f"the text goes on after the stop string {stop!r}" for stop in met]


def _met(header: Header, claimed: Sequence[Position], text: str) -> dict[int, str]:
    return stops.met(header.stop, text, withheld=_withheld(claimed))


def _withheld(claimed: Sequence[Position]) -> bool:
    return any(one.token is None for one in claimed)


def _held_back(header: Header, claimed: Sequence[Position], delivered: str) -> list[str]:
    """Tokens are withheld inside a character that ASCII lacks: without as many of those in the text, it is a pretext.

    More may be in the stop string that ended the text, and one behind that in its last token. Of an engine that takes
    our sampler chain every token is known but those that are part of a character, and of them each has a byte of one.
    """
    rows, beyond, in_stops = _rows(claimed), _beyond_ascii(delivered), [_beyond_ascii(stop) for stop in header.stop]
    room = len(beyond) + max(map(len, in_stops), default=0)
    most = len(beyond.encode()) + max((len(stop.encode()) for stop in in_stops), default=0)
    if in_stops or (claimed and claimed[-1].token is None):
        room, most = room + 1, most + _MOST_CUT_OFF + 1  # cut off in the middle
    if len(rows) > room:
        return [f"tokens are withheld in {len(rows)} places, but only {room} characters of the text could need it"]
    if header.samplers and max(rows, default=0) > _MOST_IN_A_ROW:
        return [f"{max(rows)} tokens are withheld one after the other: more than any text needs"]
    if header.samplers and sum(rows) > most:
        return [f"{sum(rows)} tokens are withheld, but the characters that could need it have only {most} bytes"]
    return []


def _beyond_ascii(text: str) -> str:
    return "".join(one for one in text if not one.isascii())


def _text(header: Header, claimed: Sequence[Position], told: Told, delivered: str) -> list[str]:
    """The delivered text is the tokens' text up to a stop string."""
    texts = (told.text or "", *told.shorter)
    if stops.fits(header.stop, texts[0], delivered, withheld=_withheld(claimed)):
        return []
    if header.finish is FinishReason.LENGTH and delivered in stops.held_at_limit(header.stop, texts):
        return []
    return ["the delivered text is not the text of the tokens"]
