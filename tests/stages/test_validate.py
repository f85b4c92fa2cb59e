"""A check on its way through the stages: from the offer to a sealed verdict, or to another node."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from agent.core import events as ev
from agent.core import wire
from agent.core.attempt import Event
from agent.core.checks.claims import Position
from agent.core.checks.verdict import Thresholds
from agent.core.engines import prompt_digest
from agent.core.errors import EngineError
from agent.core.model import (
    Blob,
    ChatInput,
    CompletionInput,
    FinishReason,
    Outcome,
    Reason,
    TaskKind,
    Usage,
    VerifyInput,
)
from agent.core.proof.commitment import check_header, commit, read_commitment
from agent.core.proof.header import header_of
from agent.core.proof.leaves import check_leaves, split_leaves
from agent.core.proof.opening import open_leaves
from agent.core.proof.sealing import read_verdict
from agent.core.proof.toploc import IMPRINT_BYTES
from agent.core.proof.transcript import Transcript, TranscriptBuilder
from agent.ports import Embedded, Piece
from tests import builders
from tests.core.proof.making import NODE_KEYS, bundle
from tests.edges.verifier.vllm import END, MOST, logprobs, spelled
from tests.patience import within
from tests.stages.paper import crash
from tests.stages.rig import Rig

TOKENS = 40
LIMITS = Thresholds(version="t")


class MadeUp:
    """Implements ports.Replayer on a made-up model."""

    def __init__(self, noise: float = 0.03) -> None:
        self.noise = noise
        self.go = asyncio.Event()
        self.go.set()
        self.asked = asyncio.Event()
        self.fails: EngineError | None = None
        self.prompt = (1, 2, 3)

    async def prompt_ids(self, _given: ChatInput | CompletionInput) -> tuple[int, ...]:
        return self.prompt

    async def replay(self, prefix: Sequence[int], ids: Sequence[int], top: int) -> tuple[Position, ...]:
        self.asked.set()
        await self.go.wait()
        if self.fails is not None:
            raise self.fails
        before, own = list(prefix), []
        for token in ids:
            known = logprobs(before, noise=self.noise)
            if token >= len(known):
                raise EngineError(Reason.ENGINE_UNAVAILABLE, "the engine answered 500: no such token")
            listed = tuple(sorted(range(len(known)), key=lambda one: -known[one])[:top])
            own.append(Position(token, listed, tuple(known[one] for one in listed)))
            before.append(token)
        return tuple(own)

    async def in_one_go(self, ids: Sequence[int]) -> int:
        return min(ids.index(END) + 1, len(ids)) if END in ids else len(ids)

    async def text(self, ids: Sequence[int]) -> str:
        return spelled(ids)

    async def ends(self, token: int) -> bool:
        return token == END

    async def peaks(self, prefix: Sequence[int], ids: Sequence[int]) -> None:
        """It tells no hidden states."""

    async def rows(self, texts: tuple[str, ...]) -> Embedded:
        raise AssertionError


class Parts(MadeUp):
    """Every token is a part of a character, which no grammar can force."""

    def __init__(self) -> None:
        super().__init__()
        self.asked_to_end: list[int] = []

    async def in_one_go(self, ids: Sequence[int]) -> int:
        return min(1, len(ids))

    async def text(self, ids: Sequence[int]) -> str:
        return "\ufffd" * len(ids)

    async def ends(self, token: int) -> bool:
        self.asked_to_end.append(token)
        return False


def claimed(
    rig: Rig,
    *,
    lie: float = 0.0,
    imprints: tuple[bytes, ...] = (),
    determinism: str = "F-0123456789abcdef",
    last: int | None = None,
    prompt: tuple[int, ...] = (1, 2, 3),
    counts: int = 0,
) -> bytes:
    """Evidence of a greedy task of another node's; `lie`: by how much its model is another one; `last`: what it calls
    its last token; `prompt`: what it says the prompt was; `counts`: how long it says it was, of tokens that it leaves
    out.
    """
    builder, ids = TranscriptBuilder(MOST), [1, 2, 3]
    for at in range(TOKENS):
        known = logprobs(ids, noise=lie)
        listed = sorted(range(len(known)), key=lambda one: -known[one])[:MOST]
        figures = tuple(known[one] for one in listed)
        if last is not None and at == TOKENS - 1:
            listed[0] = last
        ids.append(listed[0])
        builder.add(Piece("", listed[0], None, tuple(listed), figures))
    builder.add_imprints(imprints)
    made: Transcript = builder.finish()
    output = msgspec.json.encode({"text": spelled(ids[3:])}).decode()
    offer = builders.offer("their-task", spec=builders.task("their-task", max_tokens=TOKENS, temperature_micros=0))
    usage = Usage(prompt_tokens=counts or len(prompt), completion_tokens=TOKENS)
    digest = hashlib.sha256(output.encode()).hexdigest()
    header = header_of(
        offer,
        builders.pool(engine="vllm 0.11", determinism=determinism),
        node_key=NODE_KEYS.public_key,
        n_probs=MOST,
        finish=FinishReason.LENGTH,
        usage=usage,
        request_sha256="11" * 32,
        prompt_sha256="" if counts else prompt_digest(prompt),
        proof_kind=made.proof_kind,
        output_sha256=digest,
    )
    fields: dict[str, Any] = {
        "output_sha256": digest,
        "output_bytes": len(output.encode()),
        "usage": usage,
        "commitment": commit(header, made),
    }
    sound = bundle(offer, coordinator=rig.coordinator.keys, output=output, result=fields)
    return msgspec.json.encode(msgspec.structs.replace(sound, opening=open_leaves(made.leaves)))


def offered(rig: Rig, evidence: bytes, **blob: Any) -> wire.OfferBody:
    sha256 = hashlib.sha256(evidence).hexdigest()
    rig.coordinator.blobs[sha256] = evidence
    asked = VerifyInput(evidence=Blob(**{"sha256": sha256, "bytes": len(evidence), **blob}))
    offer = builders.offer("check-1", spec=builders.task("check-1", task_input=asked, max_tokens=0))
    rig.coordinator.offer(offer)
    return offer


def validating(limits: Thresholds | None = LIMITS, replayer: MadeUp | None = None) -> Rig:
    rig = Rig(limits=lambda *_: limits)
    rig.engine.repeats = replayer or MadeUp()
    return rig


@pytest.mark.parametrize(("lie", "verdict"), [(0.0, "pass"), (0.9, "suspect")])
async def test_a_check_ends_in_a_verdict_that_only_its_own_leaf_tells(lie: float, verdict: str) -> None:
    async with validating() as rig:
        offer = offered(rig, claimed(rig, lie=lie))
        result = await rig.coordinator.saw(wire.Result)
        body, (delivery,) = rig.opened(result), result.deliveries
        assert (body.outcome, body.reason) == (Outcome.SUCCEEDED, Reason.COMPLETED)
        assert body.commitment is not None
        assert msgspec.json.decode(delivery.output or "") == {"sealed": body.commitment.root}
        check_header(read_commitment(body.commitment, rig.identity.public_key), offer)
        leaves = split_leaves(rig.transcripts.kept[offer.key])
        check_leaves(leaves, body.commitment)
        said = read_verdict(leaves)
        assert (said.verdict, said.certain, said.thresholds, said.salt) == (verdict, False, "t", "5a" * 32)
        assert [it.leaf for it in said.recomputed] == [0, 1]
        assert said.copied == 0
        assert rig.engine.started == 0
        assert rig.coordinator.chunks == []


async def test_a_token_that_the_model_does_not_have_keeps_nobody_from_a_verdict() -> None:
    """Engines refuse it: an attempt that failed of it would hide whoever claimed it."""
    async with validating() as rig:
        offer = offered(rig, claimed(rig, last=99_999))
        body = rig.opened(await rig.coordinator.saw(wire.Result))
        assert (body.outcome, body.detail) == (Outcome.SUCCEEDED, "")
        said = read_verdict(split_leaves(rig.transcripts.kept[offer.key]))
        assert (said.verdict, said.certain, said.reasons) == (
            "fail",
            True,
            ("a token is claimed that this model does not have",),
        )


@pytest.mark.parametrize(("counts", "verdict"), [(3, "pass"), (19, "pass"), (20, "fail"), (5000, "fail")])
async def test_who_names_no_prompt_is_held_to_the_validators_own_count(counts: int, verdict: str) -> None:
    """It is paid by the token. Three are right, and so many more may be another version's marks."""
    async with validating() as rig:
        offer = offered(rig, claimed(rig, counts=counts))
        await rig.coordinator.saw(wire.Result)
        said = read_verdict(split_leaves(rig.transcripts.kept[offer.key]))
        assert (said.verdict, said.certain) == (verdict, verdict == "fail")
        if verdict == "fail":
            more = f"{counts - 19} prompt tokens more are claimed than the model can make of the task"
            assert said.reasons == (more,)


async def test_null_imprints_fail_for_certain_also_where_nobody_can_look_at_hidden_states() -> None:
    async with validating() as rig:
        offer = offered(rig, claimed(rig, imprints=(bytes(IMPRINT_BYTES),) * 2))
        await rig.coordinator.saw(wire.Result)
        said = read_verdict(split_leaves(rig.transcripts.kept[offer.key]))
        assert (said.verdict, said.certain, len(said.reasons)) == ("fail", True, 2)
        assert said.reasons[0].startswith("leaf 0: this imprint is null")
        assert msgspec.json.decode(said.metrics)["toploc"] == {"committed": 2, "faults": 2, "distances": []}


async def test_a_part_of_a_character_is_not_made_to_end_a_text() -> None:
    """That costs a generation, of each of many bytes."""
    parts = Parts()
    async with validating(replayer=parts) as rig:
        offered(rig, claimed(rig))
        await rig.coordinator.saw(wire.Result)
    assert len(parts.asked_to_end) == 1  # the last one, which may be the end


async def test_without_a_calibration_another_node_gets_it() -> None:
    async with validating(limits=None) as rig:
        offered(rig, claimed(rig))
        body = rig.opened(await rig.coordinator.saw(wire.Result))
        assert (body.outcome, body.reason) == (Outcome.HANDED_BACK, Reason.UNCALIBRATED)
        assert "calibration" in body.detail


LONG = (1,) * 600


@pytest.mark.parametrize(
    ("own", "outcome", "reason"),
    [(LONG, Outcome.HANDED_BACK, Reason.CONTEXT_TOO_LONG), ((1, 2, 3), Outcome.SUCCEEDED, Reason.COMPLETED)],
    ids=["as long as it says", "shorter than it says"],
)
async def test_what_is_too_long_to_repeat_is_told_by_ones_own_count(
    own: tuple[int, ...], outcome: Outcome, reason: Reason
) -> None:
    replayer = MadeUp()
    replayer.prompt = own
    async with validating(replayer=replayer) as rig:
        offered(rig, claimed(rig, prompt=LONG))
        body = rig.opened(await rig.coordinator.saw(wire.Result))
        assert (body.outcome, body.reason) == (outcome, reason)


async def test_evidence_that_is_not_there_fails_the_attempt() -> None:
    async with validating() as rig:
        offered(rig, claimed(rig), sha256="ab" * 32)
        body = rig.opened(await rig.coordinator.saw(wire.Result))
        assert (body.outcome, body.reason) == (Outcome.FAILED, Reason.BLOB_UNAVAILABLE)


async def test_garbage_is_a_verdict() -> None:
    async with validating() as rig:
        offer = offered(rig, b"garbage")
        body = rig.opened(await rig.coordinator.saw(wire.Result))
        assert body.outcome is Outcome.SUCCEEDED
        said = read_verdict(split_leaves(rig.transcripts.kept[offer.key]))
        assert (said.verdict, said.certain) == ("fail", True)


async def test_an_engine_that_dies_fails_the_attempt() -> None:
    replayer = MadeUp()
    replayer.fails = crash()
    async with validating(replayer=replayer) as rig:
        offered(rig, claimed(rig))
        body = rig.opened(await rig.coordinator.saw(wire.Result))
        assert (body.outcome, body.reason) == (Outcome.FAILED, Reason.ENGINE_CRASHED)


async def test_a_cancel_stops_it_and_leaves_nothing() -> None:
    replayer = MadeUp()
    replayer.go.clear()
    async with validating(replayer=replayer) as rig:
        offer = offered(rig, claimed(rig))
        await within(replayer.asked.wait())
        assert rig.node.busy("main") == 1
        rig.coordinator.push(wire.Cancel(key=offer.key, reason=Reason.CANCELLED_BY_REQUESTER))
        await rig.until(lambda: rig.node.busy("main") == 0)
        assert rig.validate is not None
        assert rig.validate._brought == {}
        assert rig.coordinator.results() == []


async def test_a_lease_that_ends_while_the_evidence_comes_leaves_nothing() -> None:
    async with validating() as rig:
        rig.coordinator.line_is_free.clear()
        offer = offered(rig, claimed(rig))
        await rig.until(lambda: rig.node.busy("main") == 1)
        rig.spine.feed(_lost(offer))
        await rig.until(lambda: rig.node.busy("main") == 0)
        rig.coordinator.line_is_free.set()
        assert rig.validate is not None
        assert rig.validate._brought == {}


def _lost(offer: wire.OfferBody) -> ev.Happened:
    return ev.Happened(key=offer.key, event=Event.LEASE_LOST, reason=Reason.LEASE_LOST)


async def test_a_node_whose_owner_did_not_opt_in_declines() -> None:
    async with Rig() as rig:
        offered(rig, claimed(rig))
        declined = await rig.coordinator.saw(wire.Decline)
        assert declined.reason is Reason.UNSUPPORTED_KIND
        assert TaskKind.VERIFY not in rig.engine.facts.kinds
