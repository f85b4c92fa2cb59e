"""Replay on an unmodified llama-server: any tokens are forced, and what the model thinks of them is read off."""

from __future__ import annotations

import re
from collections.abc import Sequence

from agent.core import engine_replies, engines, replays
from agent.core.checks.claims import Position
from agent.core.errors import EngineError
from agent.core.model import ChatInput, CompletionInput
from agent.core.proof.toploc import Peaks
from agent.edges.engines.http import EngineHttp
from agent.edges.verifier.states import states_peaks
from agent.ports import Embedded

_BROKEN = "\ufffd"
_LOOKS_SPECIAL = re.compile(r"[<\[|].*[>\]|]", re.DOTALL)
_TOKEN_BYTES = 1024
"""Of one candidate in a reply, at most; see engines.build_request."""


async def embedded(http: EngineHttp, request: engines.Request, texts: int, patience_s: float) -> Embedded:
    """The rows of an OpenAI-compatible engine. Raises EngineError."""
    reply = await http.exchange(request.path, request.body, patience_s, request.max_answer_bytes)
    rows, usage = engine_replies.embeddings(reply, texts)
    return Embedded(rows, usage.prompt_tokens)


class LlamaReplayer:
    """Implements ports.Replayer. One request at a time, so that nothing else disturbs the figures."""

    def __init__(self, http: EngineHttp, *, states: bool = False, patience_s: float = 600.0) -> None:
        """`states`: it was started to tell hidden states."""
        self._http = http
        self._states = states
        self._patience_s = patience_s
        self._pieces: dict[int, str] = {}
        """Texts of tokens: asked once each. Control tokens have none."""

    async def prompt_ids(self, given: ChatInput | CompletionInput) -> tuple[int, ...]:
        """Raises EngineError."""
        prompt = given.prompt if isinstance(given, CompletionInput) else await self._rendered(given)
        return engine_replies.token_ids(await self._http.exchange("/tokenize", engines.tokenize_request(prompt)))

    async def replay(self, prefix: Sequence[int], ids: Sequence[int], top: int) -> tuple[Position, ...]:
        """Raises EngineError."""
        done, top = list[Position](), max(top, 1)  # who is asked for no candidates tells no tokens either
        while len(done) < len(ids):
            done += await self._run(prefix, ids, len(done), top)
        return tuple(done)

    async def in_one_go(self, ids: Sequence[int]) -> int:
        """Raises EngineError."""
        return min(len(await self._forceable(ids)) + 1, len(ids))

    async def text(self, ids: Sequence[int]) -> str:
        """Raises EngineError."""
        return await self._spelled([token for token in ids if await self._piece(token)])

    async def ends(self, token: int) -> bool:
        """Raises EngineError."""
        return replays.ends(await self._http.exchange("/completion", replays.ends_request(token), self._patience_s))

    async def peaks(self, prefix: Sequence[int], ids: Sequence[int]) -> tuple[Peaks, ...] | None:
        """Raises EngineError."""
        return await states_peaks(self._http, prefix, ids, self._patience_s) if self._states else None

    async def rows(self, texts: tuple[str, ...]) -> Embedded:
        """Raises EngineError."""
        return await embedded(self._http, engines.embedding_request("m", texts), len(texts), self._patience_s)

    async def _rendered(self, given: ChatInput) -> str:
        return engine_replies.prompt_text(await self._http.exchange("/apply-template", engines.template_request(given)))

    async def _run(self, prefix: Sequence[int], ids: Sequence[int], at: int, top: int) -> tuple[Position, ...]:
        """Positions from `at` on: at least one. A token that no grammar can force ends a run: the run's request tells
        its candidates all the same, and the next run has it in its prefix.
        """
        run = await self._forceable(ids[at:])
        before = [*prefix, *ids[:at]]
        try:
            return await self._forced(before, ids[at:], run, top)
        except EngineError:
            if not run:
                raise
            # A token that looked harmless ends the text or breaks the grammar: position by position, none is forced.
            return await self._forced(before, ids[at:], [], top)

    async def _forceable(self, ids: Sequence[int]) -> list[int]:
        """The ids up to the first that no grammar can force."""
        run: list[int] = []
        for token in ids:
            if not await self._can_force(token):
                break
            run.append(token)
        return run

    async def _forced(
        self, before: Sequence[int], ids: Sequence[int], run: Sequence[int], top: int
    ) -> tuple[Position, ...]:
        one_more = len(run) < len(ids)
        body = replays.forced_request(before, run, top, one_more=one_more)
        limit = (1 << 20) + (len(run) + 1) * (top + 2) * _TOKEN_BYTES
        reply = await self._http.exchange("/completion", body, self._patience_s, limit)
        found = replays.forced_positions(reply, run)
        if not one_more:
            return found[: len(run)]
        return (*found[: len(run)], found[len(run)]._replace(token=ids[len(run)]))

    async def _can_force(self, token: int) -> bool:
        """A grammar's token literal needs text, of whole characters and without NUL (measured: HTTP 500 otherwise)."""
        piece = await self._piece(token)
        return bool(piece) and _BROKEN not in piece and "\0" not in piece

    async def _piece(self, token: int) -> str:
        if token not in self._pieces:
            name = await self._spelled([token])
            self._pieces[token] = "" if await self._is_control(token, name) else name
        return self._pieces[token]

    async def _is_control(self, token: int, name: str) -> bool:
        """A control token, which has a name but no text, is only read where special tokens are."""
        if not _LOOKS_SPECIAL.fullmatch(name):
            return False
        read, spelled = [await self._tokens(name, special=special) for special in (True, False)]
        return read == (token,) != spelled

    async def _tokens(self, text: str, *, special: bool) -> tuple[int, ...]:
        body = replays.literal_request(text, special=special)
        return engine_replies.token_ids(await self._http.exchange("/tokenize", body))

    async def _spelled(self, ids: Sequence[int]) -> str:
        return replays.detokenized(await self._http.exchange("/detokenize", replays.detokenize_request(ids)))
