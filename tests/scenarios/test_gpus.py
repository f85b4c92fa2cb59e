"""The daemon on fake drivers: what its GPUs do shows in its log and in what the coordinator knows of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.core import wire
from agent.core.fingerprint import Fingerprint
from agent.core.health import HealthState
from tests.fakes.nvml.build import Builder, Placed, compiler
from tests.fakes.nvml.scenario import load
from tests.patience import PATIENCE_S, within
from tests.scenarios.engine import HeldEngine
from tests.scenarios.liar import Liar
from tests.scenarios.world import AgentProcess, World, external

HOSTS = Path(__file__).parents[1] / "hosts"


@pytest.fixture
def builder(tmp_path: Path) -> Builder:
    if compiler() is None:
        pytest.skip("no C compiler here, so the driver cannot be faked as a real library")
    return Builder(tmp_path)


async def on_driver(agent: AgentProcess, driver: Placed, *more: str) -> None:
    """Start the agent with GPUs switched on."""
    options = ("gpu.enabled=true", f"gpu.library={driver.library}", "gpu.period_s=0.2", *more)
    await agent.start(*(word for option in options for word in ("--set", option)))


async def told(world: World, name: str, wanted: Callable[[Fingerprint], bool]) -> Fingerprint:
    """The node's fingerprint as the coordinator has it, once it is as wanted."""
    last: Fingerprint | None = None
    try:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                for node in (await world.requester.nodes()).nodes:
                    if node.name == name and node.fingerprint is not None:
                        last = node.fingerprint
                        if wanted(last):
                            return last
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"the coordinator knows of {name}: {last}") from None


MACHINES = {
    "h200x8": (8, ""),
    "geforce": (1, ""),
    "mig": (2, ""),
    "wsl": (1, ""),
    "old_driver": (1, ""),
    "no_gpu": (0, "seated"),
    "not_loaded": (0, "load the NVIDIA driver"),
    "mismatch": (0, "reboot"),
    "denied": (0, "/dev/nvidia"),
}
"""Scenario: how many GPUs, and a word of what to do when there is none."""


async def test_every_kind_of_machine_tells_its_gpus_to_the_coordinator(world: World, builder: Builder) -> None:
    async def one(name: str, gpus: int, remedy: str) -> None:
        agent = await world.agent("", name=name, start=False)
        await on_driver(agent, builder.place(load(HOSTS / f"{name}.ini"), agent.home / "driver"), "gpu.deadline_s=20")
        fingerprint = await told(world, name, lambda seen: bool(seen.gpus) is bool(gpus))
        assert (len(fingerprint.gpus), remedy in fingerprint.gpu_note) == (gpus, True), fingerprint
        assert bool(fingerprint.gpu_note) is (gpus == 0)
        assert all(gpu.fault is None for gpu in fingerprint.gpus)

    for name in MACHINES:  # the library is built once
        builder.place(load(HOSTS / f"{name}.ini"), world.home / "warm")
    await asyncio.gather(*(one(name, gpus, remedy) for name, (gpus, remedy) in MACHINES.items()))


async def test_a_gpu_that_is_lost_is_named_in_the_log_and_to_the_coordinator_and_the_others_stay(
    world: World, builder: Builder
) -> None:
    agent = await world.agent("", start=False)
    driver = builder.place(load(HOSTS / "lost.ini"), world.home / "driver")
    await on_driver(agent, driver, "gpu.deadline_s=20")
    first = await told(world, "node", lambda seen: len(seen.gpus) == 8)
    driver.at(5)
    line = await agent.saw("gpu.seen", fault="gpu_lost")
    assert (line["uuid"], "Reboot" in line["detail"]) == (first.gpus[3].uuid, True)
    seen = await told(world, "node", lambda now: any(gpu.fault for gpu in now.gpus))
    assert [gpu.index for gpu in seen.gpus if gpu.fault] == [3]
    driver.at(9)  # now the driver no longer lists the last one
    seen = await told(world, "node", lambda now: sum(gpu.fault is not None for gpu in now.gpus) == 2)
    assert len(seen.gpus) == 8


async def test_a_task_on_a_gpu_that_is_lost_is_handed_back_and_its_pool_takes_none_until_the_gpu_is_well(
    world: World, builder: Builder, engine: HeldEngine
) -> None:
    driver = builder.place(load(HOSTS / "lost.ini"), world.home / "driver")
    look = await world.agent("", name="look", start=False)
    await on_driver(look, driver, "gpu.deadline_s=20")
    doomed = (await told(world, "look", lambda seen: len(seen.gpus) == 8)).gpus[3].uuid
    await look.kill()
    agent = await world.agent(external(engine.url) + f'device = "{doomed}"\n', start=False)
    await on_driver(agent, driver, "gpu.deadline_s=20")
    node = await world.ready(agent)
    engine.open.clear()
    assert node.fingerprint is not None
    await world.ask(node.fingerprint.pools[0].model_digest)
    await within(engine.asked.acquire())
    driver.at(5)
    moved = await agent.saw("gpu.moved", after="lost")
    assert (moved["uuid"], moved["findings"]) == (doomed, ["gpu_lost"])
    closed = await agent.saw("attempt.closed")
    assert (closed["outcome"], closed["reason"]) == ("handed_back", "gpu_lost")
    seen = await told(world, "node", lambda now: any(it.state is HealthState.LOST for it in now.standings))
    assert {it.uuid for it in seen.standings if it.state is not HealthState.HEALTHY} == {doomed}
    assert "gpu_lost" in (await agent.verb("status"))[1]


async def test_a_gpu_that_appears_after_the_start_is_told_to_the_coordinator(world: World, builder: Builder) -> None:
    agent = await world.agent("", start=False)
    driver = builder.place(load(HOSTS / "appears.ini"), world.home / "driver")
    await on_driver(agent, driver, "gpu.deadline_s=20")
    assert "seated" in (await told(world, "node", lambda seen: bool(seen.gpu_note))).gpu_note
    driver.at(5)
    seen = await told(world, "node", lambda now: bool(now.gpus))
    assert ([gpu.name for gpu in seen.gpus], seen.gpu_note) == (["NVIDIA GeForce RTX 4090"], "")
    assert (await agent.saw("gpu.seen"))["name"] == "NVIDIA GeForce RTX 4090"


async def test_a_driver_that_hangs_or_crashes_is_told_and_tasks_go_on(
    world: World, builder: Builder, engine: HeldEngine
) -> None:
    for name, fault, deadline_s in (("hang", "driver_unresponsive", 1), ("crash", "worker_crashed", 20)):
        agent = await world.agent(external(engine.url), name=name, start=False)
        driver = builder.place(load(HOSTS / f"{name}.ini"), world.home / f"driver-{name}")
        await on_driver(agent, driver, f"gpu.deadline_s={deadline_s}")
        node = await world.ready(agent)
        driver.at(5)
        line = await agent.saw("gpu.driver", fault=fault)
        assert "reboot" in line["detail"]
        seen = await told(world, name, lambda now: bool(now.gpus) and all(gpu.fault for gpu in now.gpus))
        assert {gpu.fault.value for gpu in seen.gpus if gpu.fault} == {fault}
        assert node.fingerprint is not None
        await world.requester.result(await world.ask(node.fingerprint.pools[0].model_digest))
        await agent.kill()


async def test_beats_go_on_while_the_driver_hangs(builder: Builder, engine: HeldEngine, tmp_path: Path) -> None:
    async with Liar() as liar:
        agent = AgentProcess(tmp_path / "node", external(engine.url), url=liar.url, token="")
        liar.enlist(agent)
        driver = builder.place(load(HOSTS / "hang.ini"), tmp_path / "driver")
        await on_driver(agent, driver, f"gpu.deadline_s={PATIENCE_S / 2}")  # given up long after this test
        try:
            await agent.saw("gpu.seen", 8)
            driver.at(5)
            async with asyncio.timeout(PATIENCE_S / 3):
                await liar.mind.took(wire.Beat, liar.mind.count(wire.Beat) + 6)
            assert agent.events("gpu.driver") == []
        finally:
            await agent.discard()


async def test_a_driver_that_was_replaced_on_the_disk_keeps_work_out_and_asks_for_a_reboot(
    world: World, builder: Builder, engine: HeldEngine
) -> None:
    placed = builder.place(load(HOSTS / "geforce.ini"), world.home / "driver")  # 570.86.10 runs
    upgraded = placed.folder / "libnvidia-ml.so.580.95"
    placed.library.rename(upgraded)
    placed.library.symlink_to(upgraded.name)
    uuid = "GPU-8d1e5f6a-1111-4222-8333-944444444444"
    agent = await world.agent(external(engine.url) + f'device = "{uuid}"\n', start=False)
    await on_driver(agent, placed, "gpu.deadline_s=20")
    moved = await agent.saw("gpu.moved", after="degraded")
    assert moved["findings"] == ["driver_replaced"]
    await world.ready(agent)
    _, page = await agent.verb("status")
    assert "Reboot this machine: the driver was replaced by 580.95." in page
    assert "gpu_degraded" in page
