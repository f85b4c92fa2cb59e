"""The agent as a process against a coordinator on real sockets that challenges it: opened, killed, gone, full disk."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.core import wire
from agent.core.model import LeaseKey, Signed
from agent.core.proof.opening import read_opening
from agent.devnet.coordinator import Coordinator, Options
from agent.devnet.core.rules import ProofRules
from agent.devnet.requester import Requester
from agent.edges.signing import KeyPair
from tests import builders
from tests.fakes.examiner import BEACON, challenge, judgement, promise
from tests.fakes.mind import Reply, Silence
from tests.patience import PATIENCE_S
from tests.scenarios.conftest import QUICK
from tests.scenarios.engine import HeldEngine
from tests.scenarios.liar import LEASE_MS, Liar, LyingMind
from tests.scenarios.test_full_disk import fill, state_disk  # noqa: F401  (a fixture)
from tests.scenarios.world import AgentProcess, World, external

POLL = ("--set", "coordinator.transport=poll")


class ExaminingMind(LyingMind):
    """Promises a beacon with every receipt; the answers to beats bring `challenges`, each until it is answered."""

    def __init__(self) -> None:
        super().__init__(KeyPair.generate())
        self.challenges: dict[str, wire.Challenge] = {}
        self.judged: list[Signed] = []
        self.openings: list[wire.Opening] = []

    def receipt(self, message: wire.Result, keys: KeyPair | None = None, **changes: Any) -> wire.Receipt:
        return super().receipt(
            message, keys, **{"beacon": promise(), "amount_micros": 250, "currency": "USD", **changes}
        )

    def ask(self, *challenges: wire.Challenge) -> None:
        self.challenges |= {it.challenge_id: it for it in challenges}

    async def answered(self, count: int) -> wire.Opening:
        """Opening number `count`."""
        async with self.arrived, asyncio.timeout(PATIENCE_S):
            await self.arrived.wait_for(lambda: len(self.openings) >= count)
        return self.openings[count - 1]

    def _honest(self, message: wire.UpMessage) -> Reply:
        match message:
            case wire.Beat(held=held, judged=judged):
                return wire.BeatAck(
                    lease_ms=LEASE_MS,
                    beat_s=0.5,
                    renewed=held,
                    challenges=tuple(self.challenges.values()),
                    judged=tuple(self.judged[judged:]),
                )
            case wire.Opening(challenge_id=name):
                self.openings.append(message)
                self.challenges.pop(name, None)
                return wire.Ack()
            case _:
                return super()._honest(message)


class Examiner(Liar):
    """An ExaminingMind on real sockets."""

    def __init__(self) -> None:
        super().__init__()
        self.mind: ExaminingMind = ExaminingMind()

    def opened(self, opening: wire.Opening, key: LeaseKey) -> bool:
        """Whether all leaves of this attempt are here."""
        assert opening.blob is not None, opening
        (body,) = [body for body in self.mind.results() if body.key == key][-1:]
        assert body.commitment is not None
        return read_opening(self.mind.blobs[opening.blob.sha256], body.commitment).whole


@pytest.fixture
async def examiner() -> AsyncIterator[Examiner]:
    async with Examiner() as running:
        yield running


@pytest.fixture
async def agent(examiner: Examiner, engine: HeldEngine, tmp_path: Path) -> AsyncIterator[AgentProcess]:
    """Enrolled with the examiner, not started yet."""
    process = AgentProcess(tmp_path / "node", external(engine.url), url=examiner.url, token="")
    examiner.enlist(process)
    yield process
    await process.discard()


async def did(agent: AgentProcess, examiner: Examiner, *tasks: str) -> list[LeaseKey]:
    """These tasks, done and receipted."""
    offers = [builders.offer(task) for task in tasks]
    examiner.mind.offer(*offers)
    for task in tasks:
        await agent.saw("result.receipted", task=task)
    return [offer.key for offer in offers]


async def told(agent: AgentProcess) -> dict[str, Any]:
    status, text = await agent.verb("proofs", "--json")
    assert status == 0, text
    story: dict[str, Any] = json.loads(text)
    return story


async def test_challenges_are_opened_refused_and_judged_and_the_owner_is_told(
    agent: AgentProcess, examiner: Examiner
) -> None:
    mind = examiner.mind
    await agent.start("--set", "coordinator.transport=websocket")
    honest, lied = await did(agent, examiner, "honest", "lied")
    lie = challenge(lied, beacon=msgspec.structs.replace(BEACON, value="77" * 32))
    mind.ask(challenge(honest), lie)
    await examiner.push(challenge(honest))
    await mind.answered(2)
    openings = {it.challenge_id: it for it in mind.openings}
    assert examiner.opened(openings["honest/0"], honest)
    assert openings["lied/0"].refusal is wire.OpeningRefusal.NOT_DRAWN
    assert "beacon" in (await agent.saw("challenge.refused", task="lied"))["detail"]
    assert (await agent.saw("challenge.opened", task="honest"))["bytes"] == openings["honest/0"].blob.bytes
    mind.judged.append(judgement(mind.keys, 1, task_id="honest"))
    slashed = {"judgement": wire.Judgement.UNOPENED, "slashed_micros": 2_000_000, "stake_micros": 8_000_000}
    mind.judged.append(judgement(mind.keys, 2, task_id="lied", **slashed))
    assert "2.000000 of the stake is gone" in (await agent.saw("proof.judged", serial=2))["detail"]

    story = await told(agent)
    assert {it["task_id"]: it["outcome"] for it in story["challenges"]} == {"honest": "opened", "lied": "refused"}
    assert [it["serial"] for it in story["judgements"]] == [2, 1]
    agent.signal(signal.SIGTERM)
    assert await agent.ended() == 0
    _, screen = await agent.verb("proofs")
    for words in (
        "2 challenged, 1 refused, 1 passed, 1 unopened; stake 8.0, 2.0 slashed",
        "refused (not_drawn): the beacon is not the promised one",
        "passed by 2 validators",
    ):
        assert words in screen, "the disk tells what the daemon did"
    _, ledger = await agent.verb("tasks")
    assert re.search(r"slashed +-2\.000000 of the stake", ledger), ledger
    assert agent.noise == []
    assert not [line for line in agent.lines if line.get("level") in ("error", "critical")]


async def test_an_agent_that_was_killed_after_a_challenge_answers_it_when_it_is_back(
    agent: AgentProcess, examiner: Examiner
) -> None:
    """Without a stream: what beats bring is enough."""
    mind = examiner.mind
    await agent.start(*POLL)
    kept, gone = await did(agent, examiner, "kept", "gone")
    mind.next_time(wire.Opening, Silence())
    mind.ask(challenge(kept))
    await mind.took(wire.Opening, 1)
    agent.signal(signal.SIGKILL)
    await agent.ended()
    await agent.start(*POLL)
    assert (await agent.saw("challenge.recalled"))["task"] == "kept"
    assert examiner.opened(await mind.answered(1), kept)
    agent.signal(signal.SIGKILL)
    await agent.ended()
    shutil.rmtree(agent.home / "state/transcripts")
    mind.ask(challenge(gone))
    await agent.start(*POLL)
    opening = await mind.answered(2)
    assert (opening.refusal, opening.blob) == (wire.OpeningRefusal.GONE, None)
    assert "time was over" in (await agent.saw("challenge.refused", task="gone"))["detail"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a tmpfs")
async def test_a_full_disk_delays_an_opening_at_a_start_and_none_while_the_agent_runs(
    examiner: Examiner,
    engine: HeldEngine,
    tmp_path: Path,
    state_disk: Path,  # noqa: F811
) -> None:
    agent = AgentProcess(tmp_path / "node", external(engine.url), url=examiner.url, token="")
    examiner.enlist(agent)
    mind = examiner.mind
    await agent.start()
    try:
        first, second = await did(agent, examiner, "first", "second")
        filler = fill(state_disk)
        mind.ask(challenge(first))
        assert examiner.opened(await mind.answered(1), first)
        await agent.saw("proofs.unwritable", full=True)
        mind.judged.append(judgement(mind.keys, 1))
        await agent.saw("proof.unkept", full=True)
        filler.unlink()
        await agent.saw("proof.judged", serial=1)
        agent.signal(signal.SIGTERM)  # a clean end leaves no log files, for which the next start needs room
        assert await agent.ended() == 0
        filler = fill(state_disk)
        mind.ask(challenge(second))
        await agent.start()
        await agent.saw("storage.unwritable", full=True)
        filler.unlink()
        assert examiner.opened(await mind.answered(2), second)
    finally:
        await agent.discard()


async def test_the_embedded_coordinator_challenges_and_the_node_passes(engine: HeldEngine, tmp_path: Path) -> None:
    """Both sides, with nothing scripted."""
    proofs = ProofRules(rate_micros=1_000_000, epoch_s=0.3, validators=0)
    rules = msgspec.structs.replace(QUICK, beat_s=0.5, proofs=proofs)
    async with (
        Coordinator(tmp_path / "coordinator", options=Options(rules=rules)) as coordinator,
        Requester(coordinator.url, coordinator.requester_token) as requester,
    ):
        world = World(coordinator.url, requester, coordinator.enrol_token, tmp_path)
        agent = await world.agent(external(engine.url))
        try:
            node = await world.ready(agent)
            assert node.fingerprint is not None
            task = await world.ask(node.fingerprint.pools[0].model_digest)
            await requester.result(task)
            await agent.saw("challenge.drawn", task=task)
            await agent.saw("challenge.opened", task=task)
            judged = await agent.saw("proof.judged", task=task)
            assert (judged["serial"], judged["judgement"]) == (1, "passed"), judged
        finally:
            await world.close()
