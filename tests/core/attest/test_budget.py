"""Whatever a coordinator asks, challenges have a bounded share of a device's time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.core.attest.budget import APART_S, LEAST_S, MOST_S, WINDOW_S, Budget, Hold

GPU = ("GPU-1",)


def spent(*holds: tuple[str, float, float]) -> Budget:
    budget = Budget()
    for challenge, begun, ended in holds:
        budget.spend(GPU, Hold(challenge, begun, ended))
    return budget


def test_the_first_challenge_may_begin() -> None:
    assert Budget().refusal("m-1", GPU, 0.0) == ""
    assert Budget().left_s(GPU, 0.0) == MOST_S


def test_the_next_one_waits_ten_minutes_from_the_beginning_of_the_one_before() -> None:
    budget = spent(("m-1", 100.0, 160.0))
    told = "not now: GPU-1 was challenged 9 min 59 s ago; once in 10 min 0 s is enough"
    assert budget.refusal("m-2", GPU, 100.0 + APART_S - 1) == told
    assert budget.refusal("m-2", GPU, 100.0 + APART_S) == ""


def test_the_same_one_may_be_taken_up_again_when_a_line_broke() -> None:
    assert spent(("m-1", 100.0, 160.0)).refusal("m-1", GPU, 170.0) == ""


def test_another_device_is_not_to_blame_but_one_that_is_used_up_keeps_all_that_are_asked_with_it() -> None:
    budget = spent(("m-1", 0.0, 400.0))
    assert budget.refusal("m-2", ("GPU-2",), 1000.0) == ""
    told = "not now: challenges had GPU-1 for 6 min 40 s lately; they may have it for 10 min 0 s of 1 h 0 min"
    assert budget.refusal("m-2", ("GPU-2", "GPU-1"), 1000.0) == told
    assert budget.left_s(("GPU-2", "GPU-1"), 1000.0) == MOST_S - 400.0


def test_what_was_spent_an_hour_ago_is_forgotten_second_by_second() -> None:
    budget = spent(("m-1", 0.0, 400.0))
    assert budget.refusal("m-2", GPU, WINDOW_S + 99.0) != ""
    assert budget.refusal("m-2", GPU, WINDOW_S + 100.0) == ""
    assert budget.left_s(GPU, WINDOW_S + 400.0) == MOST_S


@given(st.lists(st.tuples(st.floats(0, 2000), st.floats(0, 1000), st.booleans()), max_size=20))
def test_in_no_hour_has_a_device_been_held_for_longer_than_the_share(
    asked: list[tuple[float, float, bool]],
) -> None:
    """Later by so much, a challenge is drawn out for so long, under a new name or the same."""
    budget, now, number, holds = Budget(), 0.0, 0, list[Hold]()
    for later_s, wanted_s, renamed in asked:
        now, number = now + later_s, number + renamed
        if not budget.refusal(str(number), GPU, now):
            assert budget.left_s(GPU, now) >= LEAST_S
            holds.append(Hold(str(number), now, now + min(wanted_s, budget.left_s(GPU, now))))
            budget.spend(GPU, holds[-1])
            now = holds[-1].ended
    for end in (hold.ended for hold in holds):
        inside = (max(0.0, min(it.ended, end) - max(it.begun, end - WINDOW_S)) for it in holds)
        assert sum(inside) <= MOST_S + 0.001
