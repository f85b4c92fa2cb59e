"""Programs at the coordinator: what may be asked, who is offered it, who may read which blob, and what it earns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from agent.core import wire
from agent.core.fingerprint import ProgramTerms
from agent.core.model import Blob, Commitment, ExecInput, ExecLimits, Outcome, Reason, TaskKind, Timings, Usage
from agent.core.program import RUNTIME, sign_bundle
from agent.core.proof.commitment import commit
from agent.core.proof.files import FileLeaf
from agent.core.proof.program import Ended, program_header
from agent.core.proof.transcript import TranscriptBuilder
from agent.devnet.coordinator import Coordinator
from agent.devnet.core.records import TaskState
from agent.devnet.core.rules import Refused
from agent.devnet.core.settling import program_micros
from agent.devnet.keys import KeyPair
from agent.devnet.requester import Requester
from tests import builders
from tests.devnet.conftest import Join
from tests.devnet.node import ScriptedNode
from tests.devnet.world import sha256

PUBLISHER = KeyPair(b"\x09" * 32)
BUNDLE, INPUT, LEFT = "the bundle", "an input", "what it left"
TERMS = ProgramTerms(publishers=(PUBLISHER.public,), most=ExecLimits())
POOL = builders.pool("main", model_digest=RUNTIME, kinds=(TaskKind.EXEC,), engine="bubblewrap", programs=TERMS)


def program(**changes: Any) -> ExecInput:
    bundle = sign_bundle(sha256(BUNDLE), len(BUNDLE), PUBLISHER.public, PUBLISHER.sign)
    inputs = {"a": Blob(sha256=sha256(INPUT), bytes=len(INPUT))}
    return ExecInput(**{"bundle": bundle, "argv": ("/bundle/run",), "inputs": inputs, **changes})


async def asked(requester: Requester, **changes: Any) -> str:
    for content in (BUNDLE, INPUT):
        await requester.upload(content.encode())
    return await requester.run(program(**changes))


async def offered(node: ScriptedNode) -> list[wire.OfferBody]:
    credit = wire.Credit(pool="main", model_digest=RUNTIME, count=4)
    return await node.pull_for(credit)


def delivery(node: ScriptedNode, offer: wire.OfferBody, **changes: Any) -> wire.Delivery:
    """What an honest node delivers, but for `changes` of the result."""
    builder = TranscriptBuilder(0)
    builder.add_files([FileLeaf(b"stderr", 0, sha256("")), FileLeaf(b"stdout", 0, sha256(""))])
    made = builder.finish()
    header = program_header(
        offer,
        POOL,
        node_key=node.actor.keys.public,
        ended=Ended.EXITED,
        code=0,
        artifact=changes.pop("committed", sha256(LEFT)),
        output_sha256=sha256("{}"),
    )
    left = Blob(sha256=sha256(LEFT), bytes=len(LEFT))
    commitment: Commitment = commit(header, made)
    fields = {
        "outcome": Outcome.SUCCEEDED,
        "reason": Reason.COMPLETED,
        "output_sha256": sha256("{}"),
        "output_bytes": 2,
        "timings": Timings(running_ms=36_000),
        "commitment": commitment,
        "artifact": left,
    }
    signed = node.actor.signed(offer, **{**fields, **changes})
    return wire.Delivery(signed=signed, output="{}", artifact=sha256(LEFT))


async def test_a_program_is_asked_offered_fetched_delivered_and_paid(
    coordinator: Coordinator, requester: Requester, join: Join
) -> None:
    task_id = await asked(requester)
    node = await join(fingerprint=builders.fingerprint(pools=(POOL,)))
    (offer,) = await offered(node)
    assert offer.task.input == program()
    for content in (BUNDLE, INPUT):
        answer = await node.post(f"/v1/blobs/{sha256(content)}", method="GET")
        assert (answer.status, answer.raw) == (200, content.encode())
    await node.start(offer)
    assert (await node.put_blob(sha256(LEFT), LEFT.encode())).status == 201
    receipt = await node.deliver(delivery(node, offer))
    assert receipt.status is wire.ReceiptStatus.ACCEPTED, receipt.detail
    assert receipt.amount_micros == program_micros(ExecLimits(), 36_000, 50_000) == 500
    view = await requester.task(task_id)
    assert view.state is TaskState.SETTLED
    assert view.artifact == Blob(sha256=sha256(LEFT), bytes=len(LEFT))
    assert await requester.artifact(task_id) == LEFT.encode()


async def test_a_node_reads_what_its_own_leases_need_and_nothing_else(requester: Requester, join: Join) -> None:
    await asked(requester)
    holder = await join(fingerprint=builders.fingerprint(pools=(POOL,)))
    other = await join(seed=2, fingerprint=builders.fingerprint(pools=(POOL,)))
    path = f"/v1/blobs/{sha256(BUNDLE)}"
    assert (await holder.post(path, method="GET")).code == "not_found", "not leased yet"
    (offer,) = await offered(holder)
    assert (await holder.post(path, method="GET")).status == 200
    assert (await other.post(path, method="GET")).code == "not_found"
    assert (await other.post(path, method="GET", token="a stranger")).status == 401
    assert (await holder.post(f"/v1/blobs/{sha256('another')}", method="GET")).code == "not_found"
    assert (await holder.post("/v1/blobs/..%2Fcoordinator.key", method="GET")).code == "not_found"
    await holder.start(offer)
    await holder.put_blob(sha256(LEFT), LEFT.encode())
    await holder.deliver(delivery(holder, offer))
    assert (await holder.post(path, method="GET")).code == "not_found", "done with"


@pytest.mark.parametrize(
    "terms",
    [
        None,
        ProgramTerms(publishers=(), most=ExecLimits()),
        ProgramTerms(publishers=(KeyPair(b"\x08" * 32).public,), most=ExecLimits()),
        ProgramTerms(publishers=(PUBLISHER.public,), most=replace(ExecLimits(), wall_s=1)),
    ],
    ids=["runs none", "trusts nobody", "trusts another", "allows less"],
)
async def test_nobody_is_offered_a_program_that_his_owner_would_refuse(
    requester: Requester, join: Join, terms: ProgramTerms | None
) -> None:
    await asked(requester)
    unfit = await join(fingerprint=builders.fingerprint(pools=(replace(POOL, programs=terms),)))
    assert await offered(unfit) == []
    fit = await join(seed=2, fingerprint=builders.fingerprint(pools=(POOL,)))
    assert len(await offered(fit)) == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"argv": ()}, "argv"),
        ({"cwd": "/etc"}, "cwd"),
        ({"limits": ExecLimits(wall_s=0)}, "limits"),
        ({"bundle": replace(program().bundle, signature="00" * 64)}, "signature"),
        ({"bundle": replace(program().bundle, publisher=KeyPair(b"\x08" * 32).public)}, "signature"),
        ({"inputs": {"a": Blob(sha256="ab" * 32, bytes=1)}}, "is not here"),
        ({"inputs": {"a": Blob(sha256=sha256(INPUT), bytes=1)}}, "has 8 bytes"),
    ],
)
async def test_what_could_never_be_run_is_refused_when_it_is_asked(
    requester: Requester, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(Refused, match=said):
        await asked(requester, **changes)


async def test_a_program_names_its_runtime_and_no_tokens(requester: Requester) -> None:
    for model, tokens in ((builders.MODEL, 0), (RUNTIME, 1)):
        with pytest.raises(Refused):
            await requester.submit(model, program(), max_tokens=tokens)


@pytest.mark.parametrize(
    "changes",
    [
        {"artifact": None},
        {"artifact": Blob(sha256=sha256(LEFT), bytes=1)},
        {"artifact": Blob(sha256=sha256("other"), bytes=5)},
        {"committed": sha256("other")},
        {"usage": Usage(completion_tokens=1)},
    ],
    ids=["not signed for", "another size", "another", "not committed to", "tokens"],
)
async def test_a_result_that_contradicts_itself_is_rejected(
    requester: Requester, join: Join, changes: dict[str, Any]
) -> None:
    await asked(requester)
    node = await join(fingerprint=builders.fingerprint(pools=(POOL,)))
    (offer,) = await offered(node)
    await node.start(offer)
    await node.put_blob(sha256(LEFT), LEFT.encode())
    assert (await node.deliver(delivery(node, offer, **changes))).status is wire.ReceiptStatus.REJECTED


async def test_an_artifact_that_never_came_is_asked_for(requester: Requester, join: Join) -> None:
    await asked(requester)
    node = await join(fingerprint=builders.fingerprint(pools=(POOL,)))
    (offer,) = await offered(node)
    await node.start(offer)
    (answer,) = (await node.call(wire.Result(deliveries=(delivery(node, offer),)), wire.Receipt)).answers
    assert answer.refusal
    assert answer.refusal.code is wire.RefusalCode.NOT_FOUND


async def test_what_a_task_names_and_what_a_program_left_survive_a_restart_and_the_sweep(tmp_path: Path) -> None:
    state = tmp_path / "state"
    async with Coordinator(state) as coordinator, Requester(coordinator.url, coordinator.requester_token) as requester:
        task_id = await asked(requester)
        node = ScriptedNode(coordinator.url, coordinator.public_key)
        async with node:
            await node.join(coordinator.enrol_token(), fingerprint=builders.fingerprint(pools=(POOL,)))
            (offer,) = await offered(node)
            await node.start(offer)
            await node.put_blob(sha256(LEFT), LEFT.encode())
            await node.deliver(delivery(node, offer))
        await requester.upload(b"named by nobody")
    async with Coordinator(state) as coordinator, Requester(coordinator.url, coordinator.requester_token) as requester:
        kept = {sha256(content) for content in (BUNDLE, INPUT, LEFT)}
        assert kept <= coordinator.desk.blobs._kept.keys()
        assert sha256("named by nobody") not in coordinator.desk.blobs._kept
        assert await requester.artifact(task_id) == LEFT.encode()


def test_a_program_is_billed_for_the_processors_it_asked_for_while_it_ran_and_no_longer_than_it_might():
    assert program_micros(ExecLimits(cpu_millis=2000), 3_600_000, 50_000) == 16_666
    assert program_micros(ExecLimits(cpu_millis=2000, wall_s=7200), 3_600_000, 50_000) == 100_000
    assert program_micros(ExecLimits(), 0, 50_000) == 0


async def test_who_names_no_deadline_gets_all_the_time_that_the_program_may_run(
    requester: Requester, join: Join
) -> None:
    await asked(requester, limits=ExecLimits(wall_s=600))
    node = await join(fingerprint=builders.fingerprint(pools=(POOL,)))
    (offer,) = await offered(node)
    assert 1_190_000 < offer.deadline_ms <= 1_200_000
