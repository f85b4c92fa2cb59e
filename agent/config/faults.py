"""A fault of the configuration, worded for the person who wrote it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec.inspect as mi

from agent.core.model import Value


class Fault(Value):
    """What is wrong with one key. `key` reads like `pools[0].slots`."""

    key: str
    message: str
    origin: str = ""
    """Which source, where the key alone does not tell."""


def did_you_mean(given: Any, known: Iterable[str]) -> str:
    """`; did you mean "x"?` for the first word of `given` that is not known, or nothing."""
    import difflib  # noqa: PLC0415  (a daemon whose configuration is right never needs it)

    words = list(known)
    strange = next((w for w in (given if isinstance(given, list) else [given]) if w not in words), None)
    near = difflib.get_close_matches(strange, words, n=1) if isinstance(strange, str) else []
    return f'; did you mean "{near[0]}"?' if near else ""


def expectation(kind: mi.Type) -> str:  # noqa: PLR0911  (one line a type)
    """What a value of this type must be, in plain words."""
    match kind:
        case mi.Metadata(type=mi.StrType(pattern=str()), extra_json_schema={"description": str(words)}):
            return words
        case mi.Metadata(type=inner):
            return expectation(inner)
        case mi.UnionType(types=types):
            return expectation(next(t for t in types if not isinstance(t, mi.NoneType)))
        case mi.BoolType():
            return "true or false"
        case mi.IntType():
            return "a whole number" + _bounds(kind)
        case mi.FloatType():
            return "a number" + _bounds(kind)
        case mi.EnumType(cls=cls):
            return "one of " + ", ".join(f'"{member.value}"' for member in cls)
        case mi.VarTupleType(item_type=item, min_length=least):
            return f"a list{' that is not empty' if least else ''}, each {expectation(item)}"
        case mi.CustomType():
            return "a path"
        case _:
            return "text"


def choices(kind: mi.Type) -> Iterator[str]:
    """The words that an enum (or a list of one) takes; nothing for other types."""
    match kind:
        case mi.Metadata(type=inner) | mi.VarTupleType(item_type=inner):
            yield from choices(inner)
        case mi.UnionType(types=types):
            for member in types:
                yield from choices(member)
        case mi.EnumType(cls=cls):
            yield from (str(member.value) for member in cls)
        case _:
            return


def shown(value: Any) -> str:
    """A value as TOML would write it, short and without control characters."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + "".join(c if c.isprintable() else "?" for c in value[:60]) + ('…"' if len(value) > 60 else '"')
    if isinstance(value, dict):
        return "a table"
    text = ascii(value)
    return text if len(text) <= 60 else text[:60] + "…"


def _bounds(kind: mi.IntType | mi.FloatType) -> str:
    words = [
        f"{word} {bound:g}"
        for word, bound in (("at least", kind.ge), ("more than", kind.gt), ("at most", kind.le))
        if bound is not None
    ]
    return "".join(f", {word}" for word in words)
