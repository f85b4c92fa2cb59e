"""One box for all tests here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.systemd.box import Box, why_not
from tests.systemd.installed import installed_box


@pytest.fixture(scope="session")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """A booted systemd with the unit, its user and its virtual environment in place."""
    if reason := why_not():
        pytest.skip(reason)
    with installed_box(tmp_path_factory.mktemp("systemd")) as booted:
        yield booted
