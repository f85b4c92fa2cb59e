"""What every test may rely on."""

from __future__ import annotations

import signal

import hypothesis
import pytest
import structlog

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As in a job that a shell starts in the background: all that the tests start would be deaf to Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says something of the machine alone, which may be busy.
_TIMELESS = hypothesis.settings(deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.register_profile("timeless", _TIMELESS)
hypothesis.settings.load_profile("timeless")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first: at the end no process waits for another that has just begun with one."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def _logs_as_they_come() -> None:
    """Whoever sets logging up, sets it up for its own test: in one process many files run, in any order."""
    structlog.reset_defaults()
