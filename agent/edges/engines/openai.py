"""One client for every engine behind the OpenAI-compatible API; `core.engines.Profile` says how each differs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable

import aiohttp

from agent.core import engine_replies, engines
from agent.core.engine_stream import Answer, SseReader, Token, garbage
from agent.core.engines import Profile, Request
from agent.core.errors import EngineError
from agent.core.model import (
    ChatInput,
    CompletionInput,
    EmbeddingInput,
    FinishReason,
    Message,
    Reason,
    Sampling,
    TaskInput,
    TaskKind,
    TaskSpec,
    Value,
)
from agent.core.proof.transcript import LEAF_TOKENS
from agent.core.text import line
from agent.edges.engines.http import EngineHttp, classified
from agent.edges.verifier.llama import LlamaReplayer
from agent.edges.verifier.prompt_logprobs import PromptLogprobsReplayer
from agent.ports import EngineOutput, Finished, Piece, Replayer, Vectors

_PROMPTS_KEPT = 64
"""Prompts tokenized by `check` whose generation has not begun yet."""


class Patience(Value):
    """How long an engine may be silent. The task's own deadline is the caller's."""

    connect_s: float = 10.0
    first_token_s: float = 300.0
    """Reading a long prompt on a slow device takes minutes."""
    idle_s: float = 60.0
    """Between two tokens."""
    reply_s: float = 30.0
    """A short reply: health, version, models."""


class OpenAIClient:
    """Talks to one engine. `connector` is called once, inside the running loop."""

    def __init__(
        self,
        profile: Profile,
        *,
        base_url: str,
        model: str,
        connector: Callable[[], aiohttp.BaseConnector],
        top_logprobs: int = 40,
        api_key: str = "",
        patience: Patience | None = None,
        states: bool = False,
    ) -> None:
        """`states`: a llama-server that tells hidden states, and is asked nothing else."""
        self.profile = profile
        self._states = states
        self.model = model
        self._top = top_logprobs
        self._patience = patience or Patience()
        self._prompts: dict[TaskInput, tuple[int, ...]] = {}
        # The slots of the pool bound how many connections there are.
        self._http = EngineHttp(
            base_url,
            connector,
            api_key=api_key,
            connect_s=self._patience.connect_s,
            reply_s=self._patience.reply_s,
        )

    async def close(self) -> None:
        """Drops every connection; the engine stops what it does for us."""
        await self._http.close()

    async def check(self, task: TaskSpec, context_tokens: int) -> None:
        """Raises EngineError with the reason to decline for, as far as this engine tells: see ports.EnginePool."""
        engines.build_request(self.profile, self.model, task, self._top)
        ids = await self._prompt_ids(task.input)
        if ids and len(ids) + task.max_tokens > context_tokens:
            raise EngineError(
                Reason.CONTEXT_TOO_LONG,
                f"{len(ids)} prompt tokens and {task.max_tokens} more do not fit a context of {context_tokens}",
            )
        self._prompts[task.input] = ids
        while len(self._prompts) > _PROMPTS_KEPT:
            del self._prompts[next(iter(self._prompts))]

    # ------------------------------------------------------------------ generation

    async def generate(self, task: TaskSpec) -> AsyncGenerator[EngineOutput, None]:
        """Pieces or Vectors, then Finished. Raises EngineError. Closing it stops the engine's work on this task."""
        if isinstance(task.input, EmbeddingInput):
            request = engines.build_request(self.profile, self.model, task, self._top)
            reply = await self._http.exchange(
                request.path, request.body, self._patience.first_token_s, request.max_answer_bytes
            )
            rows, usage = engine_replies.embeddings(reply, len(task.input.texts))
            yield Vectors(rows=rows)
            yield Finished(finish=FinishReason.STOP, usage=usage, request_sha256=request.sha256)
            return
        prompt_ids = self._prompts.pop(task.input, None)
        if prompt_ids is None:
            prompt_ids = await self._prompt_ids(task.input)
        request = engines.build_request(self.profile, self.model, task, self._top, prompt_ids)
        answer = Answer(top_logprobs=request.n_probs, max_tokens=task.max_tokens)
        async with contextlib.aclosing(self._payloads(request)) as payloads:
            async for payload in payloads:
                for token in answer.feed(payload):
                    yield _piece(token)
                if answer.done:
                    break
        finish, usage = answer.end()
        # When the counts differ, the engine made another prompt than we think: then we do not know its tokens.
        known = prompt_ids if len(prompt_ids) == usage.prompt_tokens else ()
        yield Finished(
            finish=finish,
            usage=usage,
            request_sha256=request.sha256,
            prompt_sha256=engines.prompt_digest(known) if known else "",
            n_probs=request.n_probs,
        )

    async def _payloads(self, request: Request) -> AsyncGenerator[bytes, None]:
        """Payloads of the event stream, until it ends."""
        reader = SseReader(max_line_bytes=request.max_line_bytes, max_total_bytes=request.max_answer_bytes)
        patience = self._patience.first_token_s
        async with self._http.response("POST", request.path, request.body, patience) as response:
            if response.content_type != "text/event-stream":
                raise garbage(f"it is {line(response.content_type, 60)!r}, not an event stream")
            # Comments keep a connection open without a token, so only events push the deadline out.
            deadline = asyncio.get_running_loop().time() + patience
            while received := await self._read(response, deadline):
                for payload in reader.feed(received):
                    deadline = asyncio.get_running_loop().time() + self._patience.idle_s
                    yield payload
            for payload in reader.close():
                yield payload

    async def _read(self, response: aiohttp.ClientResponse, deadline: float) -> bytes:
        with classified():
            try:
                async with asyncio.timeout_at(deadline):
                    return await response.content.readany()
            except TimeoutError as fault:
                raise EngineError(
                    Reason.ENGINE_UNAVAILABLE,
                    "the engine sent no token in time",
                    remedy="It hangs or is overloaded; fewer slots or a smaller model may help",
                ) from fault

    async def _prompt_ids(self, given: TaskInput) -> tuple[int, ...]:
        """Token ids of the prompt, where the engine tells them; else nothing. Raises EngineError."""
        if not self.profile.tokenizes:
            return ()
        match given:
            case ChatInput():
                body = await self._http.exchange("/apply-template", engines.template_request(given))
                prompt = engine_replies.prompt_text(body)
            case CompletionInput():
                prompt = given.prompt
            case _:
                return ()
        ids = engine_replies.token_ids(await self._http.exchange("/tokenize", engines.tokenize_request(prompt)))
        if not ids:  # such an engine ends before it began, and says that max_tokens was reached
            raise EngineError(Reason.MALFORMED_OFFER, "the prompt has no tokens")
        return ids

    # ------------------------------------------------------------------ repeating what others claim

    def replayer(self) -> Replayer:
        """On this client's connections. Raises EngineError(UNSUPPORTED_KIND)."""
        if self.profile.tokenizes:
            return LlamaReplayer(self._http, states=self._states)
        if self.profile.scores_prompts:
            return PromptLogprobsReplayer(self._http, self.model, most=self.profile.completion_top_logprobs)
        raise EngineError(Reason.UNSUPPORTED_KIND, f"{self.profile.name} cannot repeat what another engine said")

    # ------------------------------------------------------------------ readiness

    async def healthy(self, deadline_s: float) -> bool:
        """Whether the readiness path answers 200 in time. Never raises."""
        try:
            await self._http.exchange(self.profile.ready_path, None, deadline_s)
        except EngineError:
            return False
        return True

    async def canary(self, kinds: tuple[TaskKind, ...]) -> None:
        """Really makes one token, one embedding, or hidden states of a chunk. Raises EngineError."""
        if self._states:
            [token, *_] = await self.replayer().prompt_ids(CompletionInput(prompt="Hi"))
            await self.replayer().peaks((), (token,) * LEAF_TOKENS)
            return
        given: TaskInput = ChatInput(messages=(Message(role="user", content="Hi"),))
        if TaskKind.CHAT not in kinds:
            given = CompletionInput(prompt="Hi")
        if not {TaskKind.CHAT, TaskKind.COMPLETION} & set(kinds):
            given = EmbeddingInput(texts=("Hi",))
        sampling = Sampling(seed=1, temperature_micros=0, top_k=0, top_p_micros=1_000_000)
        task = TaskSpec(task_id="canary", model_digest="", input=given, sampling=sampling, max_tokens=1)
        async with contextlib.aclosing(self.generate(task)) as outputs:
            async for _ in outputs:
                pass

    async def served_models(self) -> tuple[str, ...]:
        """Names on `/v1/models`; empty where the engine has no such list. Raises EngineError."""
        if not self.profile.lists_models:
            return ()
        return engine_replies.served_models(await self._http.exchange("/v1/models", None))

    async def version(self) -> str:
        """The engine's version for people; empty when it does not tell. Never raises."""
        if not self.profile.version_path:
            return ""
        try:
            return engine_replies.version(self.profile, await self._http.exchange(self.profile.version_path, None))
        except EngineError:
            return ""

    async def slot_context(self) -> int:
        """Context of one slot in tokens as llama-server has it; 0 elsewhere. Raises EngineError."""
        if not self.profile.tokenizes:
            return 0
        return engine_replies.slot_context(await self._http.exchange("/props", None))


def _piece(token: Token) -> Piece:
    return Piece(token.text, token.id, token.logprob, token.top_ids, token.top_logprobs)
