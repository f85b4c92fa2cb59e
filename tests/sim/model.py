"""A made-up model: what comes next follows from what came before, and every machine computes nearly the same."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from functools import lru_cache

from agent.core.checks.claims import Position
from agent.core.checks.verdict import Thresholds
from agent.core.errors import EngineError
from agent.core.model import ChatInput, CompletionInput, Reason
from agent.ports import Embedded
from tests.edges.verifier.vllm import MOST, VOCABULARY, logprobs, spelled

TOP = MOST
LIMITS = Thresholds(version="sim")
ENGINE = "vllm 0.11"
SEVERAL, EXACT = "F-0123456789abcdef", "X-0123456789abcdef"
"""Classes of machines with several slots, and with one."""

__all__ = ["ENGINE", "EXACT", "LIMITS", "SEVERAL", "TOP", "SimReplayer", "noise_of", "prompt_of", "said", "spelled"]


def noise_of(node: int, determinism: str) -> float:
    """Machines of the exact class compute the same to the bit, all others figures of their own."""
    return 0.0005 if determinism == EXACT else 0.001 * (node + 1)


def prompt_of(given: ChatInput | CompletionInput) -> tuple[int, ...]:
    """Token ids."""
    assert isinstance(given, ChatInput)
    return (1, *(ord(one) % VOCABULARY for one in given.messages[0].content))


@lru_cache(maxsize=4096)
def said(before: tuple[int, ...], noise: float, top: int) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """The likeliest tokens after `before`, and their log-probabilities."""
    known = logprobs(before, noise=noise)
    listed = tuple(sorted(range(VOCABULARY), key=lambda one: -known[one])[:top])
    return listed, tuple(known[one] for one in listed)


class SimReplayer:
    """Implements ports.Replayer. `dead`: raises when the engine died since."""

    def __init__(self, noise: float, chance: random.Random, dead: Callable[[], bool]) -> None:
        self._noise, self._chance, self._dead = noise, chance, dead

    async def prompt_ids(self, given: ChatInput | CompletionInput) -> tuple[int, ...]:
        await self._work(0.1)
        return prompt_of(given)

    async def replay(self, prefix: Sequence[int], ids: Sequence[int], top: int) -> tuple[Position, ...]:
        before, own = tuple(prefix), []
        for token in ids:
            if token >= VOCABULARY:
                raise EngineError(Reason.ENGINE_UNAVAILABLE, "no such token")
            own.append(Position(token, *said(before, self._noise, top)))
            before = (*before, token)
        await self._work(4.0)
        return tuple(own)

    async def in_one_go(self, ids: Sequence[int]) -> int:
        return len(ids)

    async def text(self, ids: Sequence[int]) -> str:
        return spelled(ids)

    async def ends(self, token: int) -> bool:
        return False

    async def rows(self, texts: tuple[str, ...]) -> Embedded:
        raise AssertionError("no embeddings here")

    async def _work(self, longest_s: float) -> None:
        await asyncio.sleep(longest_s * self._chance.random())
        if self._dead():
            raise EngineError(Reason.ENGINE_CRASHED, "the engine died: Segmentation fault")
