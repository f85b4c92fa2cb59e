"""Which results are challenged, and which of their leaves: drawn from a beacon that nobody could foresee.

HKDF-SHA-256 (after RFC 5869): the beacon's value is the key, the committed root the salt, so that neither the node,
which chose the root before, nor the coordinator, which promised the beacon before, can steer it.
"""

from __future__ import annotations

import hashlib
import hmac
from bisect import bisect_right, insort
from collections.abc import Iterator

MILLION = 1_000_000
_TASK, _LEAVES = b"pos/v1/draw\x00", b"pos/v1/leaves\x00"
_WORD = 8
_WORDS_A_BLOCK = hashlib.sha256().digest_size // _WORD


def is_drawn(beacon: bytes, root: str, task_id: str, rate_micros: int) -> bool:
    """Whether the result with this root (hex) is challenged: with probability `rate_micros` / 1,000,000."""
    word = next(_words(_key(beacon, root), _TASK + task_id.encode()))
    return word * MILLION < rate_micros << 64


def drawn_leaves(beacon: bytes, root: str, task_id: str, leaves: int, wanted: int, level: int = 0) -> tuple[int, ...]:
    """The leaves to repeat, in order: the first and the last with output, and others by chance, `wanted` or all.

    `leaves` counts as the commitment does: with the end leaf, which has no output.

    Every level doubles how many, with fresh chance.
    """
    last = leaves - 2
    if last < 0:
        return ()
    ends = dict.fromkeys((0, last))
    between = range(1, last)
    missing = min(max((wanted << level) - len(ends), 0), len(between))
    words = _words(_key(beacon, root), _LEAVES + level.to_bytes(1, "little") + task_id.encode())
    return tuple(sorted([*ends, *_sample(between, missing, words)]))


def leaves_until(beacon: bytes, root: str, task_id: str, leaves: int, wanted: int, level: int) -> tuple[int, ...]:
    """All that is repeated at a level, in order: what was drawn there and below, so that a doubt is looked at again."""
    drawn = (drawn_leaves(beacon, root, task_id, leaves, wanted, below) for below in range(level + 1))
    return tuple(sorted(set().union(*drawn)))


def _sample(among: range, count: int, words: Iterator[int]) -> list[int]:
    """`count` of `among`, each set as likely as any other (Fisher and Yates).

    Only what is taken out is written down: how long `among` is says a node, and nobody need have room for that.
    """
    taken: list[int] = []
    for left in range(len(among), len(among) - count, -1):
        at = _below(left, words)
        below = bisect_right(range(len(taken)), at, key=lambda index: taken[index] - index)
        insort(taken, at + below)
    return [among[at] for at in taken]


def _below(bound: int, words: Iterator[int]) -> int:
    """Uniform in 0 … bound - 1: words above the largest multiple of `bound` are passed over."""
    limit = (1 << 64) // bound * bound
    return next(word for word in words if word < limit) % bound


def _key(beacon: bytes, root: str) -> bytes:
    """HKDF-Extract."""
    return hmac.digest(bytes.fromhex(root), beacon, "sha256")


def _words(key: bytes, info: bytes) -> Iterator[int]:
    """As HKDF-Expand, but with a counter of four bytes, so that it does not end: u64 little-endian words."""
    block, number = b"", 0
    while True:
        number += 1
        block = hmac.digest(key, block + info + number.to_bytes(4, "little"), "sha256")
        for at in range(_WORDS_A_BLOCK):
            yield int.from_bytes(block[at * _WORD : (at + 1) * _WORD], "little")
