"""Withheld tokens are drawn again from one's own candidates, and only what is certain is believed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import islice

from agent.core.checks.claims import Position, Sampler
from agent.core.checks.draw import uniforms
from agent.core.model import ChatInput, CompletionInput
from agent.ports import Embedded
from agent.stages.refill import refilled

GREEDY = Sampler(seed=3, temperature=0.0, top_k=40, top_p=0.95, min_p=0.0, min_keep=2)
PIECES = {1: "a", 2: "\ufffd", 3: "\ufffd", 4: "b"}


class Bytes:
    """A replayer of a model whose tokens 2 and 3 are the halves of one character; it always likes `likes` best,
    and `then` next."""

    def __init__(self, likes: int = 2, lead: float = 3.0, then: int = 1) -> None:
        self.likes, self.next, self.lead = likes, then, lead
        self.asked: list[list[int]] = []

    async def prompt_ids(self, given: ChatInput | CompletionInput) -> tuple[int, ...]:
        raise NotImplementedError

    async def replay(self, prefix: Sequence[int], ids: Sequence[int], top: int) -> tuple[Position, ...]:
        self.asked.append(list(prefix))
        return (Position(ids[0], (self.likes, self.next), (-0.05, -0.05 - self.lead)),)

    async def in_one_go(self, ids: Sequence[int]) -> int:
        return len(ids)

    async def text(self, ids: Sequence[int]) -> str:
        return "".join(PIECES[one] for one in ids).replace("\ufffd\ufffd", "é")

    async def ends(self, token: int) -> bool:
        return False

    async def rows(self, texts: tuple[str, ...]) -> Embedded:
        raise NotImplementedError


CLAIMED = (Position(1, (1,), (0.0,)), Position(None), Position(3, (3,), (0.0,)), Position(4, (4,), (0.0,)))


async def test_a_certain_token_that_completes_the_character_is_filled_in():
    model = Bytes()
    found = await refilled(CLAIMED, (9,), model, GREEDY, 2)
    assert [one.token for one in found] == [1, 2, 3, 4]
    assert found[1].ids == ()  # nothing to compare there
    assert model.asked == [[9, 1]]


async def test_of_doubtful_tokens_only_a_part_of_a_character_can_have_been_withheld():
    found = await refilled(CLAIMED, (9,), Bytes(lead=0.1), GREEDY, 2)
    assert [one.token for one in found] == [1, 2, 3, 4]
    found = await refilled(CLAIMED, (9,), Bytes(likes=1, lead=0.1, then=2), GREEDY, 2)
    assert [one.token for one in found] == [1, 2, 3, 4]


async def test_of_two_parts_of_characters_neither_is_certain():
    found = await refilled(CLAIMED, (9,), Bytes(lead=0.1, then=3), GREEDY, 2)
    assert [one.token for one in found] == [1, None, 3, 4]


async def test_a_likely_part_that_completes_no_character_stays_unknown_when_it_may_have_been_another():
    claimed = (*CLAIMED[:2], CLAIMED[3])
    found = await refilled(claimed, (9,), Bytes(lead=0.4, then=3), GREEDY, 2)
    assert [one.token for one in found] == [1, None, 4]


async def test_behind_a_part_that_was_withheld_a_letter_may_be_too():
    """Of bytes that make no character an engine shows none before as many came as the first one promised."""
    claimed = (*CLAIMED[:2], *CLAIMED[1:])
    found = await refilled(claimed, (9,), Bytes(lead=0.1), GREEDY, 2)
    assert [one.token for one in found] == [1, 2, None, 3, 4]
    found = await refilled(claimed[:3], (9,), Bytes(), GREEDY, 2)
    assert [one.token for one in found] == [1, 2, 2]  # nothing else can be drawn


async def test_where_no_part_of_a_character_could_be_drawn_nobody_can_hide():
    found = await refilled(CLAIMED, (9,), Bytes(likes=4), GREEDY, 2)
    assert [one.token for one in found] == [1, 4, 3, 4]
    found = await refilled(CLAIMED, (9,), Bytes(likes=4, lead=0.1), GREEDY, 2)
    assert [one.token for one in found] == [1, 4, 3, 4]


async def test_a_sampled_token_is_the_one_that_its_own_number_draws():
    number = next(islice(uniforms(3), 1, None))
    sampler = GREEDY._replace(temperature=1.0, top_k=2, top_p=1.0)
    model = Bytes(lead=-math.log(math.exp(0.05) - 1) - 0.05)  # probabilities that add up to one
    found = await refilled(CLAIMED, (9,), model, sampler, 2)
    assert (found[1].token == 2) == (number < math.exp(-0.05) - 0.03)
