"""Sandboxes of a root that is itself in a container."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

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
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [True, "", 7, "content", []]
