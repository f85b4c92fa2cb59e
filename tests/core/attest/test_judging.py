"""How much is asked, how long it may take, and what the verdict is."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from agent.core.attest.cards import UNKNOWN, card_named
from agent.core.attest.judging import Claim, Times, judged
from agent.core.attest.messages import CPU, Standing, Work
from agent.core.attest.sizing import (
    CPU_COLUMNS,
    GPU_COLUMNS,
    GPU_LAYERS,
    LEAST_S,
    MOST_S,
    columns_for,
    commit_limit_s,
    drawn,
    memory_shown_bytes,
    operations,
    reread_limit_s,
    seconds_at,
    work_for,
)
from agent.core.attest.tree import READINGS
from agent.edges.gpu.models import card_table

GIB = 1 << 30
H200 = card_named("NVIDIA H200", card_table())
T4 = card_named("Tesla T4", card_table())
CPU_TOPS = 2.0
"""Of 64 cores with vector units, generously."""
LATENCY_S = 0.6


def verdict(times: Times, card=H200, fault: str = "", work: Work | None = None):
    work = work or work_for("GPU-1", card, 130 * GIB, GPU_COLUMNS)
    faults = {"GPU-1": fault} if fault else {}
    claims = {work.device: Claim("NVIDIA H200", card)}
    (found,) = judged((work,), GPU_COLUMNS, claims, times, faults, LATENCY_S, 1_700_000_000)
    return found


@pytest.mark.parametrize("card", [card for card in card_table() if card.int8_tops > 100], ids=lambda card: card.name)
def test_what_a_card_does_in_seconds_takes_a_processor_minutes(card) -> None:
    for free_bytes in (0, 4 * GIB, int(card.memory_gib[0] * GIB)):
        work = work_for("GPU-1", card, free_bytes, GPU_COLUMNS)

        assert 0.9 * LEAST_S < seconds_at(card, work, GPU_COLUMNS) < 1.5 * MOST_S + LEAST_S
        assert operations(work, GPU_COLUMNS) / (CPU_TOPS * 1e12) > 60
        assert operations(work, GPU_COLUMNS) / (CPU_TOPS * 1e12) > 3 * commit_limit_s(card, work, GPU_COLUMNS, 0.6)


def test_all_that_is_free_is_filled() -> None:
    work = work_for("GPU-1", H200, 130 * GIB, GPU_COLUMNS)

    assert work.kept * GPU_COLUMNS > 129 * GIB
    assert work.rows == work.kept
    assert 1 <= work.layers <= GPU_LAYERS


def test_a_card_whose_memory_is_taken_still_has_to_compute() -> None:
    work = work_for("GPU-1", H200, 0, GPU_COLUMNS)

    assert work.kept == 0
    assert seconds_at(H200, work, GPU_COLUMNS) > 0.9 * LEAST_S


def test_a_processor_is_asked_for_little_and_claims_nothing() -> None:
    work = work_for(CPU, UNKNOWN, 8 * GIB, columns_for((CPU,)))
    (found,) = judged((work,), CPU_COLUMNS, {CPU: Claim("EPYC", UNKNOWN)}, Times(0.9, 0.9), {}, LATENCY_S, 1)

    assert operations(work, CPU_COLUMNS) < 3e9
    assert (found.standing, found.memory_bytes) == (Standing.CPU, 0)
    assert found.gops > 0


def test_a_card_in_time_is_attested_with_its_figures() -> None:
    found = verdict(Times(6.0, 0.3))

    assert found.standing is Standing.ATTESTED
    assert found.gops > 1_000_000
    assert 60 * GIB < found.memory_bytes < 130 * GIB


@pytest.mark.parametrize("times", [Times(60.0, 0.3), Times(6.0, 12.0)])
def test_late_in_either_part_is_too_slow(times: Times) -> None:
    found = verdict(times)

    assert found.standing is Standing.TOO_SLOW
    assert "are allowed" in found.detail
    assert found.memory_bytes == 0


def test_a_wrong_row_outweighs_all_speed() -> None:
    found = verdict(Times(0.1, 0.1), fault="row 7 is not the product")

    assert (found.standing, found.detail, found.gops) == (Standing.WRONG, "row 7 is not the product", 0)


def test_a_model_that_nobody_knows_is_attested_with_that_word() -> None:
    work = work_for("GPU-1", UNKNOWN, 4 * GIB, GPU_COLUMNS)

    assert "not in the table" in verdict(Times(1.0, 0.2), UNKNOWN, work=work).detail


def test_half_an_h200s_speed_is_enough_and_an_a100_is_not() -> None:
    a100 = card_named("NVIDIA A100-SXM4-80GB", card_table())
    work = work_for("GPU-1", H200, 130 * GIB, GPU_COLUMNS)
    half_s = operations(work, GPU_COLUMNS) / (H200.int8_tops / 2 * 1e12)
    library_s = operations(work, GPU_COLUMNS) / (a100.int8_tops / 2 * 1e12)

    assert verdict(Times(half_s, 0.3)).standing is Standing.ATTESTED
    assert verdict(Times(library_s, 0.3)).standing is Standing.TOO_SLOW


def test_memory_that_could_be_had_otherwise_in_that_time_does_not_count() -> None:
    work = work_for("GPU-1", H200, 130 * GIB, GPU_COLUMNS)
    at_once, late = (memory_shown_bytes(H200, work, GPU_COLUMNS, READINGS * it) for it in (0.0, 1.0))

    assert at_once == work.kept * GPU_COLUMNS
    assert late < at_once - 64e9
    assert memory_shown_bytes(H200, work, GPU_COLUMNS, READINGS * 10.0) == 0


def test_a_small_card_can_show_some_of_its_memory_over_a_network() -> None:
    card = card_named("NVIDIA GeForce RTX 4090", card_table())
    work = work_for("GPU-1", card, 20 * GIB, GPU_COLUMNS)

    assert memory_shown_bytes(card, work, GPU_COLUMNS, 0.5) > 10 * GIB


def test_reading_again_may_take_far_less_than_computing_again() -> None:
    for card in (H200, T4):
        work = work_for("GPU-1", card, int(card.memory_gib[0] * GIB * 0.9), GPU_COLUMNS)

        anew_s = READINGS * seconds_at(card, work, GPU_COLUMNS)
        assert reread_limit_s(card, work, GPU_COLUMNS, 0.0) < anew_s * 2 / 3


def test_rows_are_drawn_by_chance_alone_and_half_of_them_from_what_was_kept() -> None:
    work = Work(device="GPU-1", rows=1_000_000, kept=1000)
    rows = drawn("00" * 32, work, 1)

    assert rows == drawn("00" * 32, work, 1)
    assert rows != drawn("01" * 32, work, 1)
    assert rows != drawn("00" * 32, replace(work, device="GPU-2"), 1)
    assert all(0 <= row < work.rows for row in rows)
    assert sum(row >= 999_000 for row in rows) >= 30
    assert len(drawn("00" * 32, work, 8)) == 8
