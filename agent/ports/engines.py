"""What computes: engines and programs."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

import msgspec

from agent.core.fingerprint import Pool
from agent.core.model import Blob, ExecInput, FinishReason, TaskSpec, Usage, Value
from agent.core.proof.files import FileLeaf
from agent.ports.replay import Replayer
from agent.ports.sandbox import SandboxExit


class Piece(msgspec.Struct, frozen=True, gc=False):
    """One generated token. `top_ids` and `top_logprobs` run parallel, most likely first."""

    text: str
    token_id: int | None = None
    logprob: float | None = None
    top_ids: tuple[int, ...] = ()
    top_logprobs: tuple[float, ...] = ()


class Vectors(Value):
    """Embeddings, a row per input text."""

    rows: tuple[tuple[float, ...], ...]


class Imprints(Value):
    """Of the hidden states of all tokens of one generation (TOPLOC), before Finished."""

    of_leaves: tuple[bytes, ...]
    """Of each 32 tokens, up to the first that came without its id."""


class Finished(Value):
    """The last thing an engine yields."""

    finish: FinishReason
    usage: Usage
    request_sha256: str
    """Digest of the exact request body that the engine got."""
    prompt_sha256: str = ""
    """Digest of the prompt's token ids (u32 little-endian), where the engine tells them."""
    n_probs: int = 0
    """Candidates per token that the request asked for."""


class Printed(Value):
    """Some of a program's stdout."""

    data: bytes


class Artifact(Protocol):
    """What a program made, in one file that nobody keeps yet: it is gone with the last reference to it."""

    @property
    def blob(self) -> Blob: ...
    @property
    def path(self) -> Path: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """The last thing that a pool of programs yields."""

    end: SandboxExit
    members: tuple[FileLeaf, ...]
    """Of the artifact, in its order: files of /out, stderr, stdout."""
    artifact: Artifact
    stdout_tail: str
    stderr_tail: str
    """Control characters removed, both."""
    left_out: tuple[str, ...] = ()
    """What lay in /out and could not be collected, in words."""
    overfull: str = ""
    """Why nothing of /out was collected, when it held more than allowed."""


EngineOutput = Piece | Vectors | Imprints | Finished | Printed | Ran


class EnginePool(Protocol):
    """One engine with one model on one device, supervised."""

    @property
    def facts(self) -> Pool:
        """Current facts; `ready` turns true after the canary."""
        ...

    async def run(self, changed: Callable[[], None]) -> None:
        """Start, watch and restart the engine until cancelled; call `changed` whenever `facts` changed."""
        ...

    async def check(self, task: TaskSpec) -> None:
        """A closer look before the lease is confirmed: does the prompt with `max_tokens` fit the context?

        Raises EngineError with the reason to decline for (CONTEXT_TOO_LONG, UNSUPPORTED_SAMPLING, …). Cheap; an
        engine that cannot tell says nothing.
        """
        ...

    def generate(self, task: TaskSpec) -> AsyncGenerator[EngineOutput, None]:
        """Raises EngineError. Closing the generator stops the engine's work on this task."""
        ...

    def replayer(self) -> AbstractAsyncContextManager[Replayer]:
        """The pool's engine, to repeat what others claim.

        Entering raises EngineError, UNSUPPORTED_KIND where it cannot; inside, an engine that died is ENGINE_CRASHED.
        """
        ...


class Incoming(Protocol):
    """One blob on its way in: a context manager. Nothing of it stays unless `settle` came to its end."""

    @property
    def sha256(self) -> str: ...
    def write(self, piece: bytes) -> None:
        """Raises EngineError when more comes than was announced, StorageError."""
        ...

    def restart(self) -> None:
        """Forget what came: the connection broke. Raises StorageError."""
        ...

    async def settle(self) -> None:
        """All has come: check and keep it, durable when this returns. Raises EngineError, StorageError."""
        ...

    def __enter__(self) -> Incoming: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Stock(Protocol):
    """Bundles and inputs of programs, by digest."""

    def lacking(self, task: ExecInput) -> Mapping[str, int]:
        """What has to be fetched before `task` can run: its name here → size."""
        ...

    async def incoming(self, name: str, size: int) -> Incoming:
        """Takes in one of `lacking`; makes room for it first. Raises StorageError."""
        ...
