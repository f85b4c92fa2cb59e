"""The daemon on a fake driver: Prometheus, `status`, `gpus` and `doctor` tell the same of a GPU that is unwell."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest

from tests.edges.gpu.test_metrics import Values, one, parsed
from tests.fakes.nvml.build import Builder, compiler
from tests.fakes.nvml.scenario import load
from tests.patience import PATIENCE_S
from tests.scenarios.engine import HeldEngine
from tests.scenarios.test_gpus import HOSTS, on_driver
from tests.scenarios.world import World, external


@pytest.fixture
def builder(tmp_path: Path) -> Builder:
    if compiler() is None:
        pytest.skip("no C compiler here, so the driver cannot be faked as a real library")
    return Builder(tmp_path)


async def scraped(url: str, wanted: Callable[[Values], bool]) -> Values:
    async with asyncio.timeout(PATIENCE_S), aiohttp.ClientSession() as session:
        while True:
            async with session.get(url) as answer:
                found = parsed(await answer.text())
            if wanted(found):
                return found
            await asyncio.sleep(0.05)


def idle(values: Values, reason: str) -> bool:
    return one(values, "gpu_agent_idle_reason", reason=reason) == 1


async def test_a_lost_and_a_paused_gpu_say_so_in_every_place_with_the_same_words(
    world: World, builder: Builder, engine: HeldEngine
) -> None:
    driver = builder.place(load(HOSTS / "lost.ini"), world.home / "driver")
    agent = await world.agent(external(engine.url), start=False)
    await on_driver(agent, driver, "gpu.deadline_s=20", "metrics.enabled=true", "metrics.listen=127.0.0.1:0")
    url = (await agent.saw("metrics.served"))["url"]
    node = await world.ready(agent)
    assert node.fingerprint is not None
    uuids = [gpu.uuid for gpu in node.fingerprint.gpus]
    values = await scraped(url, lambda found: len(found.get("DCGM_FI_DEV_GPU_TEMP", {})) == 8)
    await world.requester.result(await world.ask(node.fingerprint.pools[0].model_digest))
    values = await scraped(url, lambda found: one(found, "gpu_agent_tasks_total", outcome="succeeded") == 1)
    assert one(values, "gpu_agent_link_up") == 1

    values = await scraped(url, lambda found: idle(found, "no_demand"))
    assert "no_demand" in (await agent.verb("status"))[1]

    assert (await agent.verb("pause", "--gpu", uuids[0], "--for", "2h"))[0] == 0
    values = await scraped(url, lambda found: one(found, "gpu_agent_gpu_paused", UUID=uuids[0]) == 1)
    assert not idle(values, "paused"), "the pool is on the processor"
    driver.at(5)
    values = await scraped(url, lambda found: one(found, "gpu_agent_gpu_health", UUID=uuids[3], state="lost") == 1)
    assert one(values, "gpu_agent_gpu_finding", UUID=uuids[3], advice="reboot") == 1

    _, status = await agent.verb("status")
    for word in (uuids[0], "paused for another 1 h 59 min", uuids[3], "lost", "gpu_lost", "advice: reboot"):
        assert word in status
    _, gpus = await agent.verb("gpus", "--set", "gpu.enabled=true", "--set", f"gpu.library={driver.library}")
    assert "advice: reboot" in gpus
    _, doctor = await agent.verb("doctor", "--set", "gpu.enabled=true", "--set", f"gpu.library={driver.library}")
    assert "gpu.gpu_lost" in doctor
    code, told = await agent.verb("pause", "--gpu", "GPU-nobody")
    assert (code, "gpu-agent gpus" in told) == (1, True)


async def test_changed_settings_of_the_metrics_hold_from_a_reload_on(world: World) -> None:
    agent = await world.agent("")
    await agent.saw("agent.ready")
    before = agent.config.read_text()
    agent.config.write_text(before.replace("[metrics]\nenabled = false", '[metrics]\nlisten = "127.0.0.1:0"'))
    agent.signal(signal.SIGHUP)
    assert "needs_restart" not in await agent.saw("config.reloaded")
    url = (await agent.saw("metrics.served"))["url"]
    await scraped(url, lambda found: "gpu_agent_build_info" in found)
    agent.config.write_text(before)
    agent.signal(signal.SIGHUP)
    await agent.saw("config.reloaded", 2)
    with pytest.raises(aiohttp.ClientConnectionError):
        await scraped(url, lambda _: False)  # until it is closed
