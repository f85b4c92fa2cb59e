"""Ctrl-C at the worst moment: the coordinator has the task, and whoever asked does not know its number yet."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from pathlib import Path

import pytest

from agent.devnet.core.records import TaskState
from tests.devnet.proofs.test_served_challenges import hall
from tests.patience import until, within
from tests.scenarios.proxy import Proxy


@pytest.mark.parametrize("heard", [True, False], ids=["the coordinator answers", "the line breaks"])
async def test_a_task_that_was_just_taken_is_taken_back(tmp_path: Path, heard: bool) -> None:
    async with hall(tmp_path / "state") as it, Proxy(it.coordinator.url) as proxy:
        submitting = proxy.hold("/v1/tasks")
        (tmp_path / "token").write_text(it.coordinator.requester_token)
        asking = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "agent", "ask", "Name a colour.", "--coordinator", proxy.url),
            *("--token-file", str(tmp_path / "token")),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            await within(submitting.caught.wait())
            await until(lambda: it.coordinator.desk.book.tasks)
            asking.send_signal(signal.SIGINT)
            if heard:
                submitting.go.set()
            else:
                proxy.cut()
            _, err = await within(asking.communicate())
        finally:
            with contextlib.suppress(ProcessLookupError):
                asking.kill()
        [task] = it.coordinator.desk.book.tasks.values()
    assert asking.returncode == 130
    assert b"Traceback" not in err
    assert (b"cancelled 1 task" in err) == heard, err
    assert (task.progress.state is TaskState.CANCELLED) == heard
