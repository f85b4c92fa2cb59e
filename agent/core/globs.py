"""Which of a program's files are wanted: patterns as shells know them, matched without a regular expression.

`*` and `?` stay within one name, `**` stands for any number of names. A stranger writes patterns and names both, so the
work is bounded: length of pattern × length of path, whatever they are.
"""

from __future__ import annotations

from collections.abc import Iterable

MAX_PATTERN_BYTES = 256
_DEEP = b"**"


def matches(pattern: bytes, path: bytes) -> bool:
    """Whether the whole `path` (names joined by `/`) is what `pattern` means."""
    names = path.split(b"/")
    # reached[i]: the pattern so far can stand for the first i names.
    reached = [True] + [False] * len(names)
    for part in pattern.split(b"/"):
        if part == _DEEP:
            reached = _spread(reached)
        else:
            reached = [False, *(on and _name(part, name) for on, name in zip(reached, names, strict=False))]
    return reached[-1]


def any_matches(patterns: Iterable[bytes], path: bytes) -> bool:
    """Whether one of `patterns` does."""
    return any(matches(pattern, path) for pattern in patterns)


def _spread(reached: list[bool]) -> list[bool]:
    first = reached.index(True) if True in reached else len(reached)
    return [index >= first for index in range(len(reached))]


def _name(pattern: bytes, name: bytes) -> bool:
    """One name. Only the latest `*` is ever tried again: what an earlier one took can stay as it is."""
    at, place, star, retry = 0, 0, -1, 0
    while at < len(name):
        if place < len(pattern) and pattern[place] == ord("*"):
            star, retry = place, at
            place += 1
        elif place < len(pattern) and pattern[place] in (ord("?"), name[at]):
            place, at = place + 1, at + 1
        elif star >= 0:
            retry += 1
            place, at = star + 1, retry
        else:
            return False
    return not pattern[place:].strip(b"*")
