"""The scenario language of the fake driver."""

from __future__ import annotations

import pytest

from tests.fakes.nvml.scenario import CODES, NOT_SUPPORTED, parse


def test_a_timeline_changes_at_its_seconds() -> None:
    scenario = parse("[gpu0]\nTemperature.0 = 31; @2 55; @6 !GPU_IS_LOST\n")

    told = [scenario.answer("gpu0", "Temperature.0", now) for now in (0, 1.9, 2, 6)]

    assert [(a.rc, a.text) for a in told] == [(0, b"31"), (0, b"31"), (0, b"55"), (CODES["GPU_IS_LOST"], b"")]
    assert scenario.times() == [0, 2, 6]


def test_a_counter_grows_with_time() -> None:
    scenario = parse("[gpu0]\nTotalEnergyConsumption = 100+7/s 0x10\n")

    assert scenario.answer("gpu0", "TotalEnergyConsumption", 10).numbers(10) == [170, 16]


def test_a_template_fills_every_gpu_and_gives_way_to_its_own_keys() -> None:
    scenario = parse("[gpu*]\nName = card {i}\nSerial = 5\n[gpu0]\n[gpu1]\nSerial = 6\n")

    assert [scenario.answer(f"gpu{i}", "Name", 0).text for i in (0, 1)] == [b"card 0", b"card 1"]
    assert [scenario.answer(f"gpu{i}", "Serial", 0).text for i in (0, 1)] == [b"5", b"6"]
    assert scenario.gpus == 2


def test_a_missing_key_is_not_supported() -> None:
    assert parse("[gpu0]\n").answer("gpu0", "Name", 0).rc == NOT_SUPPORTED


@pytest.mark.parametrize("line", ["Name", "= 3", "[gpu0]\nName: x"])
def test_a_line_that_is_neither_section_nor_key_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r"line \d"):
        parse(line)


def test_a_misspelt_error_is_refused() -> None:
    with pytest.raises(KeyError, match="GPU_IS_LSOT"):
        parse("[gpu0]\nName = !GPU_IS_LSOT\n")


def test_what_the_flat_table_cannot_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="tab"):
        parse("[gpu0]\nName = a\\x09b\n").table()
