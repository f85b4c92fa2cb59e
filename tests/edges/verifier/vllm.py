"""A server that answers as vLLM does where a replay asks it: same fields, same limits, same refusals.

Its model is made up: log-probabilities follow from a hash of the tokens before, so that equal questions get equal
answers. Fields as in vLLM's `protocol.py` (CompletionRequest, TokenizeChatRequest, DetokenizeRequest).
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence
from typing import Any

from aiohttp import web

VOCABULARY, END, MOST = 64, 2, 20
_TAKEN = {"model", "prompt", "max_tokens", "temperature", "prompt_logprobs", "logit_bias"}


def logprobs(before: Sequence[int], *, noise: float = 0.0) -> list[float]:
    """Of every token after `before`; `noise` makes it another engine with nearly the same figures."""
    chance = random.Random(hashlib.sha256(bytes(before)).digest())
    logits = [chance.gauss(0.0, 3.0) for _ in range(VOCABULARY)]
    logits = [one + chance.gauss(0.0, 1.0) * noise for one in logits]
    logits[END] = -20.0  # it never comes by itself
    whole = math.log(sum(map(math.exp, logits)))
    return [one - whole for one in logits]


def spelled(ids: Sequence[int]) -> str:
    return "".join("" if one == END else chr(ord("0") + one) for one in ids)


class Vllm:
    """Handlers for an aiohttp application."""

    def __init__(self, *, noise: float = 0.0) -> None:
        self.noise = noise
        self.seen: list[tuple[str, Any]] = []

    def application(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/tokenize", self._tokenize)
        app.router.add_post("/detokenize", self._detokenize)
        app.router.add_post("/v1/completions", self._completions)
        return app

    async def _body(self, request: web.Request) -> Any:
        body = await request.json()
        self.seen.append((request.path, body))
        return body

    async def _tokenize(self, request: web.Request) -> web.Response:
        body = await self._body(request)
        if "messages" in body:
            assert body["add_generation_prompt"] is True
            prompt = "".join(f"{one['role']}:{one['content']};" for one in body["messages"])
        else:
            assert body["add_special_tokens"] is True
            prompt = body["prompt"]
        ids = [1, *(ord(one) % VOCABULARY for one in prompt)]
        return web.json_response({"count": len(ids), "max_model_len": 4096, "tokens": ids, "token_strs": None})

    async def _detokenize(self, request: web.Request) -> web.Response:
        return web.json_response({"prompt": spelled((await self._body(request))["tokens"])})

    async def _completions(self, request: web.Request) -> web.Response:
        body = await self._body(request)
        if unknown := set(body) - _TAKEN:
            return _refusal(f"unknown fields {unknown}")
        if body.get("prompt_logprobs", 0) > MOST:
            asked = body["prompt_logprobs"]
            return _refusal(f"Requested prompt logprobs of {asked}, which is greater than max allowed: {MOST}")
        choice: dict[str, Any] = {"index": 0, "text": "x", "logprobs": None, "finish_reason": "length"}
        if [int(one) for one in body.get("logit_bias", {})] == [END]:
            choice |= {"text": "", "finish_reason": "stop"}
        choice |= {"stop_reason": None, "prompt_logprobs": self._told(body)}
        return web.json_response({"id": "cmpl-1", "object": "text_completion", "model": "m", "choices": [choice]})

    def _told(self, body: Any) -> list[dict[str, Any] | None] | None:
        if "prompt_logprobs" not in body:
            return None
        ids, top = body["prompt"], body["prompt_logprobs"]
        return [None, *(self._entry(ids[:at], ids[at], top) for at in range(1, len(ids)))]

    def _entry(self, before: Sequence[int], token: int, top: int) -> dict[str, Any]:
        """The token itself comes first, wherever it ranks; then the likeliest."""
        known = logprobs(before, noise=self.noise)
        ranked = sorted(range(VOCABULARY), key=lambda one: -known[one])
        return {
            str(one): {"logprob": known[one], "rank": ranked.index(one) + 1, "decoded_token": spelled([one])}
            for one in dict.fromkeys([token, *ranked[:top]])
        }


def _refusal(message: str) -> web.Response:
    error = {"message": message, "type": "BadRequestError", "param": None, "code": 400}
    return web.json_response({"error": error}, status=400)
