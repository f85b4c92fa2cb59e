"""`gpu-agent drain`, `pause` and `resume` as real processes against the real control server and the real core."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import click
import msgspec
import pytest

from agent.cli.intake import duration as read_duration
from agent.core import events as ev
from agent.core.attempt import Event
from agent.core.model import Outcome
from agent.core.node import Node
from agent.core.orders import PauseOrder, ResumeOrder
from agent.core.status import Status
from agent.edges.control import ControlServer
from tests import builders
from tests.cli.test_status import STATUS, gpu_agent
from tests.core.test_node import WORK, arrive, happen


class Daemon:
    """A ControlApi over the node's core; as many of `STATUS`'s attempts run as the core holds."""

    def __init__(self) -> None:
        self.node = Node(builders.NODE)
        self.node.handle(ev.PoolChanged(pool=builders.pool()), 0.0)
        self.asked = asyncio.Semaphore(0)
        """Released each time somebody looks at a drain that is going on."""

    def status(self) -> Status:
        if self.node.state.value == "draining":
            self.asked.release()
        return msgspec.structs.replace(
            STATUS,
            node=msgspec.structs.replace(STATUS.node, state=self.node.state.value, paused=self.node.is_paused),
            attempts=STATUS.attempts[: len(self.node.attempts)],
            why_idle=tuple(self.node.gates(0.0)),
            outbox_waiting=0,
        )

    async def drain(self) -> None:
        self.node.handle(ev.DrainAsked(limit_s=60.0), 0.0)

    async def pause(self, order: PauseOrder) -> None:
        devices = (order.gpu,) if order.gpu else ()
        self.node.handle(
            ev.PauseAsked(for_s=order.for_s, hand_back_after_s=order.hand_back_after_s, devices=devices), 0.0
        )

    async def resume(self, order: ResumeOrder) -> None:
        self.node.handle(ev.ResumeAsked(devices=(order.gpu,) if order.gpu else ()), 0.0)

    reload = drain


@pytest.fixture
def daemon() -> Daemon:
    return Daemon()


@pytest.fixture
async def served(tmp_path: Path, daemon: Daemon) -> AsyncIterator[str]:
    server = ControlServer(tmp_path / "c.sock", daemon)
    await server.start()
    yield str(tmp_path / "c.sock")
    await server.close()


async def test_pause_and_resume_say_what_now_is_so_and_what_becomes_of_running_tasks(
    served: str, daemon: Daemon
) -> None:
    arrive(daemon.node, builders.offer())
    code, out, _ = await gpu_agent("pause", "--socket", served)
    assert (code, daemon.node.state.value) == (0, "paused")
    assert "rig-1 is paused: no new task is taken. 1 running task will go on to the end." in out
    code, out, _ = await gpu_agent("resume", "--socket", served)
    assert (code, daemon.node.state.value) == (0, "serving")
    assert "rig-1 is serving: new tasks may come." in out


async def test_drain_says_at_once_what_finishes(served: str, daemon: Daemon) -> None:
    arrive(daemon.node, builders.offer())
    code, out, _ = await gpu_agent("drain", "--socket", served)
    assert code == 0
    assert "rig-1 is draining: no new task is taken. 1 running task may finish" in out
    assert "handed back" in out


async def test_drain_wait_returns_when_the_last_task_has_its_receipt(served: str, daemon: Daemon) -> None:
    arrive(daemon.node, builders.offer())
    waiting = asyncio.create_task(gpu_agent("drain", "--wait", "--socket", served))
    for _ in range(2):  # it looked, and looked again
        await daemon.asked.acquire()
    assert not waiting.done()
    happen(daemon.node, builders.offer().key, *WORK)
    code, out, _ = await waiting
    assert code == 0
    assert out.splitlines()[-1] == "Drained."


async def test_drain_wait_gives_up_at_its_limit_with_75_and_the_drain_goes_on(served: str, daemon: Daemon) -> None:
    arrive(daemon.node, builders.offer())
    code, _, err = await gpu_agent("drain", "--wait", "--limit", "0.1", "--socket", served)
    assert (code, daemon.node.state.value) == (75, "draining")
    assert "Still draining after 0.1 s: 1 running task." in err


async def test_drain_wait_tells_when_somebody_resumed(served: str, daemon: Daemon) -> None:
    arrive(daemon.node, builders.offer())
    waiting = asyncio.create_task(gpu_agent("drain", "--wait", "--socket", served))
    await daemon.asked.acquire()
    await daemon.resume(ResumeOrder())
    code, _, err = await waiting
    assert code == 1
    assert "somebody ended the drain" in err


async def test_drain_of_an_idle_node_and_pause_after_it(served: str) -> None:
    code, out, _ = await gpu_agent("drain", "--wait", "--socket", served)
    assert (code, out.splitlines()[-1]) == (0, "Drained.")
    code, out, _ = await gpu_agent("pause", "--socket", served)
    assert code == 0
    assert "rig-1 is drained, which takes no new task either" in out


async def test_resume_tells_what_still_keeps_work_away(served: str, daemon: Daemon) -> None:
    daemon.node.handle(ev.PoolChanged(pool=builders.pool(ready=False, detail="reading the model")), 0.0)
    code, out, _ = await gpu_agent("resume", "--socket", served)
    assert code == 0
    assert "but still takes no new task: pool_not_ready: main: reading the model" in out


async def test_a_pause_for_two_hours_says_when_it_ends_and_keeps_to_it(served: str, daemon: Daemon) -> None:
    code, out, _ = await gpu_agent("pause", "--for", "2h", "--socket", served)
    assert (code, daemon.node.state.value) == (0, "paused")
    assert "Nothing runs. It ends in 2 h 0 min, or with `gpu-agent resume`." in out
    _, out, _ = await gpu_agent("status", "--socket", served)
    assert "paused for another 2 h 0 min" in out
    daemon.node.handle(ev.Ticked(), 7200.0)
    assert daemon.node.state.value == "serving"


async def test_one_gpu_is_paused_and_resumed_by_its_uuid(served: str, daemon: Daemon) -> None:
    daemon.node.handle(ev.PoolChanged(pool=builders.pool("gpu", device="GPU-1")), 0.0)
    code, out, _ = await gpu_agent("pause", "--gpu", "GPU-1", "--for", "90s", "--socket", served)
    assert code == 0
    assert "No pool on GPU-1 takes a new task." in out
    assert "It ends in 1 min 30 s" in out
    assert (daemon.node.free("gpu"), daemon.node.state.value) == (0, "serving")
    assert daemon.node.free("main") > 0
    code, out, _ = await gpu_agent("resume", "--gpu", "GPU-1", "--socket", served)
    assert (code, daemon.node.free("gpu") > 0) == (0, True)


@pytest.mark.parametrize("duration", ["2", "h", "2w", "-1h", "0s", "31d", "1h x"])
async def test_what_is_no_duration_is_refused_with_examples(tmp_path: Path, duration: str) -> None:
    with pytest.raises(click.BadParameter, match=r"duration|at most"):
        read_duration(duration)


def test_durations_add_up() -> None:
    told = [read_duration(text) for text in ("90s", "30min", "2h", "1h30m", "0.5d")]
    assert told == [90, 1800, 7200, 5400, 43_200]


@pytest.mark.parametrize("verb", ["drain", "pause", "resume"])
async def test_without_a_daemon_each_says_so(tmp_path: Path, verb: str) -> None:
    code, out, err = await gpu_agent(verb, "--socket", str(tmp_path / "none.sock"))
    assert (code, out) == (69, "")
    assert "no daemon is running" in err


def test_a_drained_node_that_resumes_may_drain_again(daemon: Daemon) -> None:
    node = daemon.node
    arrive(node, builders.offer())
    node.handle(ev.DrainAsked(limit_s=60.0), 0.0)
    happen(node, builders.offer().key, Event.HAND_BACK_ASKED, Event.RECEIPTED)
    node.handle(ev.ResumeAsked(), 0.0)
    assert [move.after for move in node.handle(ev.DrainAsked(limit_s=1.0), 0.0) if isinstance(move, ev.NodeMoved)] == [
        "draining",
        "drained",
    ]


async def test_a_pause_hands_back_what_runs_at_once_or_later_as_it_is_told(served: str, daemon: Daemon) -> None:
    offer = builders.offer()
    arrive(daemon.node, offer)
    happen(daemon.node, offer.key, *WORK[:2])
    _, out, _ = await gpu_agent("pause", "--after", "5min", "--socket", served)
    assert "1 running task may go on for 5 min 0 s, then is handed back." in out
    assert daemon.node.held(), "not yet"
    await gpu_agent("pause", "--now", "--socket", served)
    assert [it.outcome for it in daemon.node.attempts.values()] == [Outcome.HANDED_BACK]
    code, _, err = await gpu_agent("pause", "--now", "--after", "5min", "--socket", served)
    assert (code, "contradict each other" in err) == (2, True)
