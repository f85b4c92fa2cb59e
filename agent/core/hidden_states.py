"""Asking a llama-server for hidden states, and reading them as they come. Pure.

Started with `--embeddings --pooling none`, its `/embedding` tells the final hidden state of every token: about 12 bytes
a number as JSON, 50 MB for 1,000 tokens of width 4,096. So a reply is never held as a whole.
Source: llama.cpp `tools/server/README.md`, POST `/embedding`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from agent.core.engine_stream import garbage
from agent.core.engines import canonical_json
from agent.core.errors import ProofError
from agent.core.proof.toploc import Peaks, peaks
from agent.core.proof.transcript import LEAF_TOKENS

PATH = "/embedding"
_MAX_ROW_BYTES = 2 << 20
"""65,536 numbers of 32 bytes."""
_HEAD, _HEAD_BYTES = b'"embedding":[[', 256


def states_request(ids: Sequence[int]) -> bytes:
    """Body for `/embedding`."""
    return canonical_json({"content": ids})


class StatesReader:
    """Cuts a reply into chunks of 32 rows, as JSON without brackets, one a token; the last may have fewer."""

    def __init__(self, skip: int, count: int) -> None:
        """`skip`: tokens before the first that is wanted. `count`: tokens that are wanted. There are no more."""
        self._skip, self._left = skip, count
        self._begun = self._ended = False
        self._buffer = bytearray()
        self._chunk: list[bytes] = []

    def feed(self, received: bytes) -> Iterator[list[bytes]]:
        """Chunks that are whole now. Raises EngineError(ENGINE_GARBAGE)."""
        if self._ended:
            return
        self._buffer += received
        if not self._begun:
            self._begin()
        while (row := self._row()) is not None:
            if self._skip:
                self._skip -= 1
            elif self._left:
                self._left -= 1
                self._chunk.append(row)
            else:
                raise garbage("it tells hidden states of more tokens than it was given")
            if len(self._chunk) == LEAF_TOKENS or (self._chunk and not self._left):
                yield self._chunk
                self._chunk = []

    def close(self) -> None:
        """Nothing more comes. Raises EngineError(ENGINE_GARBAGE) when not all came."""
        if self._skip or self._left:
            raise garbage(f"hidden states of {self._skip + self._left} tokens are missing")

    def _begin(self) -> None:
        at = self._buffer.find(_HEAD)
        if at >= 0:
            del self._buffer[: at + len(_HEAD)]
            self._begun = True
        elif len(self._buffer) > _HEAD_BYTES:
            raise garbage("it tells no hidden states")

    def _row(self) -> bytes | None:
        """The next whole one. Behind it comes `,[`, or `]` behind the last."""
        if not self._begun or self._ended:
            return None
        end = self._buffer.find(b"]")
        if end < 0:
            if len(self._buffer) > _MAX_ROW_BYTES:
                raise garbage(f"a hidden state is longer than {_MAX_ROW_BYTES} bytes")
            return None
        row = bytes(self._buffer[:end]).lstrip(b",[")
        del self._buffer[: end + 1]
        self._ended = not row
        return row or None


def peaks_of(chunk: Sequence[bytes]) -> Peaks:
    """The peaks of one chunk of a `StatesReader`. Raises EngineError(ENGINE_GARBAGE)."""
    try:
        return peaks([msgspec.json.decode(b"[" + row + b"]", type=list[float]) for row in chunk])
    except (msgspec.DecodeError, UnicodeDecodeError) as fault:
        raise garbage("a hidden state is no list of numbers") from fault
    except ProofError as fault:
        raise garbage(fault.message) from fault
