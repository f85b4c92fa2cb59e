"""`gpu-agent demo`, as a newcomer runs it: the real model, assembled here; no terminal, so plain lines."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import re
import shlex
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from rich.console import Console

from agent.cli.demo.screen import Screen
from tests.patience import within
from tests.sandboxes import require_sandbox
from tests.scenarios.world import ROOT

LIMIT_S = 500.0
"""A slow machine with three nodes on it."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(LIMIT_S + 200)]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for the module: the second demo finds the model as the first one left it."""
    require_sandbox()
    return tmp_path_factory.mktemp("demo")


@pytest.fixture
async def demo(cache: Path) -> AsyncIterator[Demo]:
    running = Demo(cache)
    yield running
    await running.end()


class Demo:
    """A demo as a process."""

    def __init__(self, cache: Path) -> None:
        self._environment = {**os.environ, "CACHE_DIRECTORY": str(cache)}
        self.text = ""

    async def start(self, *arguments: str) -> None:
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "agent", "demo", *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=ROOT,
            env=self._environment,
            start_new_session=True,
        )

    @contextlib.asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(LIMIT_S):
                yield
        except TimeoutError:
            raise AssertionError(f"the demo came no further in {LIMIT_S:g} s:\n{self.text}") from None

    async def read_until(self, text: str) -> None:
        assert self.process.stdout is not None
        async with self._in_time():
            while text not in self.text:
                read = await self.process.stdout.read(4096)
                assert read, f"the demo ended without {text!r}:\n{self.text}"
                self.text += read.decode()

    async def finish(self) -> int:
        assert self.process.stdout is not None
        async with self._in_time():
            while read := await self.process.stdout.read(4096):
                self.text += read.decode()
            return await self.process.wait()

    async def end(self) -> None:
        """With its nodes, whatever became of it."""
        try:
            if self.process.returncode is None:
                self.process.send_signal(signal.SIGINT)
                await within(self.finish())
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)


async def verb(cache: Path, *arguments: str) -> tuple[int | None, str]:
    """What a newcomer pastes from the demo."""
    run = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "agent", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=ROOT,
        env={**os.environ, "CACHE_DIRECTORY": str(cache)},
    )
    told, _ = await run.communicate()
    return run.returncode, told.decode()


async def test_a_newcomer_sees_the_whole_path_with_real_answers_and_verified_receipts(demo: Demo, cache: Path) -> None:
    await demo.start()
    assert await demo.finish() == 0, demo.text
    for word in ("model", "enrolled", "verified", "ready", "sandboxed", "registered", "proved", "receipt", "ledger"):
        assert re.search(rf"^ +[✓·] {word} ", demo.text, re.MULTILINE), (word, demo.text)
    assert "CPU pool" in demo.text or "NVIDIA" in demo.text
    assert "Paris" in demo.text
    assert demo.text.count("checks pass offline") == 7
    assert "5 of 5 tasks" in demo.text
    assert re.search(r"✓ passed +checked by (node|neighbour): ", demo.text), demo.text
    assert re.search(r"✓ caught +by [a-z, ]+, who ran the paid model on the same words: ", demo.text), demo.text
    assert re.search(r"· +chunk 0: ", demo.text), demo.text
    [repeat] = re.findall(r"▸ repeat it +\./run (verify .*)", demo.text)
    verified = await verb(cache, *shlex.split(repeat))
    assert verified[0] == 1, verified[1]
    assert "✗ the coordinator judged this answer: failed, by 1 validator" in verified[1]
    assert re.search(r"✗ \d+ of \d+ chunks repeated", verified[1]), verified[1]
    [look] = re.findall(r"▸ look +\./run (verify \S+/receipts/\S+)", demo.text)
    verified = await verb(cache, *shlex.split(look))
    assert verified[0] == 0, verified[1]
    receipts = list((cache / "demo/receipts").iterdir())
    assert len(receipts) == 7
    assert "\x1b" not in demo.text
    assert "proof.judged" not in demo.text
    assert "=failed slashed_micros=" in (cache / "demo/coordinator.log").read_text()
    secret = (cache / "demo/coordinator/requester.token").read_text().strip()
    assert secret not in (cache / "demo/agent.log").read_text() + demo.text


def test_an_answer_of_several_lines_keeps_to_its_column() -> None:
    told = io.StringIO()
    screen = Screen(Console(file=told, soft_wrap=True))
    screen.fact("chat", "Why?", "do")
    screen.indent()
    screen.words("One.\nTwo")
    screen.words(".")
    screen.line()
    label, *lines = told.getvalue().splitlines()
    assert lines == [" " * label.index("Why?") + "One.", " " * label.index("Why?") + "Two."]


def test_what_is_told_in_the_middle_of_an_answer_has_a_line_of_its_own() -> None:
    told = io.StringIO()
    screen = Screen(Console(file=told, soft_wrap=True))
    screen.indent()
    screen.words("One")
    screen.fact("stopped", "by its owner")
    assert [line.strip() for line in told.getvalue().splitlines()] == ["One", "✓ stopped     by its owner"]


async def test_keep_goes_on_until_ctrl_c_and_finishes_the_running_task(demo: Demo) -> None:
    await demo.start("--keep")
    await demo.read_until("▸ chat        How do plants")
    demo.process.send_signal(signal.SIGINT)
    assert await demo.finish() == 0, demo.text
    answered = re.search(r"(\d+) of (\d+) tasks", demo.text)
    assert answered is not None
    assert answered[1] == answered[2]
    assert "left with status 0" in demo.text


async def test_a_second_demo_at_the_same_time_says_so_and_ctrl_c_ends_the_first_at_once(
    demo: Demo, cache: Path
) -> None:
    await demo.start()
    await demo.read_until("Parts")
    other = Demo(cache)
    await other.start()
    assert await other.finish() != 0
    assert "another demo is running" in other.text
    demo.process.send_signal(signal.SIGINT)
    assert await demo.finish() == 130, demo.text
    assert "Traceback" not in demo.text
    assert "Summary" not in demo.text
