"""What engines answer: server-sent events into tokens, and embeddings into rows, with every claim checked. Pure.

The sources of truth are WHATWG "Server-sent events" (line framing) and the OpenAI API reference (chunk objects). All
decoding is typed: msgspec skips what we do not name, so that 40 alternatives a token stay cheap.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Annotated, NoReturn

import msgspec

from agent.core.errors import EngineError
from agent.core.model import FinishReason, Reason, Usage
from agent.core.text import line

_Id = Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFFFF)]
# Softmax in float32 may round a certain token to slightly above 0.
_LogProb = Annotated[float, msgspec.Meta(le=1e-3)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 31)]

_TEXT_ID = "token_id:"


class Token(msgspec.Struct, frozen=True, gc=False):
    """One generated token. A token that the engine counted but withheld has neither text nor id."""

    text: str
    id: int | None = None
    logprob: float | None = None
    top_ids: tuple[int, ...] = ()
    top_logprobs: tuple[float, ...] = ()


class _Top(msgspec.Struct, gc=False):
    logprob: _LogProb
    id: _Id | None = None
    token: str = ""


class _Entry(msgspec.Struct, gc=False):
    token: str
    logprob: _LogProb
    id: _Id | None = None
    top_logprobs: list[_Top] = []


class _Logprobs(msgspec.Struct):
    """`content` is the chat form, which llama-server uses everywhere; the rest is the old completions form."""

    content: list[_Entry] | None = None
    tokens: list[str] | None = None
    token_logprobs: list[_LogProb | None] | None = None
    top_logprobs: list[dict[str, _LogProb] | None] | None = None


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    text: str | None = None
    delta: _Delta | None = None
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: _Count
    completion_tokens: _Count = 0


class _Timings(msgspec.Struct):
    predicted_n: _Count = 0


class _Fault(msgspec.Struct):
    message: str = ""
    code: int | str | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    timings: _Timings | None = None
    error: _Fault | str | None = None


_chunks = msgspec.json.Decoder(_Chunk)


def garbage(what: str) -> EngineError:
    """The engine broke its own protocol."""
    return EngineError(
        Reason.ENGINE_GARBAGE, f"the engine's answer is unusable: {what}", remedy="Check the engine's version and log"
    )


class SseReader:
    """Cuts a byte stream into the payloads of its `data:` lines. Other fields and comments are skipped."""

    def __init__(self, *, max_line_bytes: int, max_total_bytes: int) -> None:
        self._line_limit = max_line_bytes
        self._left = max_total_bytes
        self._rest = b""

    def feed(self, received: bytes) -> list[bytes]:
        """Payloads that are complete now. Raises EngineError(ENGINE_GARBAGE) when a bound is passed."""
        self._left -= len(received)
        if self._left < 0:
            raise garbage("it is longer than its token limit allows")
        *lines, self._rest = (self._rest + received if self._rest else received).split(b"\n")
        if len(self._rest) > self._line_limit:
            raise garbage(f"one line is longer than {self._line_limit} bytes")
        return [_payload(line) for line in lines if line.startswith(b"data:")]

    def close(self) -> list[bytes]:
        """What is left when the stream ends without a final newline."""
        rest, self._rest = self._rest, b""
        return [_payload(rest)] if rest.startswith(b"data:") else []


def _payload(line: bytes) -> bytes:
    return line[5:].strip(b" \r")


class Answer:
    """Follows one generation: gives its tokens as they come and holds the engine to what it claims."""

    def __init__(self, *, top_logprobs: int, max_tokens: int) -> None:
        self._shows_tokens = top_logprobs > 0
        self._top = top_logprobs
        self._limit = max_tokens
        self._count = 0
        self._finish: FinishReason | None = None
        self._usage: _Usage | None = None
        self.done = False
        """The engine said `[DONE]`."""

    def feed(self, payload: bytes) -> Sequence[Token]:
        """Tokens of one event. Raises EngineError."""
        if payload == b"[DONE]":
            self.done = True
            return ()
        if self.done:
            raise garbage("it goes on after its end")
        chunk = self._parse(payload)
        if chunk.error is not None:
            _raise_fault(chunk.error)
        if chunk.usage is not None:
            self._usage = chunk.usage
        tokens: list[Token] = []
        for choice in chunk.choices:
            tokens += self._tokens(choice, chunk.timings)
        self._add(len(tokens))
        return tokens

    def end(self) -> tuple[FinishReason, Usage]:
        """Call when the stream is over: why it ended, and the usage. The usage may count tokens that were not shown:
        those that made a stop string or ended the text.

        Raises EngineError(ENGINE_GARBAGE) when the answer is incomplete or contradicts itself.
        """
        if self._finish is None:
            raise garbage("it ends without a finish reason")
        if self._usage is None:
            raise garbage("it ends without a token count")
        claimed = self._usage.completion_tokens
        if claimed > self._limit:
            raise garbage(f"it counts {claimed} tokens where {self._limit} were allowed")
        if self._shows_tokens and claimed < self._count:
            raise garbage(f"it counts {claimed} tokens but showed {self._count}")
        return self._finish, Usage(prompt_tokens=self._usage.prompt_tokens, completion_tokens=claimed)

    def _parse(self, payload: bytes) -> _Chunk:
        try:
            return _chunks.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError) as fault:
            raise garbage(line(str(fault), 200)) from fault

    def _add(self, tokens: int) -> None:
        self._count += tokens
        if self._count > self._limit:
            raise garbage(f"it has more than the {self._limit} tokens that were allowed")

    def _tokens(self, choice: _Choice, timings: _Timings | None) -> list[Token]:
        if choice.finish_reason is not None:
            self._finish = _finish(choice.finish_reason)
        text = (choice.delta.content if choice.delta is not None else choice.text) or ""
        entries = self._entries(choice.logprobs)
        if not entries:
            return [Token(text=text)] if text else []
        hidden = 0 if timings is None else timings.predicted_n - self._count - len(entries)
        if hidden > self._limit:
            raise garbage(f"it counts {hidden} tokens that it did not show")
        texts = [text] if len(entries) == 1 else _share(text, [entry[0] for entry in entries])
        shown = [Token(part, *entry[1:]) for part, entry in zip(texts, entries, strict=True)]
        return [Token(text="")] * hidden + shown

    def _entries(self, logprobs: _Logprobs | None) -> list[_Shown]:
        if logprobs is None:
            return []
        if logprobs.content is not None:
            return [self._entry(entry) for entry in logprobs.content]
        return self._legacy_entries(logprobs)

    def _entry(self, entry: _Entry) -> _Shown:
        tops = entry.top_logprobs
        ids = [_text_id(top.token) if top.id is None else top.id for top in tops]
        ranked = self._ranked(ids, [top.logprob for top in tops])
        return (entry.token, _text_id(entry.token) if entry.id is None else entry.id, entry.logprob, *ranked)

    def _legacy_entries(self, logprobs: _Logprobs) -> list[_Shown]:
        tokens, chosen = logprobs.tokens or [], logprobs.token_logprobs or []
        tops = logprobs.top_logprobs or [None] * len(tokens)
        if not len(tokens) == len(chosen) == len(tops):
            raise garbage("its log-probability lists differ in length")
        shown: list[_Shown] = []
        for token, logprob, top in zip(tokens, chosen, tops, strict=True):
            ranked = self._ranked([_text_id(text) for text in top], list(top.values())) if top else ((), ())
            shown.append((token, _text_id(token), logprob, *ranked))
        return shown

    def _ranked(self, ids: list[int | None], logprobs: list[float]) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """Parallel tuples, most likely first. Without ids there is nothing to name the alternatives by."""
        if len(logprobs) > self._top + 1:  # vLLM adds the chosen token to the list
            raise garbage(f"it lists {len(logprobs)} alternatives where {self._top} were asked")
        if not all(map(isfinite, logprobs)):
            raise garbage("a log-probability is not a finite number")
        if None in ids:
            return (), ()
        ranked = tuple(logprobs)
        if ranked != tuple(sorted(ranked, reverse=True)):
            pairs = sorted(zip(logprobs, ids, strict=True), key=lambda pair: -pair[0])
            return tuple(pair[1] for pair in pairs), tuple(pair[0] for pair in pairs)  # type: ignore[misc]
        return tuple(ids), ranked  # type: ignore[arg-type]


_Shown = tuple[str, int | None, float | None, tuple[int, ...], tuple[float, ...]]
"""Token text, id, log-probability, alternatives' ids and log-probabilities."""


def _share(text: str, parts: list[str]) -> list[str]:
    """The chunk's text over its tokens: by their own texts when these add up, else all of it on the first."""
    return parts if "".join(parts) == text else [text, *[""] * (len(parts) - 1)]


def _text_id(token: str) -> int | None:
    if not token.startswith(_TEXT_ID):
        return None
    digits = token[len(_TEXT_ID) :]
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 10 and int(digits) <= 0xFFFFFFFF):
        raise garbage(f"{line(token, 40)!r} is no token id")
    return int(digits)


def _finish(reason: str) -> FinishReason:
    try:
        return FinishReason(reason)
    except ValueError as fault:
        raise garbage(f"it ends with {line(reason, 40)!r}") from fault


def _raise_fault(fault: _Fault | str) -> NoReturn:
    """An error object in the stream: the request's fault when its code is a 4xx, else the engine's."""
    message = line(fault if isinstance(fault, str) else fault.message, 300)
    code = 0 if isinstance(fault, str) or not isinstance(fault.code, int) else fault.code
    reason = Reason.ENGINE_REFUSED if 400 <= code < 500 else Reason.ENGINE_UNAVAILABLE
    raise EngineError(reason, f"the engine gave up: {message or 'no reason given'}")
