"""Challenges over real sockets: what nodes upload, what requesters see, and what a restart of the process leaves."""

from __future__ import annotations

import asyncio
import errno
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.core import wire
from agent.core.model import Blob, ChatInput, Message
from agent.core.payloads import Judgement, JudgementBody
from agent.core.proof.receipt import verify_bundle
from agent.core.proof.signed import open_signed
from agent.core.wire import MAX_BLOB_BYTES
from agent.devnet.blobs import MAX_PENDING_BYTES
from agent.devnet.coordinator import Coordinator, Options
from agent.devnet.core.records import LedgerKind
from agent.devnet.core.rules import ProofRules, Refused, Rules
from agent.devnet.exhibits import Exhibits
from agent.devnet.keys import verify
from agent.devnet.proof_views import Stage
from agent.devnet.requester import Requester
from tests import builders
from tests.devnet.node import ScriptedNode
from tests.devnet.proofs.challenged import ALWAYS, Opener, blob_of, honest_transcript
from tests.disks import small_disk
from tests.patience import PATIENCE_S, within

ASK = ChatInput(messages=(Message(role="user", content="Name a colour."),))
TOKENS = 40


class HandClock:
    """Time that passes only by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return 1_700_000_000.0 + self.now

    async def sleep(self, seconds: float) -> None:
        await asyncio.Event().wait()


class Hall:
    """A coordinator, a requester and a node that keeps its transcripts."""

    def __init__(self, coordinator: Coordinator, requester: Requester, node: ScriptedNode, clock: HandClock) -> None:
        self.coordinator, self.requester, self.node, self.clock = coordinator, requester, node, clock
        self.opener = Opener()
        node.actor = self.opener

    def turn(self, seconds: float) -> None:
        self.clock.now += seconds
        self.coordinator.sweep()

    async def settled(self, **seed: Any) -> str:
        """A task that the node did; with another seed than it should where one is given."""
        task_id = await self.requester.submit(builders.MODEL, ASK, max_tokens=TOKENS)
        (offer,) = await self.node.pull()
        receipt = await self.node.deliver(self.opener.answer(offer, honest_transcript(offer, TOKENS, **seed)))
        assert receipt.status is wire.ReceiptStatus.ACCEPTED, receipt.detail
        return task_id

    async def challenge(self, **seed: Any) -> wire.Challenge:
        task_id = await self.settled(**seed)
        self.turn(61.0)
        ack = await self.node.call(wire.Beat(), wire.BeatAck)
        return next(it for it in ack.challenges if it.key.task_id == task_id)

    async def open(self, challenge: wire.Challenge, content: bytes | None = None) -> None:
        content = self.opener.opened(challenge.key.task_id) if content is None else content
        blob = blob_of(content)
        assert (await self.node.put_blob(blob.sha256, content)).status == 201
        await self.node.call(wire.Opening(challenge_id=challenge.challenge_id, blob=blob), wire.Ack)

    async def judged(self, challenge: wire.Challenge) -> Judgement:
        """Wait for the examiner."""
        async with asyncio.timeout(PATIENCE_S):
            while (view := await self.requester.task(challenge.key.task_id)).proof.stage is not Stage.JUDGED:
                await asyncio.sleep(0)
        return view.proof.judgement


Halls = Callable[..., Awaitable[Hall]]


@asynccontextmanager
async def hall(state: Path, proofs: ProofRules = ALWAYS, *, stream: bool = False) -> AsyncIterator[Hall]:
    clock = HandClock()
    options = Options(rules=Rules(proofs=proofs))
    async with (
        Coordinator(state, clock=clock, options=options) as coordinator,
        Requester(coordinator.url, coordinator.requester_token) as requester,
        ScriptedNode(coordinator.url, coordinator.public_key, stream=stream) as node,
    ):
        made = Hall(coordinator, requester, node, clock)
        await node.join(coordinator.enrol_token())
        yield made


async def test_an_honest_node_is_challenged_opens_and_passes_and_anybody_can_check_it(tmp_path: Path) -> None:
    async with hall(tmp_path) as it:
        challenge = await it.challenge()
        view = await it.requester.task(challenge.key.task_id)
        assert view.proof.stage is Stage.CHALLENGED
        await it.open(challenge)
        assert await it.judged(challenge) is Judgement.PASSED
        bundle = await it.requester.proof(challenge.key.task_id)
        assert bundle.opening == it.opener.opened(challenge.key.task_id)
        assert verify_bundle(bundle, verify, coordinator_key=it.coordinator.public_key)
        promise = msgspec.json.decode(bundle.receipt.payload, type=wire.ReceiptBody).beacon
        assert hashlib.sha256(bytes.fromhex(bundle.beacon.value)).hexdigest() == promise.commitment
        raw = open_signed(wire.Role.JUDGEMENT, bundle.judgement, it.coordinator.public_key, verify)
        assert msgspec.json.decode(raw, type=JudgementBody).judgement is Judgement.PASSED
        ack = await it.node.call(wire.Beat(), wire.BeatAck)
        assert ack.judged == (bundle.judgement,)


async def test_a_node_with_a_seed_of_its_own_is_caught_and_ledger_and_log_say_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with hall(tmp_path) as it:
        challenge = await it.challenge(seed=1234)
        await it.open(challenge)
        assert await it.judged(challenge) is Judgement.FAILED
        lines = (await it.requester.ledger()).lines
        assert [line.kind for line in lines] == [LedgerKind.EARNED, LedgerKind.SLASHED]
        assert lines[1].amount_micros == -ALWAYS.slash_micros
        (node,) = (await it.requester.nodes()).nodes
        assert node.standing.failed == 1
        proofs = await it.requester.proofs()
        assert "not what the seed draws" in proofs.cases[0].says
        assert proofs.standings == (node.standing,)
        (line,) = [it.getMessage() for it in caplog.records if it.levelname == "WARNING"]
        assert line.startswith(f"proof.judged node={node.node_id} task={challenge.key.task_id} answer=failed ")
        assert "not what the seed draws" in line


@pytest.mark.parametrize(
    "content", [b"", b"garbage" * 1000, b"\x01" + b"\xff" * 100, bytes(1 << 20)], ids=["none", "text", "ff", "zeros"]
)
async def test_garbage_is_no_opening(tmp_path: Path, content: bytes) -> None:
    async with hall(tmp_path) as it:
        challenge = await it.challenge()
        await it.open(challenge, content)
        assert await it.judged(challenge) is Judgement.UNOPENED
        assert (await it.requester.proof(challenge.key.task_id)).opening == content


async def test_leaves_of_another_task_are_no_opening(tmp_path: Path) -> None:
    async with hall(tmp_path) as it:
        other = await it.settled()
        challenge = await it.challenge()
        await it.open(challenge, it.opener.opened(other))
        assert await it.judged(challenge) is Judgement.UNOPENED


async def test_an_opening_must_have_come_before_it_is_named(tmp_path: Path) -> None:
    async with hall(tmp_path) as it:
        challenge = await it.challenge()
        right = blob_of(it.opener.opened(challenge.key.task_id))
        for blob in (right, msgspec.structs.replace(right, sha256="../" * 10), blob_of(b"never sent")):
            refusal = await it.node.call(wire.Opening(challenge_id=challenge.challenge_id, blob=blob), wire.Refusal)
            assert refusal.code is wire.RefusalCode.NOT_FOUND
        await it.open(challenge)
        assert await it.judged(challenge) is Judgement.PASSED


async def test_64_mib_are_taken_and_refused_without_being_read(tmp_path: Path) -> None:
    async with hall(tmp_path) as it:
        challenge = await it.challenge()
        await it.open(challenge, bytes(64 << 20))
        assert await it.judged(challenge) is Judgement.UNOPENED
        assert list((tmp_path / "exhibits").iterdir()) == []


async def test_a_flood_of_openings_is_one_opening_and_two_at_once_are_one(tmp_path: Path) -> None:
    async with hall(tmp_path) as it:
        challenge = await it.challenge()
        good = blob_of(it.opener.opened(challenge.key.task_id))
        for content in (it.opener.opened(challenge.key.task_id), b"second"):
            await it.node.put_blob(blob_of(content).sha256, content)
        await asyncio.gather(
            *(
                it.node.call(wire.Opening(challenge_id=challenge.challenge_id, blob=blob), wire.Ack)
                for blob in (good, *[blob_of(b"second")] * 50)
            )
        )
        await it.judged(challenge)
        (case,) = (await it.requester.proofs()).cases
        kept = [path.name for path in (tmp_path / "exhibits").iterdir()]
        assert len(kept) == 1
        assert case.judgement in (Judgement.PASSED, Judgement.UNOPENED)  # the first that came decides
        assert len((await it.node.call(wire.Beat(), wire.BeatAck)).judged) == 1


async def test_openings_take_no_room_from_results_once_they_are_taken(tmp_path: Path) -> None:
    async with hall(tmp_path) as it:
        for _ in range(3):
            challenge = await it.challenge()
            await it.open(challenge)
            await it.judged(challenge)
        assert list((tmp_path / "blobs").iterdir()) == []
        assert len(list((tmp_path / "exhibits").iterdir())) == 3


async def test_a_challenge_is_pushed_to_a_node_that_streams(tmp_path: Path) -> None:
    async with hall(tmp_path, stream=True) as it:
        task_id = await it.settled()
        it.turn(61.0)
        pushed = await within(it.node.pushes.get())
        assert isinstance(pushed, wire.Challenge)
        assert pushed.key.task_id == task_id


async def test_before_the_epoch_is_over_drawn_and_not_drawn_look_alike(tmp_path: Path) -> None:
    shown = []
    for name, rate in (("drawn", 1_000_000), ("not", 1)):
        async with hall(tmp_path / name, msgspec.structs.replace(ALWAYS, rate_micros=rate)) as it:
            task_id = await it.settled()
            proof = (await it.requester.task(task_id)).proof
            shown.append((proof.stage, proof.case_id, proof.judgement))
            assert (await it.requester.proofs()).cases == ()
            with pytest.raises(Refused, match="was not challenged, or not yet"):
                await it.requester.proof(task_id)
            it.turn(61.0)
            after = (await it.requester.task(task_id)).proof
            assert after.stage is (Stage.CHALLENGED if name == "drawn" else Stage.NOT_DRAWN)
    assert shown[0] == shown[1] == (Stage.PROMISED, "", None)


async def test_a_node_that_comes_back_as_the_epoch_ends_is_asked_with_its_first_beat(tmp_path: Path) -> None:
    async with hall(tmp_path) as it:
        await it.settled()
        it.turn(59.0)
        await it.node.hello()
        it.turn(2.0)
        ack = await it.node.call(wire.Beat(), wire.BeatAck)
        assert len(ack.challenges) == 1


async def test_a_restart_between_opening_and_judgement_loses_neither(tmp_path: Path) -> None:
    async with hall(tmp_path) as it:
        challenge = await it.challenge()
        # The process dies when the opening is on the disk and nobody has looked at it.
        it.coordinator.desk.unexamined.put_nowait = lambda case_id: None  # type: ignore[method-assign]
        await it.open(challenge)
    (tmp_path / "exhibits" / ".part-left").write_bytes(b"half")
    (tmp_path / "exhibits" / ("0" * 64)).write_bytes(b"nobody names this")
    async with Coordinator(tmp_path, options=Options(rules=Rules(proofs=ALWAYS))) as coordinator:
        async with Requester(coordinator.url, coordinator.requester_token) as requester, asyncio.timeout(PATIENCE_S):
            while not (proof := (await requester.task(challenge.key.task_id)).proof).judgement:
                await asyncio.sleep(0)
        assert proof.judgement is Judgement.PASSED
        (kept,) = (tmp_path / "exhibits").iterdir()
        assert hashlib.sha256(kept.read_bytes()).hexdigest() == kept.name


async def test_an_exhibit_that_the_disk_lost_blames_nobody(tmp_path: Path) -> None:
    async with hall(tmp_path) as it:
        challenge = await it.challenge()
        real = it.coordinator.desk.unexamined.put_nowait
        held: list[str] = []
        it.coordinator.desk.unexamined.put_nowait = held.append  # type: ignore[method-assign]
        await it.open(challenge)
        for path in (tmp_path / "exhibits").iterdir():
            path.unlink()
        real(held[0])
        assert await it.judged(challenge) is Judgement.VOID
        (node,) = (await it.requester.nodes()).nodes
        assert node.standing.stake_micros == ALWAYS.stake_micros


@pytest.mark.parametrize("hindered", [True, False])
async def test_who_opens_to_a_coordinator_without_room_has_not_failed(tmp_path: Path, *, hindered: bool) -> None:
    with small_disk(tmp_path / "blobs", "4k" if hindered else "1m"):
        async with hall(tmp_path) as it:
            challenge = await it.challenge()
            content = it.opener.opened(challenge.key.task_id)
            answer = await it.node.put_blob(blob_of(content).sha256, content)
            assert (answer.status == 201) is not hindered
            it.turn(ALWAYS.answer_s + 1)
            assert await it.judged(challenge) is (Judgement.VOID if hindered else Judgement.UNOPENED)


class Full(Exhibits):
    """A disk that has room for one file more."""

    room, refused = 1, False

    async def write(self, content: bytes) -> Blob:
        if not self.room:
            self.refused = True
            raise OSError(errno.ENOSPC, "No space left on device")
        self.room -= 1
        return await super().write(content)


async def test_a_disk_too_full_for_a_wrong_answer_ends_nothing(tmp_path: Path) -> None:
    async with hall(tmp_path, msgspec.structs.replace(ALWAYS, validators=1, canary_micros=1_000_000)) as it:
        desk = it.coordinator.desk
        desk.exhibits = full = Full(tmp_path / "exhibits")
        docket = desk.book.docket
        while not full.refused:  # of some answers no wrong one can be made
            challenge = await it.challenge()
            full.room = 1
            await it.open(challenge)
            async with asyncio.timeout(PATIENCE_S):
                while docket.cases[docket.of_task[challenge.key.task_id]].evidence is None or docket.copied:
                    await asyncio.sleep(0)
        await it.settled()
        assert not it.coordinator.failed.is_set()


@pytest.mark.parametrize("limit", ["0", "1001", "x", "-1"])
async def test_a_limit_that_is_none_is_refused(tmp_path: Path, limit: str) -> None:
    async with hall(tmp_path) as it:
        with pytest.raises(Refused, match="limit"):
            await it.requester.proofs(limit=limit)  # type: ignore[arg-type]


async def test_bytes_that_are_no_text_do_not_keep_an_answer_from_being_judged(tmp_path: Path) -> None:
    async with hall(tmp_path) as it:
        task_id = await it.requester.submit(builders.MODEL, ASK, max_tokens=TOKENS)
        (offer,) = await it.node.pull()
        output = b'{"text":"' + b"t" * TOKENS + b'\xff"}'
        await it.node.put_blob(blob_of(output).sha256, output)
        assert (await it.node.deliver(it.opener.answer(offer, blob=output))).status is wire.ReceiptStatus.ACCEPTED
        it.turn(61.0)
        (challenge,) = (await it.node.call(wire.Beat(), wire.BeatAck)).challenges
        await it.open(challenge)
        assert await it.judged(challenge) is Judgement.FAILED
        proof = await it.requester.proof(task_id)
        assert proof.output is None


async def test_a_coordinator_full_of_what_others_left_still_takes_an_opening(tmp_path: Path) -> None:
    async with hall(tmp_path) as it:
        challenge, blobs = await it.challenge(), it.coordinator.desk.blobs
        most = MAX_PENDING_BYTES // MAX_BLOB_BYTES

        async def announced(more: int) -> AsyncIterator[bytes]:
            """So many uploads are under way at once; then the node opens."""
            yield b"x"
            if more:
                await blobs.put(f"n-{more}", blob_of(b"x").sha256, MAX_BLOB_BYTES, announced(more - 1))
            else:
                await it.open(challenge)

        await blobs.put("n-0", blob_of(b"x").sha256, MAX_BLOB_BYTES, announced(most - 1))
        assert await it.judged(challenge) is Judgement.PASSED


async def test_an_opening_that_came_in_time_is_looked_at_however_long_it_waits_to_be_taken_in(tmp_path: Path) -> None:
    async with hall(tmp_path) as it:
        challenge = await it.challenge()
        docket = it.coordinator.desk.book.docket
        opening = asyncio.ensure_future(it.open(challenge))
        async with asyncio.timeout(PATIENCE_S):
            while challenge.challenge_id not in docket.arriving:
                await asyncio.sleep(0)
        it.turn(ALWAYS.answer_s + 1)  # while it goes to the disk
        await opening
        assert docket.arriving == set()
        assert await it.judged(challenge) is Judgement.PASSED
