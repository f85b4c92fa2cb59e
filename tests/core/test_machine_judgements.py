"""`gpu-agent doctor` about the machine's memory, and about who is at it."""

from __future__ import annotations

import pytest

from agent.core.doctor import Severity
from agent.core.machine_judgements import engine_memory, presence
from agent.core.model_memory import Need

GIB = 1 << 30
NEED = Need(weights_bytes=4 * GIB, kv_bytes=GIB, buffers_bytes=GIB, slots=2, context_tokens=4096, gpus=0)
OK, WARN = Severity.OK, Severity.WARN


@pytest.mark.parametrize(
    ("pools", "available", "held", "limit", "each", "severity"),
    [
        (1, 8, 0, None, None, OK),
        (1, 5, 0, None, None, WARN),
        (1, 1, 5, None, None, OK),  # it runs already
        (2, 8, 0, None, None, WARN),  # together they are too much
        (1, 8, 0, 5, None, WARN),
        (1, 8, 0, 6, 6, OK),
        (1, 8, 0, None, 5, WARN),
    ],
)
def test_engines_on_the_processor_must_fit_into_what_is_free(pools, available, held, limit, each, severity) -> None:
    (found,) = engine_memory(
        {f"p{number}": NEED for number in range(pools)},
        available_bytes=available * GIB,
        held_bytes=held * GIB,
        limit_bytes=limit and limit * GIB,
        engine_bytes=each and each * GIB,
    )
    assert found.severity is severity
    assert ("p0 needs 6.0 GiB (weights 4.0, KV 1.0 for 2 × 4,096 tokens" in found.actual) is (severity is WARN)


def test_without_engines_on_the_processor_there_is_nothing_to_judge() -> None:
    assert engine_memory({}, available_bytes=0, held_bytes=0, limit_bytes=None, engine_bytes=None) == []


def test_an_owner_whose_presence_cannot_be_told_gets_no_work_and_hears_why() -> None:
    assert (presence("", 0.0).severity, presence("", 0.0).actual) == (OK, "somebody is at the machine now")
    assert (presence("no bus", None).severity, presence("no bus", None).actual) == (WARN, "no bus")
