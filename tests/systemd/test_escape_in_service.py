"""The escape suite within the service: the unit's hardening and the sandbox hold together."""

from __future__ import annotations

import pytest

from tests.escape.known import KNOWN
from tests.escape.suite import Verdict, catalogue
from tests.systemd.box import Box
from tests.systemd.installed import tried_in_service

pytestmark = pytest.mark.slow


def test_nothing_is_open_in_the_service_but_what_is_known(box: Box) -> None:
    tried = tried_in_service(box)
    assert tried.keys() == catalogue().keys()
    new = {
        name: what.got
        for name, what in tried.items()
        if what.verdict is Verdict.OPEN and name not in KNOWN["bubblewrap"]
    }
    assert not new
