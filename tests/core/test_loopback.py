"""The one rule for where plain text may be spoken or served."""

from __future__ import annotations

import pytest

from agent.core.loopback import is_loopback


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1", "127.8.9.10", "::1"])
def test_loopback_is_known_by_its_letters(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["", "0.0.0.0", "10.0.0.1", "::", "localhost.example", "127.0.0.1.example", "127.1 "])
def test_nothing_else_is_loopback(host: str) -> None:
    assert not is_loopback(host)
