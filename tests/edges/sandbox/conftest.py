"""A real sandbox backend, and a directory that a sandbox and its test share."""

import os

import pytest

from tests.sandboxes import BACKENDS, make_backend, require_sandbox


@pytest.fixture(scope="session")
def sandboxes():
    """Skips where none can be made."""
    require_sandbox()


@pytest.fixture(params=BACKENDS)
def sandbox(request, tmp_path):
    """Each backend; skips those that this machine does not have."""
    require_sandbox(request.param)
    return make_backend(request.param, tmp_path)


@pytest.fixture
def shared(tmp_path):
    """A socket directory with a fifo `up`: reading it waits until the program has written and all writers are gone."""
    directory = tmp_path / "shared"
    directory.mkdir()
    os.mkfifo(directory / "up")
    (directory / "up").chmod(0o666)
    return directory
