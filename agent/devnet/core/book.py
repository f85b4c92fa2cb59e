"""All that the coordinator knows, and the one way in which a task moves. Rules live in the files beside it."""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec

from agent.core.model import LeaseKey, Outcome, Reason
from agent.core.proof.signed import Sign, Verify
from agent.core.text import plain
from agent.core.wire import RefusalCode
from agent.devnet.core.effects import Decision, Moved, Notice, SaveProgress, Write
from agent.devnet.core.proofs.docket import Docket
from agent.devnet.core.queue import PAUSE, Alarms, Queue
from agent.devnet.core.records import Episode, Node, Progress, Task, TaskState, UsedToken
from agent.devnet.core.rules import Instant, Refused, Rules
from agent.devnet.core.waiting import Waiting

R = TypeVar("R")

_S = TaskState
MOVES: Final[dict[TaskState, frozenset[TaskState]]] = {
    _S.QUEUED: frozenset({_S.LEASED, _S.SETTLED, _S.CANCELLED, _S.FAILED}),
    _S.LEASED: frozenset({_S.QUEUED, _S.SETTLED, _S.CANCELLED, _S.FAILED}),
    _S.SETTLED: frozenset(),
    _S.CANCELLED: frozenset(),
    _S.FAILED: frozenset(),
}
"""Where a task may go. QUEUED → SETTLED is a result that came after its lease expired, before the next one."""


class Book:
    """Tasks, nodes, leases, pulls and cases. `key` is the coordinator's public key, hex; `sign` signs with it."""

    def __init__(self, rules: Rules, key: str, sign: Sign, verify: Verify) -> None:
        self.rules = rules
        self.key = key
        self.sign = sign
        self.verify = verify
        self.tasks: dict[str, Task] = {}
        self.by_request: dict[str, str] = {}
        self.nodes: dict[str, Node] = {}
        self.tokens: dict[str, UsedToken] = {}
        self.queue = Queue()
        self.alarms = Alarms()
        self.waiting = Waiting()
        self.docket = Docket()
        self.freed: set[str] = set()
        """Tasks that somebody may have now who could not before this event."""
        self.stirred: set[str] = set()
        """Nodes that may take more since this event."""
        self.fence = 0
        self.number = 0
        self._writes: list[Write] = []
        self._notices: list[Notice] = []

    def task(self, task_id: str) -> Task:
        """Raises Refused(NOT_FOUND)."""
        if (task := self.tasks.get(task_id)) is None:
            raise Refused(RefusalCode.NOT_FOUND, f"no task {task_id!r} here")
        return task

    def node(self, node_id: str) -> Node:
        """Raises Refused(UNKNOWN_NODE)."""
        if (node := self.nodes.get(node_id)) is None:
            raise Refused(RefusalCode.UNKNOWN_NODE, f"no node {node_id!r} is enrolled here; enrol it with a token")
        return node

    def held_by(self, node_id: str, key: LeaseKey) -> Task | None:
        """The task whose live lease is exactly `key`, granted to this node."""
        task = self.tasks.get(key.task_id)
        if task is None or task.progress.state is not TaskState.LEASED:
            return None
        lease = task.progress.lease
        return task if lease is not None and lease.key == key and lease.node_id == node_id else None

    def add(self, task: Task) -> None:
        """A task appears in whatever state it is in: new, or read back at start."""
        self.tasks[task.task_id] = task
        self.number = max(self.number, task.demand.number)
        if task.demand.request_key:
            self.by_request[task.demand.request_key] = task.task_id
        self._enter(task)

    def move(self, task: Task, progress: Progress, episode: Episode | None = None) -> None:
        """The only way in which a task changes state: indexes, write and notice together."""
        if progress.state not in MOVES[task.progress.state]:
            raise AssertionError(f"task {task.task_id} cannot go {task.progress.state} → {progress.state}: {task}")
        self._leave(task)
        task.progress = progress
        self._enter(task)
        self.keep(task, episode)

    def keep(self, task: Task, episode: Episode | None = None) -> None:
        """Write down where the task is, and tell its followers."""
        progress = task.progress
        lease = progress.lease
        self.write(SaveProgress(task_id=task.task_id, fence=self.fence, progress=progress))
        self.tell(
            Moved(
                task_id=task.task_id,
                state=progress.state,
                key=lease.key if lease else None,
                node_id=lease.node_id if lease else "",
                detail=progress.detail,
                episode=episode,
            )
        )

    def avoid(self, task: Task, node_id: str, until: float) -> None:
        """Keep a task from a node for a while."""
        task.avoid[node_id] = until
        self.alarms.set(until, task.task_id, PAUSE)

    def end_lease(
        self, task: Task, when: Instant, outcome: Outcome, reason: Reason, detail: str, *, counts: bool
    ) -> None:
        """The live lease is over without a result to keep: queue again, or fail when too many attempts did.

        `counts` says whether this attempt counts against `max_attempts`.
        """
        progress = task.progress
        assert progress.lease is not None
        episode = Episode(
            attempt=progress.attempt,
            node_id=progress.lease.node_id,
            outcome=outcome,
            reason=reason,
            detail=plain(detail, 500),
            ended_at=when.at,
        )
        failures = progress.failures + counts
        exhausted = failures >= self.rules.max_attempts
        after = msgspec.structs.replace(
            progress,
            state=TaskState.FAILED if exhausted else TaskState.QUEUED,
            failures=failures,
            story=progress.story_with(episode),
            detail=f"{failures} attempts failed, the last by {reason.value}" if exhausted else "",
        )
        self.move(task, after, episode)

    def write(self, write: Write) -> None:
        """To be durable before the reply."""
        self._writes.append(write)

    def tell(self, notice: Notice) -> None:
        """To be told once the writes are durable."""
        self._notices.append(notice)

    def decide(self, reply: R) -> Decision[R]:
        """Close the event: the reply with all effects gathered since the last one."""
        decision = Decision(reply, tuple(self._writes), tuple(self._notices))
        self._writes.clear()
        self._notices.clear()
        return decision

    def _enter(self, task: Task) -> None:
        progress = task.progress
        if progress.state is TaskState.QUEUED:
            self.queue.add(task.line, task.demand.number, task.task_id)
            self.freed.add(task.task_id)
        elif progress.state is TaskState.LEASED:
            assert progress.lease is not None
            if node := self.nodes.get(progress.lease.node_id):
                node.take(task.task_id, progress.lease)
        else:
            self.alarms.forget(task.task_id)

    def _leave(self, task: Task) -> None:
        progress = task.progress
        if progress.state is TaskState.QUEUED:
            self.queue.remove(task.line, task.demand.number, task.task_id)
        elif progress.state is TaskState.LEASED:
            assert progress.lease is not None
            if node := self.nodes.get(progress.lease.node_id):
                node.drop(task.task_id, progress.lease)
                self.stirred.add(node.record.node_id)
