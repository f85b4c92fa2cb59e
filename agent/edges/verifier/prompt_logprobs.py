"""Replay on vLLM, and on what speaks as it does: one prefill tells the log-probabilities of all its tokens."""

from __future__ import annotations

from collections.abc import Sequence

from agent.core import engine_replies, engines, replays
from agent.core.checks.claims import Position
from agent.core.model import ChatInput, CompletionInput
from agent.edges.engines.http import EngineHttp
from agent.edges.verifier.llama import embedded
from agent.ports import Embedded

_CANDIDATE_BYTES = 256
"""Of one candidate in a reply: id, log-probability, rank and its text."""


class PromptLogprobsReplayer:
    """Implements ports.Replayer."""

    def __init__(self, http: EngineHttp, model: str, *, most: int = 20, patience_s: float = 600.0) -> None:
        self._http = http
        self._model = model
        self._most = most
        """`--max-logprobs` of the server."""
        self._patience_s = patience_s

    async def prompt_ids(self, given: ChatInput | CompletionInput) -> tuple[int, ...]:
        """Raises EngineError."""
        body = replays.vllm_tokenize_request(self._model, given)
        return engine_replies.token_ids(await self._http.exchange("/tokenize", body))

    async def replay(self, prefix: Sequence[int], ids: Sequence[int], top: int) -> tuple[Position, ...]:
        """Raises EngineError."""
        whole, listed = [*prefix, *ids], max(min(top, self._most), 1)
        limit = (1 << 20) + len(whole) * (listed + 1) * _CANDIDATE_BYTES
        body = replays.scored_request(self._model, whole, listed)
        reply = await self._http.exchange("/v1/completions", body, self._patience_s, limit)
        return replays.scored_positions(reply, whole, len(prefix), listed)

    async def in_one_go(self, ids: Sequence[int]) -> int:  # noqa: ARG002  (the port's)
        """None: it reads at once what a generation computes token by token."""
        return 0

    async def text(self, ids: Sequence[int]) -> str:
        """Raises EngineError."""
        body = replays.vllm_detokenize_request(self._model, ids)
        return replays.vllm_detokenized(await self._http.exchange("/detokenize", body))

    async def ends(self, token: int) -> bool:
        """Raises EngineError."""
        body = replays.vllm_ends_request(self._model, token)
        return replays.vllm_ends(await self._http.exchange("/v1/completions", body, self._patience_s))

    async def peaks(self, prefix: Sequence[int], ids: Sequence[int]) -> None:
        """vLLM tells no hidden states."""

    async def rows(self, texts: tuple[str, ...]) -> Embedded:
        """Raises EngineError."""
        request = engines.embedding_request(self._model, texts)
        return await embedded(self._http, request, len(texts), self._patience_s)
