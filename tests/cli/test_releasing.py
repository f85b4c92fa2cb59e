"""What `gpu-agent pause` says of GPU memory, by a daemon's word over a real socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from agent.core.orders import PauseOrder
from agent.core.release import Released
from agent.core.status import PoolStatus, Status
from agent.edges.control import ControlServer
from tests.cli.test_status import STATUS, gpu_agent

GIB = 1 << 30
POOL = replace(STATUS.pools[0], device="GPU-1", unloads=True)


class Daemon:
    """A ControlApi whose pools tell, one after the other, what they are given."""

    def __init__(self) -> None:
        self.tells: list[tuple[PoolStatus, ...]] = []

    def status(self) -> Status:
        pools = self.tells.pop(0) if len(self.tells) > 1 else self.tells[0]
        return replace(STATUS, node=replace(STATUS.node, state="paused", paused=True), pools=pools, attempts=())

    async def pause(self, order: PauseOrder) -> None:
        assert order.gpu == ""

    drain = resume = reload = pause


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    daemon = Daemon()
    server = ControlServer(tmp_path / "c.sock", daemon)
    await server.start()
    daemon.socket = str(tmp_path / "c.sock")
    yield daemon
    await server.close()


def released(mib: int, seconds: float, *, done: bool, detail: str = "") -> PoolStatus:
    told = Released(held_bytes=4 * GIB, released_bytes=mib << 20, seconds=seconds, done=done, detail=detail)
    return replace(POOL, released=told)


async def test_it_waits_until_the_driver_shows_the_memory_free(daemon: Daemon) -> None:
    daemon.tells = [(POOL,), (released(0, 0.5, done=False),), (released(4096, 1.25, done=True),)]
    code, out, _ = await gpu_agent("pause", "--socket", daemon.socket)
    assert (code, out.splitlines()[-1]) == (0, "main: 4,096 MiB of GPU memory released in 1.2 s.")


async def test_memory_that_is_not_given_back_is_a_status_and_a_sentence(daemon: Daemon) -> None:
    daemon.tells = [(released(1024, 31.0, done=False, detail="31 s after … its process 7 with 3,072 MiB"),)]
    code, out, _ = await gpu_agent("pause", "--socket", daemon.socket)
    assert code == 75
    assert "main: 1,024 of 4,096 MiB of GPU memory released: 31 s after … its process 7 with 3,072 MiB." in out


async def test_nobody_waits_who_does_not_want_to_and_for_nothing_that_stays(daemon: Daemon) -> None:
    daemon.tells = [(POOL,)]
    code, out, _ = await gpu_agent("pause", "--no-wait", "--socket", daemon.socket)
    assert (code, "released" in out) == (0, False)
    daemon.tells = [(replace(POOL, unloads=False), STATUS.pools[0])]
    code, out, _ = await gpu_agent("pause", "--socket", daemon.socket)
    assert (code, out.count("keeps its GPU memory")) == (0, 1)
