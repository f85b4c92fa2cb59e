"""How much is done: a bounded part in every test run, all of it by `make chaos`."""

from __future__ import annotations

import os

import pytest

SECONDS = float(os.environ.get("CHAOS_SECONDS", "8"))
COURT_SECONDS = float(os.environ.get("CHAOS_SECONDS", "3"))
SEED = int(os.environ.get("CHAOS_SEED", "1"))
THOROUGH = "CHAOS_SECONDS" in os.environ
thorough = pytest.mark.skipif(not THOROUGH, reason="runs with `make chaos`")
