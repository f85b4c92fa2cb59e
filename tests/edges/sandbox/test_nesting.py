"""Sandboxes of a root that is itself in a container."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S
from tests.sandboxes import require_root

REPOSITORY = Path(__file__).parents[3]
CONTAINER = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
PROGRAM = """
import asyncio, json, pathlib, subprocess, sys
import psutil
from agent.edges.sandbox.bubblewrap import Bubblewrap
from tests.sandboxes import run

async def main(directory):
    for _ in range(20):
        subprocess.run(["true"], check=True)  # the low numbers are used up: a process of the sandbox has none of ours
    backend = Bubblewrap(directory)
    facts = await backend.probe()
    end, stderr = await run(backend, "cat /opt/file >&2; exit 7", ro_mounts=((directory / "file", "/opt/file"),))
    left = [child.name() for child in psutil.Process().children(recursive=True)]
    print(json.dumps([facts.usable, facts.detail, end.code, stderr, left]))

asyncio.run(main(pathlib.Path(sys.argv[1])))
"""


@pytest.mark.usefixtures("sandboxes")
def test_root_as_process_1_of_a_container_gets_the_same_sandbox_and_buries_the_dead(tmp_path):
    require_root()
    (tmp_path / "file").write_text("content")
    tmp_path.chmod(0o700)
    done = subprocess.run(
        [*CONTAINER, sys.executable, "-c", PROGRAM, str(tmp_path)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [True, "", 7, "content", []]


WITHOUT_A_CAPABILITY = ("setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace")
CONFINED = """
import asyncio, json, pathlib, sys
from agent.core.errors import SandboxError
from agent.edges.sandbox.bubblewrap import Bubblewrap
from agent.ports import Limits
from tests.sandboxes import run

async def main(directory):
    backend = Bubblewrap(directory)
    facts = await backend.probe()
    end, _ = await run(backend, "exit 7")
    try:
        await run(backend, "true", limits=Limits(out_bytes=1 << 20))
    except SandboxError as refused:
        print(json.dumps([facts.usable, [l.limit for l in facts.limits if not l.enforced], end.code, refused.message]))

asyncio.run(main(pathlib.Path(sys.argv[1])))
"""


@pytest.mark.usefixtures("sandboxes")
def test_root_that_may_not_look_into_sandboxes_refuses_programs_with_results_alone(tmp_path):
    require_root()
    done = subprocess.run(
        [*WITHOUT_A_CAPABILITY, sys.executable, "-c", CONFINED, str(tmp_path)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    usable, open_, code, why = json.loads(done.stdout)
    assert (usable, open_, code) == (True, ["output"], 7)
    assert "cannot reach /out" in why
