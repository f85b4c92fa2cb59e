"""Each container engine of this machine."""

import pytest

from agent.edges.sandbox.oci.facts import EngineName
from tests.sandboxes import make_backend, require_sandbox


@pytest.fixture(params=[str(name) for name in EngineName])
def engine_name(request):
    """Skips the engines that this machine does not have."""
    require_sandbox(request.param)
    return request.param


@pytest.fixture
def containers(engine_name, tmp_path):
    """A backend; what a test leaves behind is removed."""
    made = make_backend(engine_name, tmp_path)
    yield made
    made.reap_orphans()
