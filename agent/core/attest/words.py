"""The numbers of the matrix challenge, written once for every array library.

Only operators are used here: numpy's arrays and torch's tensors of 32-bit integers, which wrap, compute the same from
the same text, and a kernel of 20 lines does as well. Bytes are little-endian. Nothing here is a secret or a signature:
the numbers must be unforeseeable before the seed is known, and have no structure that makes a product cheaper.
"""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

DIGEST_BYTES = 8
"""Of a row: one byte of each of so many sums. To guess them is one chance in 2^64, and there is one guess."""
_MASK_15, _MASK_16 = (1 << 17) - 1, (1 << 16) - 1
"""What `>>` by 15 and 16 leaves when it does not carry the sign along."""
_K1, _K2 = 0x21F0AAAD, 0x735A2D97
"""Multipliers of the 32-bit mixer `lowbias32` (Wellons and Ellis, hash-prospector); both fit a signed integer."""


class Key(NamedTuple):
    """Names one endless matrix; all four are signed 32-bit integers."""

    row: int
    row_again: int
    column: int
    column_again: int


def key_of(seed: str, purpose: str) -> Key:
    """`seed`: hex. `purpose` sets matrices of one seed apart, such as `B` or `A/3`."""
    digest = hashlib.sha256(b"gpu-agent/matrix/" + purpose.encode() + b"\0" + bytes.fromhex(seed)).digest()
    return Key(*(int.from_bytes(digest[at : at + 4], "little", signed=True) for at in range(0, 16, 4)))


def next_seed(seed: str, root: str) -> str:
    """Of the reading after the one that had `seed` and came to `root`: none can begin before the last has ended."""
    return hashlib.sha256(b"gpu-agent/matrix/next\0" + bytes.fromhex(seed) + root.encode()).hexdigest()


def row_keys(numbers: Any, key: Key) -> Any:
    """One number a row; no two rows have the same. `numbers`: a fresh array of row numbers, which is used up."""
    return _spread(numbers, key.row, key.row_again)


def column_keys(numbers: Any, key: Key) -> Any:
    """One number for every four columns; `numbers` counts those, and is used up."""
    return _spread(numbers, key.column, key.column_again)


def words(rows: Any, columns: Any) -> Any:
    """The words of these rows and columns, each of which is four entries: a view as int8 is the matrix."""
    x = rows[:, None] ^ columns[None, :]
    x *= _K1
    x ^= (x >> 15) & _MASK_15
    x *= _K2
    x ^= (x >> 15) & _MASK_15
    return x


def second_bytes(product: Any, int8: Any) -> Any:
    """Of each 32-bit sum its second byte, as the next layer's entries.

    Carries from the first byte make it no linear function of the sum, in whatever ring: a product of products cannot be
    had from products of the factors, nor a row's digest without all of the row.
    """
    return product.view(int8)[:, 1::4]


def first_bytes(sums: Any, int8: Any) -> Any:
    """Of each 32-bit sum its first byte: a row's digest."""
    return sums.view(int8)[:, 0::4]


def _spread(numbers: Any, first: int, second: int) -> Any:
    """A permutation of all 32-bit numbers."""
    x = numbers
    x ^= first
    x = _mixed(x)
    x += second
    return _mixed(x)


def _mixed(x: Any) -> Any:
    x ^= (x >> 16) & _MASK_16
    x *= _K1
    x ^= (x >> 15) & _MASK_15
    x *= _K2
    x ^= (x >> 15) & _MASK_15
    return x
