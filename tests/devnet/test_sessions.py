"""Nonces and sessions, with time and chance by hand."""

from __future__ import annotations

import itertools

import pytest

from agent.core.wire import RefusalCode
from agent.devnet.core.rules import Refused
from agent.devnet.sessions import MAX_NONCES, MAX_SESSIONS_OF_A_NODE, Sessions


def sessions() -> Sessions:
    count = itertools.count(1)
    return Sessions(ttl_s=1800.0, nonce_ttl_s=60.0, chance=lambda n: next(count).to_bytes(n, "big"))


def code_of(refused: pytest.ExceptionInfo[Refused]) -> RefusalCode:
    return refused.value.code


@pytest.mark.parametrize(("age_s", "good"), [(0.0, True), (59.9, True), (60.0, False)])
def test_a_nonce_is_good_for_a_minute(age_s: float, good: bool) -> None:
    it = sessions()
    nonce = it.nonce(100.0)
    if good:
        it.use_nonce(100.0 + age_s, nonce)
    with pytest.raises(Refused):
        it.use_nonce(100.0 + age_s, nonce)


def test_a_hello_that_a_later_one_of_its_node_has_overtaken_is_refused() -> None:
    it = sessions()
    early, late, others = (it.nonce(0.0) for _ in range(3))
    it.greeted("n-1", it.use_nonce(1.0, late, "n-1"))
    with pytest.raises(Refused) as refused:
        it.use_nonce(2.0, early, "n-1")
    assert code_of(refused) is RefusalCode.REPLAYED
    it.greeted("n-2", it.use_nonce(2.0, others, "n-2"))


def test_only_the_session_that_a_node_opened_last_speaks_for_it() -> None:
    it = sessions()
    _, before = it.open(0.0, "n-1")
    assert it.newest(before)
    _, after = it.open(1.0, "n-1")
    it.open(2.0, "n-2")
    assert (it.newest(before), it.newest(after)) == (False, True)


def test_asking_for_nonces_without_end_takes_no_memory_without_end() -> None:
    it = sessions()
    first = it.nonce(0.0)
    last = [it.nonce(0.0) for _ in range(MAX_NONCES)][-1]
    it.use_nonce(0.0, last)
    with pytest.raises(Refused):
        it.use_nonce(0.0, first)


def test_a_session_expires_after_half_an_hour() -> None:
    it = sessions()
    token, session = it.open(0.0, "n-1")
    assert it.find(1799.0, token) is session
    with pytest.raises(Refused) as refused:
        it.find(1800.0, token)
    assert code_of(refused) is RefusalCode.SESSION_EXPIRED


def test_the_oldest_session_of_a_node_makes_room_and_no_other_node_s() -> None:
    it = sessions()
    other, _ = it.open(0.0, "n-2")
    tokens = [it.open(0.0, "n-1")[0] for _ in range(MAX_SESSIONS_OF_A_NODE + 1)]
    with pytest.raises(Refused):
        it.find(1.0, tokens[0])
    for token in (*tokens[1:], other):
        it.find(1.0, token)
