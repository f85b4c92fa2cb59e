"""What a requester may ask: a task, checked and completed, and its cancellation."""

from __future__ import annotations

import hashlib
import re

import msgspec

from agent.core import program
from agent.core.model import (
    ChatInput,
    CompletionInput,
    EmbeddingInput,
    ExecInput,
    Reason,
    Sampling,
    TaskKind,
    TaskSpec,
    Value,
)
from agent.core.proof.signed import Verify
from agent.core.wire import Cancel, RefusalCode, encode
from agent.devnet.core.book import Book
from agent.devnet.core.effects import Decision, PushTo, SaveDemand
from agent.devnet.core.granting import conclude
from agent.devnet.core.queue import DEADLINE
from agent.devnet.core.records import ENDED, Demand, Progress, Task, TaskState
from agent.devnet.core.rules import MAX_OFFER_BYTES, Instant, Refused, Rules, bad_message

NO_SEED = 0xFFFF_FFFF
"""Engines read this seed as "take a random one"."""
MAX_TOKENS = 131_072
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_ROLES = frozenset({"system", "user", "assistant"})
_MILLION = 1_000_000


class SamplingAsked(Value, forbid_unknown_fields=True):
    """As model.Sampling, but the seed may be left to the coordinator."""

    seed: int | None = None
    temperature_micros: int = 800_000
    top_k: int = 40
    top_p_micros: int = 950_000
    min_p_micros: int = 0
    stop: tuple[str, ...] = ()


Asked = ChatInput | CompletionInput | EmbeddingInput | ExecInput
"""What may be asked for. To check other nodes' work is the coordinator's own to give out."""


class TaskAsked(Value, forbid_unknown_fields=True):
    """`POST /v1/tasks`."""

    model_digest: str
    input: Asked
    max_tokens: int = 0
    """Required but for embeddings and programs, which generate nothing."""
    sampling: SamplingAsked = SamplingAsked()
    deadline_s: float | None = None
    request_key: str = ""
    """Any text that names this request: asking again with it gives the same task, not another."""


def submit(book: Book, when: Instant, asked: TaskAsked, task_id: str, nonce: str) -> Decision[str]:
    """Queue a task and return its id; `task_id` and `nonce` (32 bytes, hex) are fresh chance. Raises Refused."""
    if known := book.by_request.get(asked.request_key):
        return book.decide(known)
    _check(book, asked)
    if len(book.queue) >= book.rules.max_queued:
        raise Refused(RefusalCode.BUSY, f"{len(book.queue)} tasks are queued already", retry_after_s=book.rules.beat_s)
    spec = TaskSpec(
        task_id=task_id,
        model_digest=asked.model_digest,
        input=asked.input,
        sampling=_sampling(asked.sampling, seed_of(task_id, nonce)),
        max_tokens=asked.max_tokens,
    )
    deadline_s = asked.deadline_s or _patience_s(asked, book.rules)
    demand = Demand(
        number=book.number + 1,
        spec=spec,
        nonce=nonce,
        deadline_ms=int(deadline_s * 1000),
        submitted_at=when.at,
        request_key=asked.request_key,
    )
    task = live(demand, Progress(), when)
    if task.bytes > MAX_OFFER_BYTES:
        raise Refused(
            RefusalCode.TOO_LARGE, f"the task takes {task.bytes} bytes on the wire; at most {MAX_OFFER_BYTES}"
        )
    book.add(task)
    book.alarms.set(task.due, task_id, DEADLINE)
    book.write(SaveDemand(demand=demand))
    book.keep(task)
    return conclude(book, when, task_id)


def cancel(book: Book, when: Instant, task_id: str) -> Decision[TaskState]:
    """Stop a task wherever it is; one that has ended stays as it is. Raises Refused."""
    task = book.task(task_id)
    if task.progress.state in ENDED:
        return book.decide(task.progress.state)
    lease = task.progress.lease if task.progress.state is TaskState.LEASED else None
    detail = "cancelled by the requester"
    book.move(task, msgspec.structs.replace(task.progress, state=TaskState.CANCELLED, detail=detail))
    if lease:
        book.tell(PushTo(node_id=lease.node_id, push=Cancel(key=lease.key, reason=Reason.CANCELLED_BY_REQUESTER)))
    return conclude(book, when, TaskState.CANCELLED)


def live(demand: Demand, progress: Progress, when: Instant) -> Task:
    """The live view of a task, new or read back.

    A new task's deadline counts from now. Of one that is read back the wall clock tells how much of it is over, for
    nothing else outlives a restart; a clock that was set back costs it nothing.
    """
    over_s = max(when.at - demand.submitted_at, 0)
    due = when.now + max(demand.deadline_ms / 1000 - over_s, 0.0)
    return Task(demand=demand, progress=progress, due=due, bytes=_offer_bytes(demand.spec))


def seed_of(task_id: str, nonce: str) -> int:
    """First 32 bits of SHA-256(task id ‖ nonce bytes): nobody's choice, and never the value that means "random"."""
    seed = int.from_bytes(hashlib.sha256(task_id.encode() + bytes.fromhex(nonce)).digest()[:4], "big")
    return seed if seed != NO_SEED else NO_SEED - 1


def _patience_s(asked: TaskAsked, rules: Rules) -> float:
    """The deadline of who names none; a program may need all its time after it has waited for its turn."""
    wall_s = asked.input.limits.wall_s if isinstance(asked.input, ExecInput) else 0
    return min(rules.default_deadline_s + wall_s, rules.max_deadline_s)


def _sampling(asked: SamplingAsked, seed: int) -> Sampling:
    return Sampling(
        seed=seed if asked.seed is None else asked.seed,
        temperature_micros=asked.temperature_micros,
        top_k=asked.top_k,
        top_p_micros=asked.top_p_micros,
        min_p_micros=asked.min_p_micros,
        stop=asked.stop,
    )


def _offer_bytes(spec: TaskSpec) -> int:
    """The task as JSON within JSON, where quotes and backslashes double, and 1 KiB for all else in an offer."""
    raw = encode(spec)
    return len(raw) + raw.count(b'"') + raw.count(b"\\") + 1024


def _check(book: Book, asked: TaskAsked) -> None:
    faults = [*_input_faults(asked, book.verify), *_sampling_faults(asked.sampling)]
    if not _DIGEST.fullmatch(asked.model_digest):
        faults.append("model_digest: expected sha256: and 64 lower-case hex digits")
    if asked.deadline_s is not None and not 0 < asked.deadline_s <= book.rules.max_deadline_s:
        faults.append(f"deadline_s: expected more than 0 and at most {book.rules.max_deadline_s:g}")
    if len(asked.request_key) > 200:
        faults.append("request_key: at most 200 characters")
    if faults:
        raise bad_message("; ".join(faults))


def _input_faults(asked: TaskAsked, verify: Verify) -> list[str]:
    faults = []
    match asked.input:
        case ChatInput(messages=messages):
            if not messages:
                faults.append("input.messages: at least one is needed")
            faults += [f"input.messages[{i}].role: {m.role!r}" for i, m in enumerate(messages) if m.role not in _ROLES]
        case CompletionInput(prompt=prompt):
            if not prompt:
                faults.append("input.prompt: must not be empty")
        case EmbeddingInput(texts=texts):
            if not texts or not all(texts):
                faults.append("input.texts: at least one, none of them empty")
            return faults
        case ExecInput():
            return [*faults, *_program_faults(asked, asked.input, verify)]
    if not 1 <= asked.max_tokens <= MAX_TOKENS:
        faults.append(f"max_tokens: expected 1 to {MAX_TOKENS} for {TaskKind.CHAT} and {TaskKind.COMPLETION}")
    return faults


def _program_faults(asked: TaskAsked, task: ExecInput, verify: Verify) -> list[str]:
    faults = [f"input.{fault}" for fault in program.faults(task)]
    if not faults and not program.published(task.bundle, verify):
        faults.append("input.bundle.signature: it is not the publisher's, or not over this digest and size")
    if asked.model_digest != program.RUNTIME:
        faults.append(f"model_digest: of a program it is {program.RUNTIME}")
    if asked.max_tokens:
        faults.append("max_tokens: a program has none")
    return faults


def _sampling_faults(sampling: SamplingAsked) -> list[str]:
    bounds = {
        "seed": (sampling.seed or 0, 0, NO_SEED - 1),
        "temperature_micros": (sampling.temperature_micros, 0, 5 * _MILLION),
        "top_k": (sampling.top_k, 0, 1_000_000),
        "top_p_micros": (sampling.top_p_micros, 1, _MILLION),
        "min_p_micros": (sampling.min_p_micros, 0, _MILLION),
    }
    faults = [f"sampling.{k}: expected {low} to {high}" for k, (v, low, high) in bounds.items() if not low <= v <= high]
    if len(sampling.stop) > 16 or not all(1 <= len(stop) <= 256 for stop in sampling.stop):
        faults.append("sampling.stop: at most 16 texts of 1 to 256 characters")
    return faults
