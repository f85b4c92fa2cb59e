"""What every test may rely on."""

from __future__ import annotations

import pytest
import structlog


@pytest.fixture(autouse=True)
def _logs_as_they_come() -> None:
    """Whoever sets logging up, sets it up for its own test: in one process many files run, in any order."""
    structlog.reset_defaults()
