"""What requesters see of tasks, nodes and the ledger."""

from __future__ import annotations

import msgspec

from agent.core.attest.messages import Attestation
from agent.core.fingerprint import Fingerprint
from agent.core.model import Blob, Usage, Value
from agent.core.wire import PoolLoad
from agent.devnet.core.book import Book
from agent.devnet.core.proofs.records import Case, Standing
from agent.devnet.core.proofs.standing import standing_of
from agent.devnet.core.records import Episode, LedgerLine, Node, Settlement, Task, TaskState
from agent.devnet.proof_views import TaskProof, task_proof


class TaskView(Value):
    """`GET /v1/tasks/{id}`, and the `result` event."""

    task_id: str
    state: TaskState
    model_digest: str
    seed: int
    attempt: int
    submitted_at: int
    node_id: str = ""
    """Of the latest lease."""
    detail: str = ""
    story: tuple[Episode, ...] = ()
    usage: Usage | None = None
    output: str | None = None
    """Where it came inline; otherwise `output_path` says where to get it."""
    output_path: str = ""
    output_sha256: str = ""
    artifact: Blob | None = None
    """The archive of what a program left: `GET /v1/tasks/{id}/artifact`."""
    amount_micros: int = 0
    currency: str = ""
    commitment_root: str = ""
    proof: TaskProof | None = None
    """What came of the promised challenge; None where none was promised."""


class NodeView(Value):
    """One line of `GET /v1/nodes`."""

    node_id: str
    name: str
    enrolled_at: int
    heard_s: float | None
    """Seconds since the last hello or beat; None when there was none since the coordinator started."""
    state: str
    reason: str
    leases: int
    load: tuple[PoolLoad, ...]
    fingerprint: Fingerprint | None
    standing: Standing
    """What came of its challenges, and what is left of its stake."""
    attestations: tuple[Attestation, ...] = ()
    """Is it a GPU: the latest verdict about each device, by the coordinator's own clock."""


class Nodes(Value):
    """`GET /v1/nodes`."""

    nodes: tuple[NodeView, ...]


class Ledger(Value):
    """`GET /v1/ledger`."""

    lines: tuple[LedgerLine, ...]
    total_micros: int
    currency: str


class Submitted(Value):
    """`POST /v1/tasks`."""

    task_id: str


class Cancelled(Value):
    """`DELETE /v1/tasks/{id}`: the state that it is in now; one that had ended before stays as it was."""

    task_id: str
    state: TaskState


class TokenMade(Value):
    """`POST /v1/enrol-tokens`."""

    token: str


class Health(Value):
    """`GET /healthz`, open to everybody: no numbers that a stranger could use."""

    status: str


def task_view(book: Book, task: Task, settlement: Settlement | None, case: Case | None) -> TaskView:
    """`settlement` is the one that settled it, `case` that of its result."""
    progress = task.progress
    view = TaskView(
        task_id=task.task_id,
        state=progress.state,
        model_digest=task.model_digest,
        seed=task.demand.spec.sampling.seed,
        attempt=progress.attempt,
        submitted_at=task.demand.submitted_at,
        node_id=progress.lease.node_id if progress.lease else "",
        detail=progress.detail,
        story=progress.story,
    )
    return _with_result(book, view, settlement, case) if settlement else view


def _with_result(book: Book, view: TaskView, settlement: Settlement, case: Case | None) -> TaskView:
    receipt = settlement.receipt_body
    return msgspec.structs.replace(
        view,
        usage=settlement.usage,
        output=settlement.output,
        output_path=f"/v1/tasks/{view.task_id}/output" if settlement.blob else "",
        output_sha256=receipt.output_sha256,
        artifact=settlement.artifact,
        amount_micros=receipt.amount_micros,
        currency=receipt.currency,
        commitment_root=receipt.commitment_root,
        proof=task_proof(book, receipt.beacon, case),
    )


def node_view(book: Book, node: Node, now: float) -> NodeView:
    """`now` is monotonic."""
    record = node.record
    return NodeView(
        node_id=record.node_id,
        name=record.name,
        enrolled_at=record.enrolled_at,
        heard_s=None if node.heard is None else now - node.heard,
        state=node.state,
        reason=node.reason,
        leases=len(node.leases),
        load=node.load,
        fingerprint=node.fingerprint,
        standing=standing_of(book, record.node_id),
        attestations=record.attestations,
    )
