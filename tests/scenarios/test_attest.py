"""A real agent whose coordinator asks whether its GPUs are GPUs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from agent.core.attest.messages import CPU, Attestation, Standing
from agent.devnet.coordinator import Coordinator, Options
from agent.devnet.requester import Requester
from agent.edges.gpu.models import card_table
from tests.fakes.nvml.build import Builder, compiler
from tests.fakes.nvml.scenario import load
from tests.patience import PATIENCE_S
from tests.scenarios.conftest import QUICK
from tests.scenarios.engine import HeldEngine
from tests.scenarios.test_gpus import HOSTS, on_driver
from tests.scenarios.world import World, external


@pytest.fixture
async def coordinator(tmp_path: Path) -> AsyncIterator[Coordinator]:
    """One that asks, and knows the models."""
    options = Options(rules=replace(QUICK, attest_every_s=3600.0), cards=card_table())
    async with Coordinator(tmp_path / "coordinator", options=options) as running:
        yield running


async def attested(requester: Requester, *standings: Standing) -> dict[str, Attestation]:
    """What is known of a node's devices, once it is this."""
    last: tuple[Attestation, ...] = ()
    try:
        async with asyncio.timeout(PATIENCE_S):
            while [it.standing for it in last] != list(standings):
                await asyncio.sleep(0.05)
                last = next((node.attestations for node in (await requester.nodes()).nodes), ())
    except TimeoutError:
        raise AssertionError(f"the coordinator knows {last}") from None
    return {it.device: it for it in last}


async def test_eight_faked_h200_are_never_attested_and_the_owner_reads_why(world: World, tmp_path: Path) -> None:
    if compiler() is None:
        pytest.skip("no C compiler here, so the driver cannot be faked as a real library")
    agent = await world.agent("", start=False)
    driver = Builder(tmp_path).place(load(HOSTS / "h200x8.ini"), world.home / "driver")
    await on_driver(agent, driver, "gpu.deadline_s=20")

    found = await attested(world.requester, *[Standing.INCONSISTENT] * 8)

    assert all("no /proc/driver/nvidia" in it.detail for it in found.values())
    _, page = await agent.verb("gpus", "--set", "gpu.enabled=true", "--library", str(driver.library))
    assert "(no_kernel_driver)" in page
    assert "(no_pci_device)" in page
    assert "does not fit together" in (await agent.verb("status"))[1]


async def test_a_node_without_gpus_answers_as_the_processor_that_it_is_and_works_on(
    world: World, engine: HeldEngine
) -> None:
    agent = await world.agent(external(engine.url) + 'device = "cpu"\n')
    node = await world.ready(agent)
    assert node.fingerprint is not None

    found = await attested(world.requester, Standing.CPU)

    assert found[CPU].name == node.fingerprint.cpu.model
    assert (await agent.saw("attest.judged"))["standing"] == "cpu"
    await world.requester.result(await world.ask(node.fingerprint.pools[0].model_digest))
    assert agent.noise == []
