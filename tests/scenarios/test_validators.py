"""Validators as daemons on real sockets: an honest node passes, one with other weights than it claims is slashed."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from agent.cli.demo.cheat import Claiming
from agent.core.payloads import Judgement, JudgementBody, Role
from agent.core.proof.signed import open_signed
from agent.devnet.coordinator import Coordinator, Options
from agent.devnet.core.records import TaskState
from agent.devnet.core.rules import ProofRules
from agent.edges.engines.build import processor
from agent.edges.engines.launch import (
    computes_on,
    determinism_class,
    engine_digest,
    engine_files,
    find_llama_server,
)
from agent.edges.models.store import ModelStore
from agent.edges.signing import verify
from tests.attack import node
from tests.calibrations import KEYS, written
from tests.edges.verifier import claiming
from tests.patience import PATIENCE_S
from tests.sandboxes import require_sandbox
from tests.scenarios.conftest import QUICK
from tests.scenarios.world import AgentProcess, World
from tests.tiny_model import write_tiny_model

PROOFS = ProofRules(rate_micros=1_000_000, epoch_s=1.0, verify_s=60.0, answer_s=60.0, validators=2, canary_micros=0)
CONTEXT = 2048


@pytest.fixture
async def coordinator(tmp_path: Path) -> AsyncIterator[Coordinator]:
    options = Options(rules=replace(QUICK, proofs=PROOFS))
    async with Coordinator(tmp_path / "coordinator", options=options) as running:
        yield running


class Town:
    """The model that all claim to have, and nodes that claim it."""

    def __init__(self, world: World, coordinator: Coordinator) -> None:
        self.world = world
        self.coordinator = coordinator
        self.weights = write_tiny_model(world.home / "tiny.gguf")

    async def measure(self) -> None:
        """The model's digest, a calibration for it, and the class of one slot on this machine."""
        store, binary = ModelStore(self.world.home / "store"), find_llama_server("auto")
        self.digest = (await store.verify("tiny", self.weights)).facts.digest
        written(self.world.home, self.digest)
        hashes = {file.name: (await store.sha256(file)).sha256 for file in engine_files(binary)}
        settings = claiming.settings(self.weights, self.world.home, context_tokens=CONTEXT)
        computes = computes_on(settings, processor(Path("/proc/cpuinfo")), "")
        self.exact = determinism_class(settings, engine_digest(hashes), computes)

    async def validator(self, name: str) -> AgentProcess:
        return await self.world.agent(
            f'[proof]\nvalidate = true\ncalibrations = "{self.world.home}"\n'
            f'calibration_keys = ["{KEYS.public_key}"]\n'
            f'[[models]]\nname = "tiny"\npath = "{self.weights}"\n'
            '[[pools]]\nname = "say"\nmodel = "tiny"\ndevice = "cpu"\nslots = 1\nthreads = 1\n'
            f"context_tokens = {CONTEXT}\n",
            name=name,
        )

    @contextlib.asynccontextmanager
    async def asserter(self, name: str, weights: Path, determinism: str, slots: int) -> AsyncIterator[None]:
        """A node of real parts in this process, with these weights; what it says of them may be a lie."""
        home, token = self.world.home / name, self.coordinator.enrol_token()
        with tempfile.TemporaryDirectory(prefix="ga-") as short:
            pool = claiming.made(claiming.settings(weights, Path(short), name=name, slots=slots), Path(short))
            async with node.running(Claiming(pool, self.digest, determinism), home, self.coordinator.url, token):
                yield

    async def done(self) -> str:
        # Of the random texts of a model with random weights, one that does not end inside a row of broken characters.
        task = await self.world.ask(self.digest, "hello", max_tokens=24, seed=0)
        assert (await self.world.requester.result(task)).state is TaskState.SETTLED
        return task

    async def judged(self, task: str) -> JudgementBody:
        """What the coordinator signed about this task."""
        async with asyncio.timeout(PATIENCE_S):
            while (signed := (await self.world.requester.proof(task)).judgement) is None:
                await asyncio.sleep(0.05)
        payload = open_signed(Role.JUDGEMENT, signed, self.coordinator.public_key, verify)
        return msgspec.json.decode(payload, type=JudgementBody)

    async def opened(self, task: str) -> None:
        """Its node has shown its leaves."""
        docket = self.coordinator.desk.book.docket
        async with asyncio.timeout(PATIENCE_S):
            while not (task in docket.of_task and docket.cases[docket.of_task[task]].checks):
                await asyncio.sleep(0.02)


async def test_an_honest_node_passes_and_one_with_other_weights_is_failed_and_slashed(
    world: World, coordinator: Coordinator
) -> None:
    await asyncio.to_thread(require_sandbox)
    town = Town(world, coordinator)
    await town.measure()
    async with town.asserter("honest", town.weights, "F-0123456789abcdef", slots=2):
        honest = await town.done()
        await town.opened(honest)
    cheaper = write_tiny_model(world.home / "cheaper.gguf", seed=8)
    async with town.asserter("cheat", cheaper, town.exact, slots=1):
        false = await town.done()
        await town.opened(false)
    validators = await asyncio.gather(town.validator("one"), town.validator("other"))
    passed, failed = await asyncio.gather(town.judged(honest), town.judged(false))
    assert (passed.judgement, passed.validators) == (Judgement.PASSED, 2), passed
    assert (failed.judgement, failed.validators) == (Judgement.FAILED, 2), failed
    assert failed.slashed_micros == PROOFS.slash_micros
    assert "differ from an exact repetition" in failed.detail
    standings = coordinator.desk.book.docket.standings
    for validator in validators:
        view = await world.ready(validator)
        assert view.fingerprint is not None
        assert "verify" in view.fingerprint.pools[0].kinds
        assert (standings[view.node_id].verdicts, standings[view.node_id].verdicts_wrong) == (2, 0)
        await validator.saw("proof.judged", 2, earned_micros=PROOFS.verdict_reward_micros)
        for verb, words in (("proofs", "earned 0.000100 credit by verdicts"), ("tasks", "0.000050 credit")):
            status, shown = await validator.verb(verb)
            assert (status, words in shown) == (0, True), shown
