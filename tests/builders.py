"""Values that many tests need. Each has the least that is valid; a test names what matters to it."""

from __future__ import annotations

from typing import Any

from agent.core import wire
from agent.core.fingerprint import Cpu, Fingerprint, Pool, SandboxFacts, Versions
from agent.core.model import ChatInput, Message, Sampling, Signed, TaskInput, TaskKind, TaskSpec

MODEL = "sha256:" + "ab" * 32
NODE = "node-1"


def task(
    task_id: str = "task-1",
    *,
    task_input: TaskInput | None = None,
    model: str = MODEL,
    max_tokens: int = 16,
    **sampling: Any,
) -> TaskSpec:
    """A small chat task."""
    return TaskSpec(
        task_id=task_id,
        model_digest=model,
        input=task_input or ChatInput(messages=(Message(role="user", content="Name a colour."),)),
        sampling=Sampling(**{"seed": 7, **sampling}),
        max_tokens=max_tokens,
    )


def offer(task_id: str = "task-1", *, attempt: int = 1, fence: int = 1, spec: TaskSpec | None = None, **changes: Any):
    """An offer of a 40 s lease."""
    fields: dict[str, Any] = {
        "node_id": NODE,
        "task": spec or task(task_id),
        "attempt": attempt,
        "fence": fence,
        "lease_ms": 40_000,
        "deadline_ms": 600_000,
        "idem_key": f"{task_id}:{attempt}:{fence}",
        "nonce": "5a" * 32,
    }
    return wire.OfferBody(**{**fields, **changes})


def signed(payload: str = "{}") -> Signed:
    """A signature that nobody checks."""
    return Signed(payload=payload, key="00" * 32, signature="00" * 64)


def pool(name: str = "main", *, slots: int = 2, ready: bool = True, **changes: Any) -> Pool:
    """A ready pool for chat and completion."""
    fields: dict[str, Any] = {
        "name": name,
        "device": "cpu",
        "engine": "llama-server test",
        "model": "tiny",
        "model_digest": MODEL,
        "kinds": (TaskKind.CHAT, TaskKind.COMPLETION),
        "slots": slots,
        "context_tokens": 512,
        "ready": ready,
    }
    return Pool(**{**fields, **changes})


def fingerprint(**changes: Any) -> Fingerprint:
    """A CPU-only machine."""
    fields: dict[str, Any] = {
        "hostname": "box",
        "cpu": Cpu(model="test", cores=2, threads=2, arch="x86_64"),
        "memory_bytes": 8 << 30,
        "sandbox": SandboxFacts(backend="none", usable=False),
        "versions": Versions(agent="0", python="3", kernel="6", os="test"),
    }
    return Fingerprint(**{**fields, **changes})
