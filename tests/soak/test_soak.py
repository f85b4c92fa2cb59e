"""A bounded soak for every test run; `make soak` goes on for minutes or hours, and judges what grows."""

from __future__ import annotations

import pytest

from tests.soak import gauges
from tests.soak.report import page
from tests.soak.soak import Plan, soak


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_every_task_ends_once_nothing_is_left_behind_and_every_gauge_is_read() -> None:
    result = await soak(Plan(8.0, tasks_a_second=12.0, fault_every_s=1.5, real=False))
    assert result.faults == []
    assert sum(result.weather.values()) >= 4
    assert sum(count for counts in result.ends.values() for count in counts.values()) >= 20
    read = {(line.subject, line.gauge) for line in result.lines if line.verdict.last > 0}
    assert {gauge for subject, gauge in read if subject == "coordinator"} == set(gauges.COORDINATOR)
    own_child = {"cgroups", "processes below"}  # of an engine that the agent starts, which this part leaves out
    assert {gauge for subject, gauge in read if subject == "steady"} >= set(gauges.NODE) - own_child
    assert "| steady | memory, resident |" in page(result)
