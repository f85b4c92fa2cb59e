"""Stop strings, as an engine that streams minds them: which texts one may deliver that met some, or did not.

llama-server looks for them in the bytes that it has not shown yet. It looks at the end alone, as far as a stop string
and the last token reach, and not at all while these bytes end inside a character: so it may overlook one in a token
that it withholds for that, such as a blank with the first bytes of what follows. (`process_token` of its
`tools/server/server-context.cpp`.)
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

_BROKEN = "\ufffd"
"""Stands for bytes that are no character, and for itself: whether an engine met a stop string with this in it, a text
does not tell.
"""
_NEAR = 4
"""Characters between a stop string and one that tokens were withheld for, at most, where these hid it."""


def met(stops: Sequence[str], text: str, *, withheld: bool) -> dict[int, str]:
    """Where an engine met a stop string for certain, and which. `withheld`: some tokens of the text were."""
    return {
        at: stop
        for stop in _readable(stops)
        for at in _places(stop, text)
        if not withheld or text[max(at - _NEAR, 0) : at + len(stop) + _NEAR].isascii()
    }


def may_cut(stops: Sequence[str], text: str) -> bool:
    """Whether one of them may have ended the generation of `text`."""
    return any(_BROKEN in stop or stop in text for stop in stops if stop)


def fits(stops: Sequence[str], text: str, delivered: str, *, withheld: bool) -> bool:
    """Whether `delivered` may be what is delivered of `text`: up to the first stop string that the engine met."""
    if len(_readable(stops)) < sum(map(bool, stops)):
        return text.startswith(delivered)
    last = min(met(stops, text, withheld=withheld), default=len(text))
    ends = {last, *(at for stop in stops for at in _places(stop, text) if at < last)}
    return len(delivered) in ends and text.startswith(delivered)


def held_at_limit(stops: Sequence[str], texts: Sequence[str]) -> tuple[str, ...]:
    """What may be delivered of texts[0] where max_tokens ended it: a token that may begin a stop string is shown with
    what follows it, here with nothing. `texts`: of all tokens, of all but the last one, but the last two, and so on.
    """
    found = []
    for longer, shorter in pairwise(texts):
        if not any(longer.endswith(stop[:length]) for stop in stops for length in range(1, len(stop))):
            break
        found.append(shorter)
    return tuple(found)


def _readable(stops: Sequence[str]) -> list[str]:
    return [stop for stop in stops if stop and _BROKEN not in stop]


def _places(stop: str, text: str) -> list[int]:
    return [at for at in range(len(text) - len(stop) + 1) if text.startswith(stop, at)] if stop and stop in text else []
