"""The whole challenge over real sockets, on a clock that a test moves: honest nodes, slow ones and liars."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from agent.core import wire
from agent.core.attest.cards import Card
from agent.core.attest.messages import (
    CPU,
    Attestation,
    MatrixAgain,
    MatrixAsked,
    MatrixCommitted,
    MatrixDrawn,
    MatrixGo,
    MatrixJudged,
    MatrixOpened,
    MatrixReady,
    MatrixReread,
    Standing,
    Work,
)
from agent.core.gpu import Gpu
from agent.devnet.coordinator import Coordinator, Options
from agent.devnet.core.rules import Rules
from agent.edges.gpu.matrix import Answer
from agent.edges.gpu.matrix_numpy import NumpyArrays
from tests import builders
from tests.devnet.node import ScriptedNode
from tests.fakes.clock import ManualClock

COLUMNS = 64
CARD = Card(
    name="Small H200",
    memory_gib=(1, 1),
    compute_capability="9.0",
    int8_tops=1e-5,
    memory_gb_s=1e-3,
    power_w=700,
)
"""A card that computes ten million operations a second: what it may take, a processor here needs milliseconds for."""
EIGHT = tuple(
    Gpu(uuid=f"GPU-{i}", name=CARD.name, index=i, memory_total_bytes=1 << 30, compute_capability="9.0")
    for i in range(8)
)
KEPT_BYTES = 512 * COLUMNS


class Prover:
    """A node's side, with an engine for each device that it was asked for."""

    def __init__(self, node: ScriptedNode, clock: ManualClock) -> None:
        self.node = node
        self.clock = clock
        self.answers: dict[str, Answer] = {}
        self.opened = MatrixOpened(challenge_id="", rows=())

    async def asked(self) -> MatrixAsked | None:
        return (await self.node.call(wire.Beat(), wire.BeatAck)).matrix

    async def judged(self, *, commit_s: float = 0.0, reread_s: float = 0.0, spoil: str = "") -> dict[str, Attestation]:
        """The whole way; `spoil` says in which way it lies."""
        question = await self.asked()
        assert question is not None
        challenge, devices = question.challenge_id, question.devices
        free = (KEPT_BYTES,) * len(devices)
        go = await self.node.call(MatrixReady(challenge_id=challenge, free_bytes=free), MatrixGo)
        self.answers = {device: Answer(NumpyArrays(), question.columns) for device in devices}
        roots = tuple(self.root(work, go.seed, spoil) for work in go.works)
        self.clock.advance(commit_s)
        again = await self.node.call(MatrixCommitted(challenge_id=challenge, roots=roots), MatrixAgain)
        roots = tuple(self.answers[device].reread(again.seed) for device in devices)
        self.clock.advance(reread_s)
        drawn = await self.node.call(MatrixReread(challenge_id=challenge, roots=roots), MatrixDrawn)
        rows = tuple(self.answers[device].open(rows) for device, rows in zip(devices, drawn.rows, strict=True))
        self.opened = MatrixOpened(challenge_id=challenge, rows=rows)
        return await self.verdict()

    async def verdict(self) -> dict[str, Attestation]:
        """What it is told of the rows that it opened."""
        said = await self.node.call(self.opened, MatrixJudged)
        return {it.device: it for it in said.attestations}

    def root(self, work: Work, seed: str, spoil: str) -> str:
        engine = self.answers[work.device]
        match spoil:
            case "one card for all":
                return engine.commit(seed, replace(work, device=EIGHT[0].uuid))
            case "one layer":
                return engine.commit(seed, replace(work, layers=1))
            case _:
                return engine.commit(seed, work)


@asynccontextmanager
async def proving(
    folder: Path, gpus: Sequence[Gpu], *, stream: bool = False
) -> AsyncIterator[tuple[Coordinator, Prover]]:
    clock = ManualClock()
    rules = Rules(attest_every_s=3600.0, attest_columns=COLUMNS, attest_latency_s=0.5)
    options = Options(rules=rules, cards=(CARD,))
    async with (
        Coordinator(folder / "coordinator", clock=clock, options=options) as coordinator,
        ScriptedNode(coordinator.url, coordinator.public_key, stream=stream) as node,
    ):
        told = builders.fingerprint(
            gpus=tuple(gpus), pools=(builders.pool(device="+".join(it.uuid for it in gpus) or CPU),)
        )
        await node.join(coordinator.enrol_token(), fingerprint=told)
        yield coordinator, Prover(node, clock)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "poll"])
async def test_cards_that_answer_in_time_are_attested_and_everybody_sees_it(tmp_path: Path, stream: bool) -> None:
    from agent.devnet.requester import Requester

    async with proving(tmp_path, EIGHT[:2], stream=stream) as (coordinator, prover):
        found = await prover.judged(commit_s=3.0, reread_s=0.2)
        async with Requester(coordinator.url, coordinator.requester_token) as requester:
            (view,) = (await requester.nodes()).nodes

    assert {it.standing for it in found.values()} == {Standing.ATTESTED}, found
    assert {it.device: it for it in view.attestations} == found
    assert {it.commit_ms for it in found.values()} == {3000}


async def test_eight_faked_h200_with_every_row_right_fail_by_the_clock(tmp_path: Path) -> None:
    async with proving(tmp_path, EIGHT) as (_, prover):
        found = await prover.judged(commit_s=20.0, reread_s=0.2)

    assert {it.standing for it in found.values()} == {Standing.TOO_SLOW}


@pytest.mark.parametrize("spoil", ["one card for all", "one layer"])
async def test_a_liar_in_time_is_wrong(tmp_path: Path, spoil: str) -> None:
    async with proving(tmp_path, EIGHT[:2]) as (_, prover):
        found = await prover.judged(spoil=spoil)

    assert found["GPU-1"].standing is Standing.WRONG, found


async def test_a_verdict_whose_answer_took_long_or_was_lost_is_told_again(tmp_path: Path) -> None:
    async with proving(tmp_path, EIGHT[:2]) as (_, prover):
        found = await prover.judged()

        assert await prover.verdict() == found


async def test_a_node_on_the_processor_is_what_it_says(tmp_path: Path) -> None:
    async with proving(tmp_path, ()) as (_, prover):
        found = await prover.judged(commit_s=1.0)

    assert found[CPU].standing is Standing.CPU
    assert found[CPU].commit_ms == 1000
