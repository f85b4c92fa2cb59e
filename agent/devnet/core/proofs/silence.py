"""Validators that take checks and do not see them through: whoever they check would wait for nothing.

What is given back unharmed is free for others at once, and a failure that is told may be the fault of the evidence: of
these nothing is held against anybody.
"""

from __future__ import annotations

from agent.core.model import LeaseKey, TaskKind
from agent.core.payloads import Judgement
from agent.core.text import span
from agent.devnet.core.book import Book
from agent.devnet.core.proofs.judging import judge_verdict
from agent.devnet.core.proofs.standing import after_silence, standing_of
from agent.devnet.core.records import Lease, Task
from agent.devnet.core.rules import Instant


def undelivered(book: Book, when: Instant, task: Task, lease: Lease, detail: str) -> None:
    """A lease ran out, or the deadline came after its holder had half of the time at least. Of a check that counts."""
    if task.demand.spec.kind is TaskKind.VERIFY:
        unkept(book, when, lease.node_id, lease.key, f"the check was taken and not delivered: {detail}")


def unkept(book: Book, when: Instant, node_id: str, key: LeaseKey, detail: str) -> None:
    """Count it, and tell the node."""
    before = standing_of(book, node_id)
    rules = book.rules.proofs
    standing = after_silence(before, key.fence, book.fence, when.at, rules)
    if standing.rests_until > before.rests_until:
        detail = f"{detail}; it gets no more checks for {span(rules.rest_s)}"
    judge_verdict(book, when, standing, key, Judgement.UNOPENED, detail)
