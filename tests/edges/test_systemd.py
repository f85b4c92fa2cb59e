"""edges.systemd against a real datagram socket that plays the manager."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.edges.systemd import ServiceManager, keep_alive, keep_starting, watchdog_period_s


class Listening:
    """A manager's end of the notify socket."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(5.0)
        self._socket.bind("\0" + address[1:] if address[0] == "@" else address)

    def heard(self) -> list[str]:
        return self._socket.recv(4096).decode().split("\n")

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def listening(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Listening]:
    end = Listening(str(tmp_path / "notify") if request.param == "path" else f"@gpu-agent-test-{os.getpid()}")
    yield end
    end.close()


@pytest.fixture
def manager(listening: Listening) -> ServiceManager:
    return ServiceManager.of_environment({"NOTIFY_SOCKET": listening.address})


def test_ready_and_status_travel_in_one_message(manager: ServiceManager, listening: Listening) -> None:
    assert manager.ready("online")
    assert listening.heard() == ["READY=1", "STATUS=online"]


def test_a_status_from_outside_cannot_smuggle_a_second_field(manager: ServiceManager, listening: Listening) -> None:
    manager.status("model x\nSTOPPING=1\x1b[2J")
    [line] = listening.heard()
    assert line.startswith("STATUS=model x")
    assert "\x1b" not in line


def test_a_reload_tells_its_monotonic_time(manager: ServiceManager, listening: Listening) -> None:
    before = time.monotonic_ns() // 1000
    manager.reloading()
    flag, stamp = listening.heard()
    assert flag == "RELOADING=1"
    assert before <= int(stamp.removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000


def test_stopping_and_more_time_are_told(manager: ServiceManager, listening: Listening) -> None:
    manager.stopping("draining: 2 tasks")
    assert listening.heard() == ["STOPPING=1", "STATUS=draining: 2 tasks"]
    manager.extend_timeout(1.5)
    assert listening.heard() == ["EXTEND_TIMEOUT_USEC=1500000"]


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:9999"}])
def test_without_a_manager_nothing_is_sent_and_nothing_breaks(environ: dict[str, str]) -> None:
    nobody = ServiceManager.of_environment(environ)
    assert not nobody.present
    assert not nobody.ready()


def test_a_manager_that_is_gone_breaks_nothing(tmp_path: Path) -> None:
    assert not ServiceManager(str(tmp_path / "gone")).ready()


@pytest.mark.parametrize(
    ("environ", "period_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 10.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 10.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_fed_three_times_per_limit_by_the_watched_process_only(
    environ: dict[str, str], period_s: float | None
) -> None:
    assert watchdog_period_s(environ, pid=7) == period_s


class SteppedClock:
    """Every sleep is one step; it waits until the test lets it end."""

    def __init__(self) -> None:
        self.steps = asyncio.Semaphore(0)

    def monotonic(self) -> float:
        return 0.0

    def wall(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        await self.steps.acquire()


async def test_a_loop_that_stands_still_starves_the_watchdog_and_says_so(
    manager: ServiceManager, listening: Listening
) -> None:
    clock, faults = SteppedClock(), []
    async with asyncio.TaskGroup() as group:
        feeding = group.create_task(keep_alive(manager, 15.0, clock, lambda: tuple(faults)))
        assert await asyncio.to_thread(listening.heard) == ["WATCHDOG=1"]
        faults.append("the pull loop has not turned")
        clock.steps.release()
        assert await asyncio.to_thread(listening.heard) == ["STATUS=stuck: the pull loop has not turned"]
        feeding.cancel()


async def test_a_long_start_asks_for_time_again_and_again(manager: ServiceManager, listening: Listening) -> None:
    clock = SteppedClock()
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(keep_starting(manager, clock))
        for _ in range(3):
            assert await asyncio.to_thread(listening.heard) == ["EXTEND_TIMEOUT_USEC=60000000"]
            clock.steps.release()
        asking.cancel()
