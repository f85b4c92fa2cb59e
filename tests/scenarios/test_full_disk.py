"""A disk that is full, for real: the state directory is a small tmpfs, which only root can mount."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import pytest

from agent.devnet.core.records import TaskState
from tests.disks import small_disk
from tests.patience import within
from tests.scenarios.engine import HeldEngine
from tests.scenarios.world import AgentProcess, World, external

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a tmpfs")


@pytest.fixture
def state_disk(tmp_path: Path) -> Iterator[Path]:
    """The state directory of the node `node`."""
    with small_disk(tmp_path / "node" / "state", "2m") as place:
        yield place


def fill(disk: Path) -> Path:
    """Take every byte that is left; returns the file that does."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(b"\0" * 4096):
            pass
    return filler


async def gates(agent: AgentProcess) -> list[str]:
    status, told = await agent.verb("status", "--json")
    assert status == 0
    return [gate["reason"] for gate in json.loads(told)["why_idle"]]


async def test_what_was_computed_waits_for_room_and_is_then_delivered(
    world: World, engine: HeldEngine, state_disk: Path
) -> None:
    agent = await world.agent(external(engine.url))
    node = await world.ready(agent)
    assert node.fingerprint is not None
    model = node.fingerprint.pools[0].model_digest
    await world.requester.result(await world.ask(model))
    engine.open.clear()
    task = await world.ask(model)
    await within(engine.asked.acquire())
    await within(engine.asked.acquire())
    filler = fill(state_disk)
    engine.open.set()
    line = await agent.saw("storage.unwritable", full=True)
    assert "Free space" in line["detail"]
    assert "storage_full" in await gates(agent)
    _, screen = await agent.verb("status")
    assert "Free space" in " ".join(screen.split())
    filler.unlink()
    await agent.saw("storage.writable")
    view = await world.requester.result(task)
    assert (view.state, view.attempt) == (TaskState.SETTLED, 1)
    await agent.saw("result.receipted", task=task)
    assert "storage_full" not in await gates(agent)
    await world.requester.result(await world.ask(model))
    assert len(agent.events("storage.unwritable")) <= 2
    assert engine.finished == 3


@contextmanager
def full(disk: Path) -> Iterator[None]:
    filler = fill(disk)
    yield
    filler.unlink()


@contextmanager
def read_only(disk: Path) -> Iterator[None]:
    """As an owner, or the kernel when a disk fails, makes it."""
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    yield
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)


@pytest.mark.parametrize("takes_nothing", [full, read_only])
async def test_a_first_start_waits_for_a_disk_that_takes_nothing_and_says_so(
    world: World, engine: HeldEngine, state_disk: Path, takes_nothing: Callable[[Path], AbstractContextManager[None]]
) -> None:
    """Nothing is there yet, not even a key. Ending would be a crash loop, and the service manager gives up on those."""
    with takes_nothing(state_disk):
        agent = await world.agent(external(engine.url))
        line = await agent.saw("storage.unwritable", full=True)
        assert "node.key" in line["detail"]
        assert "goes on by itself" in line["detail"]
        status, told = await agent.verb("status")
        assert (status, "still starting, and waits" in told, "node.key" in told) == (1, True, True), told
        assert agent.process.returncode is None
    await world.ready(agent)
    assert len(agent.events("storage.unwritable")) == 1
    assert (await agent.verb("status"))[0] == 0


async def test_an_agent_that_starts_again_on_a_full_disk_waits_for_room(
    world: World, engine: HeldEngine, state_disk: Path
) -> None:
    agent = await world.agent(external(engine.url))
    await world.ready(agent)
    agent.signal(signal.SIGTERM)  # a clean end leaves no log files, for which the next start needs room
    assert await agent.ended() == 0
    filler = fill(state_disk)
    await agent.start()
    told = await agent.saw("storage.unwritable", full=True)
    assert "Free space" in told["detail"]
    assert agent.process.returncode is None
    filler.unlink()
    await agent.saw("session.opened", count=2)
    assert len(agent.events("storage.unwritable")) == 1
