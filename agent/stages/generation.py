"""One generation: from an engine's pieces to streamed chunks, a transcript and the output."""

from __future__ import annotations

import msgspec

from agent.core import wire
from agent.core.errors import EngineError, ProofError
from agent.core.model import EmbeddingInput, FinishReason, Reason, Timings, Usage
from agent.core.proof.transcript import TranscriptBuilder
from agent.ports import Clock, EngineOutput, Finished, Imprints, Piece, Printed, Ran, Vectors
from agent.stages.product import Product

CHUNK_S = 0.020
CHUNK_BYTES = 4 << 10
"""Tokens coalesce for 20 ms or 4 KiB (protocol.md). No timer: a chunk goes out with the first token after 20 ms, so
a slow engine streams every token at once, and a fast one at most fifty chunks a second."""


class Output(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the requester gets, as JSON."""

    text: str | None = None
    vectors: tuple[tuple[float, ...], ...] | None = None
    finish_reason: FinishReason
    usage: Usage


class Generation:
    """Accumulates one task's pieces. Not reusable."""

    def __init__(self, offer: wire.OfferBody, clock: Clock, *, top_logprobs: int) -> None:
        self._offer = offer
        self._clock = clock
        self._began = clock.monotonic()
        self._first_token: float | None = None
        self._texts: list[str] = []
        self._bytes = 0
        self._vectors: Vectors | None = None
        self._finished: Finished | None = None
        self._builder = TranscriptBuilder(top_logprobs)
        self._chunk: list[str] = []
        self._chunk_bytes = 0
        self._chunk_tokens = 0
        self._chunk_index = 0
        self._chunk_sent = 0.0
        self._leaf = ""
        self.tokens = 0

    def take(self, output: EngineOutput) -> wire.Chunk | None:
        """Add what the engine yielded; returns a chunk when one is due. Raises EngineError."""
        if self._finished is not None:
            raise EngineError(Reason.ENGINE_GARBAGE, "the engine went on after it had finished")
        try:
            return self._take(output)
        except ProofError as error:
            raise EngineError(Reason.ENGINE_GARBAGE, f"the output cannot be recorded: {error.message}") from error

    def _take(self, output: EngineOutput) -> wire.Chunk | None:
        match output:
            case Piece():
                return self._piece(output)
            case Vectors():
                self._take_vectors(output)
            case Imprints():
                self._builder.add_imprints(output.of_leaves)
            case Finished():
                self._finished = output
            case Printed() | Ran():
                raise EngineError(Reason.ENGINE_GARBAGE, "an engine runs no programs")
        return None

    def _piece(self, piece: Piece) -> wire.Chunk | None:
        now = self._clock.monotonic()
        if self._first_token is None:
            self._first_token = now
        self.tokens += 1
        size = len(piece.text.encode())
        self._bytes += size
        if self._bytes > wire.MAX_BLOB_BYTES // 8:  # JSON may escape a byte into six
            raise EngineError(Reason.OUTPUT_TOO_LARGE, f"the output passed {wire.MAX_BLOB_BYTES // 8} bytes")
        self._texts.append(piece.text)
        self._leaf = self._builder.add(piece) or self._leaf
        self._chunk.append(piece.text)
        self._chunk_bytes += size
        self._chunk_tokens += 1
        if now - self._chunk_sent >= CHUNK_S or self._chunk_bytes >= CHUNK_BYTES:
            self._chunk_sent = now
            return self.flush()
        return None

    def flush(self) -> wire.Chunk | None:
        """What was not sent yet, if anything."""
        if not self._chunk:
            return None
        chunk = wire.Chunk(
            key=self._offer.key,
            index=self._chunk_index,
            text="".join(self._chunk),
            tokens=self._chunk_tokens,
            leaf=self._leaf,
        )
        self._chunk, self._chunk_bytes, self._chunk_tokens, self._leaf = [], 0, 0, ""
        self._chunk_index += 1
        return chunk

    def _take_vectors(self, vectors: Vectors) -> None:
        task_input = self._offer.task.input
        asked = len(task_input.texts) if isinstance(task_input, EmbeddingInput) else 0
        if len(vectors.rows) != asked:
            raise EngineError(Reason.ENGINE_GARBAGE, f"asked for {asked} vectors, got {len(vectors.rows)}")
        self._vectors = vectors
        self._builder.add_rows(vectors.rows)

    def product(self) -> Product:
        """Everything, once the engine's stream has ended. Raises EngineError when it ended too early."""
        if self._finished is None:
            raise EngineError(Reason.ENGINE_GARBAGE, "the engine's stream ended before it said that it had finished")
        finished, now = self._finished, self._clock.monotonic()
        output = Output(
            text=None if self._vectors else "".join(self._texts),
            vectors=self._vectors.rows if self._vectors else None,
            finish_reason=finished.finish,
            usage=finished.usage,
        )
        encoded = msgspec.json.encode(output)
        if len(encoded) > wire.MAX_BLOB_BYTES:
            raise EngineError(
                Reason.OUTPUT_TOO_LARGE, f"the output has {len(encoded)} bytes, at most {wire.MAX_BLOB_BYTES}"
            )
        first_token_s = (self._first_token - self._began) if self._first_token is not None else 0.0
        return Product(
            output=encoded.decode(),
            builder=self._builder,
            finished=finished,
            timings=Timings(first_token_ms=round(first_token_s * 1000), running_ms=round((now - self._began) * 1000)),
        )
