"""Mounts of the machine come and go while a sandbox is built: containers of the owner begin and end."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.core.errors import SandboxError
from agent.edges.sandbox import host
from agent.edges.sandbox.bubblewrap import Bubblewrap
from tests.patience import within
from tests.sandboxes import require_root, shell

GONE = """#!/bin/sh
case "$*" in *"--dev-bind / /"*)
  if [ "$(wc -l < SEEN)" -lt TIMES ]; then
    echo >> SEEN
    echo 'bwrap: Unable to apply mount flags: remount "/newroot/merged": No such file or directory' >&2
    exit 1
  fi
esac
exec BWRAP "$@"
"""


def bwrap_that_fails(folder: Path, times: int) -> Path:
    """As bubblewrap does where a mount that it has just listed is unmounted; then the real one."""
    (seen := folder / "seen").touch()
    (inside := folder / "bin").mkdir()
    inside.chmod(0o755)  # the sandbox's own user runs it as well
    script = inside / "bwrap"
    real = host.find_bwrap("auto").path
    script.write_text(GONE.replace("SEEN", str(seen)).replace("TIMES", str(times)).replace("BWRAP", str(real)))
    script.chmod(0o755)
    return script


@pytest.mark.parametrize("times", [1, 4, 5])
@pytest.mark.usefixtures("sandboxes")
async def test_a_mount_that_vanishes_while_a_sandbox_is_built_is_no_fault(times: int, short_dir: Path):
    require_root()  # only its sandboxes bind all that is mounted
    sandbox = Bubblewrap(short_dir, bwrap=str(bwrap_that_fails(short_dir, times)))
    if times == 5:  # then it is something else
        with pytest.raises(SandboxError, match="Unable to apply mount flags"):
            await within(sandbox.start(shell("true")))
        return
    handle = await within(sandbox.start(shell("true")))
    assert (await within(handle.wait())).code == 0
