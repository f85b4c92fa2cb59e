"""What becomes of results: every receipt status, by table."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from agent.core import wire
from agent.core.model import EmbeddingInput, Outcome, Reason, TaskKind, Usage
from agent.core.proof.signed import seal
from agent.core.proof.transcript import Transcript, TranscriptBuilder
from agent.core.wire import ReceiptStatus
from agent.devnet.core import effects, settling
from agent.devnet.core.asking import SamplingAsked
from agent.devnet.core.judging import HIDDEN_TOKENS, MOST_ROW_BYTES, MOST_TOKEN_BYTES
from agent.devnet.core.records import MAX_STORY, TaskState
from tests import builders
from tests.devnet.world import Actor, World, sha256, transcript_of


def leased(**rules: Any) -> tuple[World, Actor, wire.OfferBody]:
    """A task that one node has started."""
    world = World(**rules)
    node = world.enrolled()
    world.submit()
    (offer,) = world.pull(node)
    world.start(node, offer.key)
    return world, node, offer


def paid(world: World) -> list[int]:
    return [it.line.amount_micros for it in world.writes if isinstance(it, effects.SaveLedgerLine)]


def test_a_good_result_settles_the_task_and_pays_for_its_tokens() -> None:
    world, node, offer = leased(price_micros_per_million_tokens=1_000_000)
    receipt = world.deliver(node, node.success(offer))
    assert (receipt.status, receipt.amount_micros, receipt.output_sha256) == ("accepted", 13, sha256("Blue."))
    assert receipt.commitment_root
    assert world.state(offer.task.task_id) is TaskState.SETTLED
    assert paid(world) == [13]


def test_a_duplicate_gets_the_first_receipt_and_is_never_paid_again() -> None:
    world, node, offer = leased(price_micros_per_million_tokens=1_000_000)
    first = world.deliver(node, node.success(offer))
    world.now += 5.0
    again = world.deliver(node, node.success(offer, "Red."))
    assert again == msgspec.structs.replace(first, status=ReceiptStatus.DUPLICATE)
    assert paid(world) == [13]


def test_a_duplicate_is_known_after_a_restart() -> None:
    world, node, offer = leased()
    first = world.deliver(node, node.success(offer))
    again = world.restarted().deliver(node, node.success(offer))
    assert again == msgspec.structs.replace(first, status=ReceiptStatus.DUPLICATE)


def test_a_result_after_its_lease_expired_is_accepted_while_nobody_else_has_the_task() -> None:
    world, node, offer = leased()
    world.sweep(50.0)
    assert world.state(offer.task.task_id) is TaskState.QUEUED
    assert world.deliver(node, node.success(offer)).status is ReceiptStatus.ACCEPTED
    assert world.pull(node) == []


def test_a_result_with_an_old_fence_is_stale_and_the_new_lease_goes_on() -> None:
    world, node, offer = leased()
    other = world.enrolled(2)
    world.sweep(50.0)
    (newer,) = world.pull(other)
    receipt = world.deliver(node, node.success(offer))
    assert (receipt.status, receipt.amount_micros) == (ReceiptStatus.STALE, 0)
    assert world.deliver(other, other.success(newer)).status is ReceiptStatus.ACCEPTED
    assert world.deliver(node, node.success(offer)).status is ReceiptStatus.STALE


def test_a_result_for_a_task_that_is_not_here_is_unknown() -> None:
    world, node, offer = leased()
    assert world.deliver(node, node.success(offer, task_id="t-else")).status is ReceiptStatus.UNKNOWN


def test_a_result_of_an_attempt_that_was_never_granted_is_rejected() -> None:
    world, node, offer = leased()
    assert world.deliver(node, node.success(offer, attempt=7)).status is ReceiptStatus.REJECTED
    assert world.state(offer.task.task_id) is TaskState.LEASED


def test_a_result_for_the_lease_of_another_node_is_rejected_and_harms_nobody() -> None:
    world, node, offer = leased()
    thief = world.enrolled(2)
    assert world.deliver(thief, thief.success(offer)).status is ReceiptStatus.REJECTED
    assert world.deliver(node, node.success(offer)).status is ReceiptStatus.ACCEPTED


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"node_id": "n-other"}, "names node"),
        ({"idem_key": "mine"}, "idem_key"),
        ({"output_sha256": "00" * 32}, "digest of the output"),
        ({"output_bytes": 4}, "output_bytes"),
        ({"usage": Usage(prompt_tokens=1, completion_tokens=17)}, "asked for at most"),
        ({"usage": Usage(prompt_tokens=5000, completion_tokens=1)}, "cannot make more"),
        ({"commitment": None}, "without a commitment"),
    ],
)
def test_a_result_that_contradicts_itself_is_rejected_and_the_task_goes_to_another(changes: Any, word: str) -> None:
    world, node, offer = leased()
    receipt = world.deliver(node, node.success(offer, **changes))
    assert (receipt.status, receipt.amount_micros) == (ReceiptStatus.REJECTED, 0)
    assert word in receipt.detail
    assert world.state(offer.task.task_id) is TaskState.QUEUED
    assert world.pull(node) == []
    assert len(world.pull(world.enrolled(2))) == 1


def test_a_success_without_an_output_is_rejected() -> None:
    world, node, offer = leased()
    result = msgspec.structs.replace(node.success(offer, output_sha256="", output_bytes=0), output=None)
    assert "without an output" in world.deliver(node, result).detail


def test_a_commitment_for_another_attempt_is_rejected() -> None:
    world, node, offer = leased()
    other = node.commitment(
        msgspec.structs.replace(offer, fence=99), "Blue.", Usage(prompt_tokens=10, completion_tokens=3)
    )
    assert "fence" in world.deliver(node, node.success(offer, commitment=other)).detail


def test_a_commitment_to_other_token_counts_is_rejected() -> None:
    world, node, offer = leased()
    other = node.commitment(offer, "Blue.", Usage(prompt_tokens=10, completion_tokens=2))
    assert "token counts" in world.deliver(node, node.success(offer, commitment=other)).detail


def test_a_commitment_of_another_node_is_rejected() -> None:
    world, node, offer = leased()
    stolen = Actor(9).commitment(offer, "Blue.", Usage(prompt_tokens=10, completion_tokens=3))
    assert "commitment_key" in world.deliver(node, node.success(offer, commitment=stolen)).detail


@pytest.mark.parametrize(
    ("outcome", "reason", "failures"),
    [
        (Outcome.FAILED, Reason.ENGINE_CRASHED, 1),
        (Outcome.EXPIRED, Reason.LEASE_EXPIRED, 1),
        (Outcome.HANDED_BACK, Reason.DRAIN_LIMIT, 0),
    ],
)
def test_an_attempt_without_an_output_is_acknowledged_and_its_task_queued_again(
    outcome: Outcome, reason: Reason, failures: int
) -> None:
    world, node, offer = leased()
    receipt = world.deliver(node, node.ending(offer, outcome, reason))
    assert (receipt.status, receipt.amount_micros) == (ReceiptStatus.ACCEPTED, 0)
    progress = world.book.tasks[offer.task.task_id].progress
    assert (progress.state, progress.failures, progress.story[-1].reason) == (TaskState.QUEUED, failures, reason)
    assert len(world.pull(world.enrolled(2))) == 1


def test_a_failure_told_after_the_lease_expired_counts_once() -> None:
    world, node, offer = leased(max_attempts=2)
    world.sweep(50.0)
    world.deliver(node, node.ending(offer, Outcome.FAILED, Reason.ENGINE_CRASHED))
    assert world.book.tasks[offer.task.task_id].progress.failures == 1


def test_a_cancelled_task_takes_the_report_of_its_end_but_no_output() -> None:
    world, node, offer = leased()
    assert world.cancel(offer.task.task_id) is TaskState.CANCELLED
    assert world.beat(node, offer.key).cancelled == (offer.key,)
    assert world.deliver(node, node.success(offer)).status is ReceiptStatus.STALE
    ending = node.ending(offer, Outcome.CANCELLED, Reason.CANCELLED_BY_REQUESTER)
    assert world.deliver(node, ending).status is ReceiptStatus.ACCEPTED
    assert world.state(offer.task.task_id) is TaskState.CANCELLED


def judged(transcript: Transcript, tokens: int, **task: Any) -> wire.ReceiptBody:
    """A result that claims so many tokens and commits to this transcript."""
    world = World()
    node = world.enrolled()
    world.submit(**{"max_tokens": 131_072, **task})
    (offer,) = world.pull(node)
    usage = Usage(prompt_tokens=10, completion_tokens=tokens)
    return world.deliver(
        node, node.success(offer, usage=usage, commitment=node.commitment(offer, "Blue.", usage, transcript))
    )


@pytest.mark.parametrize(
    ("shown", "claimed", "stop", "status"),
    [
        (0, 131_072, (), "rejected"),
        (64, 64, (), "accepted"),
        (65, 96 + HIDDEN_TOKENS, (), "accepted"),
        (64, 64 + HIDDEN_TOKENS + 1, (), "rejected"),
        (64, 64 + HIDDEN_TOKENS + 1, ("end",), "accepted"),
    ],
)
def test_tokens_for_which_there_are_no_leaves_are_not_paid(
    shown: int, claimed: int, stop: tuple[str, ...], status: str
) -> None:
    receipt = judged(transcript_of(shown), claimed, sampling=SamplingAsked(stop=stop))
    assert receipt.status == status, receipt.detail
    assert ("leaves hold" in receipt.detail) is (status == "rejected")


@pytest.mark.parametrize("leaves", [64 + HIDDEN_TOKENS + 2, 10**12])
def test_more_leaves_than_tokens_could_fill_are_not_believed(leaves: int) -> None:
    """Each has a token at least; whoever draws from them would need room for all."""
    world = World()
    node = world.enrolled()
    world.submit(max_tokens=64)
    (offer,) = world.pull(node)
    usage = Usage(prompt_tokens=10, completion_tokens=64)
    honest = node.commitment(offer, "Blue.", usage, transcript_of(64))
    commitment = msgspec.structs.replace(honest, leaves=leaves)
    receipt = world.deliver(node, node.success(offer, usage=usage, commitment=commitment))
    assert (receipt.status, "leaves, but 64 completion tokens" in receipt.detail) == ("rejected", True)


def test_rows_are_committed_to_where_rows_were_asked_for_and_nowhere_else() -> None:
    builder = TranscriptBuilder(0)
    builder.add_rows([[0.5, 0.5]])
    rows = builder.finish()
    embedding = builders.pool(kinds=(TaskKind.EMBEDDING,))
    padded = "[" + " " * MOST_ROW_BYTES + "]"
    for texts, status, output in (
        (("a",), "accepted", "[]"),
        (("a", "b"), "rejected", "[]"),
        (("a",), "rejected", padded),
    ):
        world = World()
        node = world.enrolled()
        world.hello(node, fingerprint=builders.fingerprint(pools=(embedding,)))
        world.submit(input=EmbeddingInput(texts=texts), max_tokens=0)
        (offer,) = world.pull(node)
        usage = Usage(prompt_tokens=1)
        commitment = node.commitment(offer, output, usage, rows)
        done = node.success(offer, output, blob=True, usage=usage, commitment=commitment)
        assert world.deliver(node, done, blob_bytes=len(output)).status == status
    assert "an embedding comes to" in judged(rows, 1).detail


def test_an_output_that_came_as_a_blob_is_accepted_by_its_digest() -> None:
    world, node, offer = leased()
    assert world.deliver(node, node.success(offer, blob=True), blob_bytes=5).status is ReceiptStatus.ACCEPTED


@pytest.mark.parametrize(("more", "status"), [(0, "accepted"), (1, "rejected")])
def test_an_output_that_its_tokens_cannot_have_said_is_not_kept(more: int, status: str) -> None:
    world, node, offer = leased()
    text = "x" * ((3 + HIDDEN_TOKENS) * MOST_TOKEN_BYTES + more)
    receipt = world.deliver(node, node.success(offer, text))
    assert (receipt.status, "its tokens take" in receipt.detail) == (status, status == "rejected")


def _spelled_upper(result: wire.Delivery) -> wire.Delivery:
    signed = msgspec.structs.replace(result.signed, signature=result.signed.signature.upper())
    return msgspec.structs.replace(result, signed=signed)


def _resigned(node: Actor, payload: bytes, role: wire.Role = wire.Role.RESULT) -> wire.Delivery:
    return wire.Delivery(signed=seal(role, payload, node.keys.public, node.keys.sign))


@pytest.mark.parametrize(
    ("forge", "code"),
    [
        (lambda node, offer: Actor(5).success(offer), "bad_signature"),
        (lambda node, offer: _resigned(node, b"{}", wire.Role.OFFER), "bad_signature"),
        (lambda node, offer: _resigned(node, b"{}"), "bad_message"),
        (lambda node, offer: _spelled_upper(node.success(offer)), "bad_signature"),
        (lambda node, offer: node.success(offer, blob=True), "not_found"),
        (lambda node, offer: node.success(offer, "x" * (wire.MAX_INLINE_OUTPUT_BYTES + 1)), "too_large"),
        (lambda node, offer: msgspec.structs.replace(node.success(offer), blob="00" * 32), "bad_message"),
    ],
    ids=[
        "another key",
        "another role",
        "no body",
        "upper case",
        "blob missing",
        "too large inline",
        "both inline and blob",
    ],
)
def test_what_nobody_can_be_held_to_is_refused_and_changes_nothing(forge: Any, code: str) -> None:
    world, node, offer = leased()
    before = len(world.writes)
    (answer,) = world.deliver_all(node, (forge(node, offer),))
    assert isinstance(answer, wire.Refusal)
    assert answer.code == code
    assert len(world.writes) == before
    assert world.deliver(node, node.success(offer)).status is ReceiptStatus.ACCEPTED


def test_the_price_is_rounded_down() -> None:
    assert settling.price_micros(Usage(prompt_tokens=4, completion_tokens=0), 200_000) == 0
    assert settling.price_micros(Usage(prompt_tokens=4, completion_tokens=6), 200_000) == 2


def test_a_task_that_a_node_hands_back_again_and_again_stays_small_and_comes_ever_more_seldom() -> None:
    world = World(pause_while_busy_s=2.0, pause_after_decline_s=120.0)
    node = world.enrolled()
    task_id = world.submit(deadline_s=86_400.0)
    waits = []
    for _ in range(MAX_STORY + 10):
        (offer,) = world.pull(node)
        world.deliver(node, node.ending(offer, Outcome.HANDED_BACK, Reason.ABORTED, detail="x" * 1000))
        waits.append(world.book.tasks[task_id].avoid[node.node_id] - world.now)
        world.sweep(waits[-1])
    assert waits[:8] == [2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 120.0, 120.0]
    progress = world.book.tasks[task_id].progress
    assert (len(progress.story), progress.failures, progress.attempt) == (MAX_STORY, 0, MAX_STORY + 10)
    assert len(wire.encode(progress)) < MAX_STORY * 1024


def test_a_task_that_one_node_handed_back_is_free_at_once_for_another() -> None:
    world, node, offer = leased()
    world.deliver(node, node.ending(offer, Outcome.HANDED_BACK, Reason.DRAIN_LIMIT))
    assert world.pull(node) == []
    assert len(world.pull(world.enrolled(2))) == 1
