"""The owner's GPU on a fake driver, with a real engine in a real sandbox: his use of it, his pause, and what fits."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from agent.cli import local
from tests.fakes.logind import by_itself
from tests.fakes.nvml.build import Builder, Placed, compiler
from tests.fakes.nvml.scenario import parse
from tests.patience import PATIENCE_S
from tests.sandboxes import require_sandbox
from tests.scenarios.world import AgentProcess, World
from tests.tiny_model import write_tiny_model

GIB = 1 << 30
UUID = "GPU-0000-1"
CARD = (
    "[system]\nDriverVersion = 570.86.10\n"
    f"[gpu0]\nUUID = {UUID}\nName = A\nTemperature.0 = 50; @5 90; @7 79; @9 60\n"
    "PowerManagementLimitConstraints = 100000 600000\n"
)
PROCESS = f"[process]\ngpu = 0\npid = 0\nmemory = {3 * GIB}\nkind = "


@pytest.fixture
def driver(tmp_path: Path) -> Callable[[str], Placed]:
    if compiler() is None:
        pytest.skip("no C compiler here, so the driver cannot be faked as a real library")
    builder = Builder(tmp_path)
    return lambda text: builder.place(parse(text), tmp_path / "driver")


@pytest.fixture
def short_dir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ga-") as path:
        yield Path(path)


def memory(*free_gib: float) -> str:
    """At once, and from second 5 on."""
    told = (f"{24 * GIB} 0 {int(free * GIB)} {int((24 - free) * GIB)}" for free in free_gib)
    return "MemoryInfo_v2 = " + "; @5 ".join(told) + "\n"


@pytest.fixture
async def start(world: World) -> Callable[..., Any]:
    """Starts an agent with one pool on the card."""
    await asyncio.to_thread(require_sandbox)
    weights = write_tiny_model(world.home / "tiny.gguf")

    async def started(driver: Placed, *more: str, environment: Mapping[str, str] | None = None) -> AgentProcess:
        agent = await world.agent(
            f'[[models]]\nname = "tiny"\npath = "{weights}"\n[[pools]]\nname = "main"\nmodel = "tiny"\n'
            f'device = "{UUID}"\ncontext_tokens = 512\nthreads = 1\nslots = 1\n',
            start=False,
        )
        agent.program, agent.environment = ("-m", "tests.scenarios.nodeless"), environment or {}
        options = ("gpu.enabled=true", f"gpu.library={driver.library}", "gpu.period_s=0.2", "gpu.deadline_s=20", *more)
        await agent.start(*(word for option in options for word in ("--set", option)))
        return agent

    return started


def engine_of(agent: AgentProcess) -> int:
    """The process of its llama-server, as this machine numbers it."""
    below = psutil.Process(agent.process.pid).children(recursive=True)
    return next(process.pid for process in below if process.name() == "llama-server")


async def until(agent: AgentProcess, fact: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Its status, once it is so."""
    told: dict[str, Any] = {}
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not told or not fact(told):
                with contextlib.suppress(local.Unreachable, local.Refused):
                    told = await asyncio.to_thread(local.ask, agent.runtime / "control.sock", "GET", "/v1/status")
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"never so: {told}\n{agent.story()}") from None
    return told


def reasons(told: dict[str, Any]) -> set[str]:
    return {gate["reason"] for gate in told["why_idle"]}


async def test_a_pause_ends_once_the_driver_shows_the_memory_free_and_says_how_much(
    world: World, driver, start
) -> None:
    placed = driver(CARD + memory(20, 23) + PROCESS + "Compute\n")
    agent = await start(placed)
    await world.ready(agent)
    (placed.folder / "pid").write_text(str(engine_of(agent)))
    await agent.saw("engine.gpu_memory", mib=3072)
    pausing = asyncio.create_task(agent.verb("pause"))
    await agent.saw("engine.unloading", mib=3072)
    await until(agent, lambda told: (told["pools"][0]["released"] or {}).get("seconds", 0) > 0)
    assert agent.events("gpu.released") == [], "its process is gone, and the memory is not back yet"
    placed.at(5)
    code, said = await pausing
    assert (code, "main: 3,072 MiB of GPU memory released in" in said) == (0, True), said
    line = await agent.saw("gpu.released")
    assert (line["mib"], line["gpus"]) == (3072, [UUID])
    (pool,) = (await until(agent, lambda told: "paused" in reasons(told)))["pools"]
    assert (pool["ready"], pool["released"]["done"], pool["detail"]) == (False, True, "unloaded for its owner (paused)")
    assert (pool["measured_bytes"] >> 20, pool["expected_bytes"] >> 20) == (3072, 323)
    with pytest.raises(StopIteration):
        engine_of(agent)
    await agent.verb("resume")
    await world.ready(agent)
    assert engine_of(agent)


async def test_the_owners_presence_his_use_of_the_gpu_and_its_heat_keep_work_out_and_say_so(
    driver, start, short_dir: Path
) -> None:
    placed = driver(CARD + memory(20) + PROCESS + "Graphics\n")
    with by_itself(short_dir) as logind, subprocess.Popen(["sleep", "600"]) as game:
        bus = {"DBUS_SYSTEM_BUS_ADDRESS": logind.address}
        options = ("owner.idle_only=true", "owner.idle_after_s=0.5", "owner.max_temperature_c=80")
        agent = await start(placed, *options, environment=bus)
        told = await until(agent, lambda told: "owner_active" in reasons(told))
        assert "somebody is at the machine" in told["why_idle"][0]["detail"]
        (placed.folder / "pid").write_text(str(game.pid))
        told = await until(agent, lambda told: "gpu_in_use" in reasons(told))
        (gate,) = [gate for gate in told["why_idle"] if gate["reason"] == "gpu_in_use"]
        assert f"{UUID}: a program of its owner's uses it (process {game.pid} with 3,072 MiB)" in gate["detail"]
        game.kill()
    await agent.saw("gpu.gate_open", reason="gpu_in_use")
    for at, shut in ((5, True), (7, True), (9, False)):
        placed.at(at)
        await until(agent, lambda told, shut=shut: ("gpu_hot" in reasons(told)) is shut)
    assert [len(agent.events(f"gpu.gate_{what}")) for what in ("shut", "open")] == [2, 2]


async def test_what_does_not_fit_is_refused_with_the_numbers(driver, start) -> None:
    agent = await start(driver(CARD + memory(0.4)), "gpu.reserve_mib=100")
    (pool,) = (await until(agent, lambda told: "needs" in told["pools"][0]["detail"]))["pools"]
    assert not pool["ready"]
    assert pool["detail"].startswith("needs 0.3 GiB (weights 0.0, KV 0.0 for 1 × 512 tokens, buffers 0.3), ")
    assert (
        f"{UUID} has 0.3 GiB of 24.0 GiB free after 23.6 GiB of other programs and a reserve of 0.1 GiB"
        in pool["detail"]
    )
    assert (await agent.saw("engine.no_room"))["detail"] in pool["detail"]
