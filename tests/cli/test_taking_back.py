"""Who leaves early takes back what the coordinator has, also when its number is not known yet."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from pathlib import Path

import pytest

from agent.cli.options import Where
from agent.cli.requesting import TryAgain
from agent.cli.submitting import Asked, ask
from agent.devnet.coordinator import Coordinator, Options
from agent.devnet.core.records import TaskState
from agent.devnet.core.rules import Rules
from tests.devnet.proofs.test_served_challenges import hall
from tests.devnet.test_programs import BUNDLE, INPUT, program
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


async def test_of_tasks_that_are_not_all_taken_none_is_left_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token = tmp_path / "token"
    async with Coordinator(tmp_path / "state", options=Options(rules=Rules(max_queued=2))) as coordinator:
        token.write_text(coordinator.requester_token)
        tasks = {str(number): program() for number in range(3)}
        asked = Asked(tasks, (BUNDLE.encode(), INPUT.encode()), deadline_s=None)
        with pytest.raises(TryAgain, match="2 tasks are queued already"):
            await ask(Where(coordinator.url, token, None), asked)
        states = [task.progress.state for task in coordinator.desk.book.tasks.values()]
    assert states == [TaskState.CANCELLED] * 2
    assert "cancelled 2 tasks" in capsys.readouterr().err
