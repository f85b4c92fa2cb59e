"""Refusal codes and HTTP statuses."""

from __future__ import annotations

import pytest

from agent.core.refusals import STATUS_OF, code_of, retry_after_s, status_of
from agent.core.wire import RefusalCode


@pytest.mark.parametrize("code", RefusalCode)
def test_every_refusal_has_an_error_status(code: RefusalCode) -> None:
    assert 400 <= status_of(code) < 600
    assert code in STATUS_OF


@pytest.mark.parametrize("status", [200, 301, 400, 401, 403, 404, 409, 426, 418])
def test_a_bare_status_speaks_for_nobody_unless_it_is_about_load_or_size(status: int) -> None:
    assert code_of(status) is None


@pytest.mark.parametrize(("status", "code"), [(429, "busy"), (502, "busy"), (503, "busy"), (413, "too_large")])
def test_a_proxy_that_is_overloaded_or_finds_a_body_too_large_is_understood(status: int, code: str) -> None:
    assert code_of(status) == code


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("7", 7.0),
        (" 0 ", 0.0),
        ("-5", None),
        ("1.5", None),
        ("٣", None),
        ("Wed, 21 Oct 2026 07:28:00 GMT", None),
        ("999999999", 3600.0),
    ],
)
def test_retry_after_is_read_in_seconds_only_and_capped(header: str | None, seconds: float | None) -> None:
    assert retry_after_s(header) == seconds
