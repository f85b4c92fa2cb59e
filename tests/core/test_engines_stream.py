"""Answers of engines: whatever bytes come, they become tokens or one classified error."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core import engine_replies
from agent.core.engine_stream import Answer, SseReader, Token
from agent.core.engines import PROFILES
from agent.core.errors import EngineError
from agent.core.model import FinishReason, Reason, Usage


def entry(token: str, logprob: float, top: list[tuple[int, float]], id: int | None = 5) -> dict[str, Any]:
    tops = [{"id": number, "token": "x", "bytes": [120], "logprob": value} for number, value in top]
    return {"id": id, "token": token, "bytes": [1], "logprob": logprob, "top_logprobs": tops}


def chunk(text: str, *entries: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    if entries:
        choice["logprobs"] = {"content": list(entries)}
    return json.dumps({"choices": [choice], **more}).encode()


def usage(prompt: int, completion: int) -> bytes:
    return json.dumps({"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": completion}}).encode()


def follow(*payloads: bytes, top: int = 2, max_tokens: int = 10) -> tuple[list[Token], FinishReason, Usage]:
    answer = Answer(top_logprobs=top, max_tokens=max_tokens)
    tokens = [token for payload in payloads for token in answer.feed(payload)]
    return tokens, *answer.end()


def test_a_chat_becomes_tokens_with_ids_and_log_probabilities() -> None:
    tokens, finish, used = follow(
        chunk("Hi", entry("Hi", -0.5, [(5, -0.5), (6, -1.5)])), chunk("", finish="stop"), usage(3, 2), b"[DONE]"
    )
    assert tokens == [Token("Hi", 5, -0.5, (5, 6), (-0.5, -1.5))]
    assert finish is FinishReason.STOP
    assert used == Usage(prompt_tokens=3, completion_tokens=2)


def test_alternatives_are_ranked_most_likely_first() -> None:
    tokens, *_ = follow(chunk("a", entry("a", -3.0, [(9, -3.0), (1, -0.1)]), finish="stop"), usage(1, 1))
    assert (tokens[0].top_ids, tokens[0].top_logprobs) == ((1, 9), (-0.1, -3.0))


def test_tokens_of_one_chunk_share_its_text() -> None:
    both = (entry("a", -1.0, []), entry("b", -1.0, []))
    tokens, *_ = follow(chunk("ab", *both, finish="stop"), usage(1, 2))
    assert [token.text for token in tokens] == ["a", "b"]
    tokens, *_ = follow(chunk("ä", *both, finish="stop"), usage(1, 2))
    assert [token.text for token in tokens] == ["ä", ""]


def test_a_token_that_the_engine_withheld_takes_its_place_without_an_id() -> None:
    second = chunk("é", entry("é", -1.0, []), finish="length", timings={"predicted_n": 2})
    tokens, *_ = follow(second, usage(1, 2))
    assert [(token.text, token.id) for token in tokens] == [("", None), ("é", 5)]


def test_token_ids_written_as_text_are_read() -> None:
    lists = {
        "tokens": ["token_id:7"],
        "token_logprobs": [-1.0],
        "top_logprobs": [{"token_id:7": -1.0, "token_id:8": -0.5}],
    }
    payload = {"choices": [{"text": "x", "finish_reason": "stop", "logprobs": lists}]}
    tokens, *_ = follow(json.dumps(payload).encode(), usage(1, 1))
    assert tokens == [Token("x", 7, -1.0, (8, 7), (-0.5, -1.0))]


def test_without_ids_the_alternatives_are_left_out() -> None:
    named = {"token": "x", "logprob": -1.0, "top_logprobs": [{"token": "x", "logprob": -1.0}]}
    tokens, *_ = follow(chunk("x", named, finish="stop"), usage(1, 1))
    assert tokens == [Token("x", None, -1.0)]


GARBAGE = {
    "no JSON": [b"{oops"],
    "a list": [b"[]"],
    "invalid UTF-8": [b'{"choices":[{"delta":{"content":"\xff\xfe"}}]}'],
    "NaN": [chunk("a", entry("a", math.nan, []))],
    "infinity": [chunk("a", entry("a", -math.inf, []))],
    "a number beyond double": [chunk("a", entry("a", -1.0, [])).replace(b"-1.0", b"-1e999")],
    "a certain token is at most certain": [chunk("a", entry("a", 0.5, []))],
    "null log-probability": [chunk("a", entry("a", -1.0, [])).replace(b"-1.0", b"null")],
    "negative id": [chunk("a", entry("a", -1.0, [(-1, -1.0)]))],
    "id beyond u32": [chunk("a", entry("a", -1.0, [(1 << 32, -1.0)]))],
    "more alternatives than asked": [chunk("a", entry("a", -1.0, [(1, -1.0)] * 4))],
    "a token id that is none": [chunk("a", {"token": "token_id:-5", "logprob": -1.0}, finish="stop")],
    "lists of different lengths": [
        b'{"choices":[{"text":"a","logprobs":{"tokens":["a","b"],"token_logprobs":[-1.0]}}]}'
    ],
    "more tokens than allowed": [chunk("a")] * 11,
    "withheld tokens beyond the limit": [chunk("a", entry("a", -1.0, []), timings={"predicted_n": 99})],
    "no finish reason": [chunk("a"), usage(1, 1)],
    "no usage": [chunk("a", finish="stop")],
    "negative usage": [chunk("a", finish="stop"), usage(-1, 1)],
    "absurd usage": [chunk("a", finish="stop"), usage(1 << 40, 1)],
    "usage beyond the limit": [chunk("a", finish="stop"), usage(1, 11)],
    "usage below what was shown": [
        chunk("a", entry("a", -1.0, [])),
        chunk("b", entry("b", -1.0, []), finish="stop"),
        usage(1, 1),
    ],
    "an unknown finish reason": [chunk("a", finish="abort"), usage(1, 1)],
    "more after the end": [chunk("a", finish="stop"), usage(1, 1), b"[DONE]", chunk("a")],
}


@pytest.mark.parametrize("payloads", GARBAGE.values(), ids=GARBAGE.keys())
def test_garbage_is_refused_in_plain_words(payloads: list[bytes]) -> None:
    with pytest.raises(EngineError) as refused:
        follow(*payloads)
    assert refused.value.reason is Reason.ENGINE_GARBAGE
    assert refused.value.message.startswith("the engine's answer is unusable: ")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ({"message": "too long", "code": 400}, Reason.ENGINE_REFUSED),
        ({"message": "boom", "code": 500}, Reason.ENGINE_UNAVAILABLE),
        ({"message": "boom", "code": "server_error"}, Reason.ENGINE_UNAVAILABLE),
        ("boom", Reason.ENGINE_UNAVAILABLE),
    ],
)
def test_an_error_in_the_stream_is_told_apart(error: object, reason: Reason) -> None:
    with pytest.raises(EngineError) as refused:
        follow(json.dumps({"error": error}).encode())
    assert refused.value.reason is reason


STREAM = b": ping\n\ndata: one\r\nevent: x\ndata:two\n\ndata: [DONE]\n\n"


@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_events_do_not_depend_on_how_the_bytes_were_cut(cuts: list[int]) -> None:
    reader = SseReader(max_line_bytes=100, max_total_bytes=1000)
    edges = [0, *sorted(cuts), len(STREAM)]
    parts = [STREAM[start:stop] for start, stop in itertools.pairwise(edges)]
    assert [payload for part in parts for payload in reader.feed(part)] == [b"one", b"two", b"[DONE]"]
    assert reader.close() == []


def test_a_last_line_without_newline_still_counts() -> None:
    reader = SseReader(max_line_bytes=100, max_total_bytes=1000)
    assert reader.feed(b"data: x") == []
    assert reader.close() == [b"x"]


@pytest.mark.parametrize("flood", [b"x" * 101, b"data: x\n" * 200])
def test_a_giant_line_and_an_endless_stream_are_cut_off(flood: bytes) -> None:
    reader = SseReader(max_line_bytes=100, max_total_bytes=1000)
    with pytest.raises(EngineError) as refused:
        reader.feed(flood)
    assert refused.value.reason is Reason.ENGINE_GARBAGE


@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.floats() | st.text(), st.lists).map(lambda v: json.dumps(v).encode())
)
def test_no_bytes_at_all_raise_anything_but_an_engine_error(payload: bytes) -> None:
    for read in (
        lambda: follow(payload),
        lambda: engine_replies.embeddings(payload, 1),
        lambda: engine_replies.served_models(payload),
        lambda: engine_replies.token_ids(payload),
    ):
        with pytest.raises(EngineError):
            read()
    assert isinstance(engine_replies.error_words(payload), str)
    assert isinstance(engine_replies.version(PROFILES["vllm"], payload), str)


def rows(*embeddings: tuple[int, list[float]], tokens: int = 3) -> bytes:
    data = [{"index": index, "embedding": row} for index, row in embeddings]
    return json.dumps({"data": data, "usage": {"prompt_tokens": tokens}}).encode()


def test_embeddings_come_back_in_the_order_of_their_texts() -> None:
    assert engine_replies.embeddings(rows((1, [2.0]), (0, [1.0])), 2) == (
        ((1.0,), (2.0,)),
        Usage(prompt_tokens=3),
    )


@pytest.mark.parametrize(
    "body",
    [
        rows((0, [1.0])),
        rows((0, [1.0]), (0, [1.0])),
        rows((0, [1.0]), (5, [1.0])),
        rows((0, [1.0]), (1, [1.0, 2.0])),
        rows((0, []), (1, [])),
        rows((0, [1.0]), (1, [math.nan])),
        rows((0, [1.0]), (1, [1.0]), tokens=-1),
        b"",
    ],
)
def test_embeddings_that_do_not_fit_are_refused(body: bytes) -> None:
    with pytest.raises(EngineError) as refused:
        engine_replies.embeddings(body, 2)
    assert refused.value.reason is Reason.ENGINE_GARBAGE


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"error":{"message":"too long","code":400}}', "too long"),
        (b'{"error":"no such model"}', "no such model"),
        (b'{"message":"gone"}', "gone"),
        (b"<html>\x1b[31mbad gateway", "<html>bad gateway"),
    ],
)
def test_error_bodies_of_every_form_are_read(body: bytes, words: str) -> None:
    assert engine_replies.error_words(body) == words
