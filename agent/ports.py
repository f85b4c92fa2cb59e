"""What the stages need of the world, as narrow interfaces. Edges implement them; tests have fakes of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import msgspec

from agent.core import wire
from agent.core.fingerprint import Cpu, Pool, SandboxFacts, Versions
from agent.core.gpu import GpuReport
from agent.core.model import FinishReason, LeaseKey, Signed, TaskSpec, Usage, Value


class Clock(Protocol):
    """Time. Only `monotonic` decides anything."""

    def monotonic(self) -> float: ...
    def wall(self) -> float: ...
    async def sleep(self, seconds: float) -> None: ...


# --------------------------------------------------------------------------- probe


class GpuProbe(Protocol):
    """Reads GPUs; a hung driver delays no caller beyond the probe's own deadline."""

    async def snapshot(self) -> GpuReport:
        """Never raises: what goes wrong is `fault` and `detail` of the report or of one GPU."""
        ...

    async def settled(self) -> GpuReport:
        """Like `snapshot`, but waits for a driver that is still opening its GPUs; bounded too."""
        ...

    async def close(self) -> None: ...


class HostFacts(Value):
    """The host, by psutil and /proc."""

    hostname: str
    cpu: Cpu
    memory_bytes: int
    versions: Versions
    boot_id: str


class HostProbe(Protocol):
    def facts(self) -> HostFacts: ...


# --------------------------------------------------------------------------- sandbox


class Limits(Value):
    """What a sandbox may use. None means unlimited; a limit that cannot be enforced makes `start` refuse."""

    memory_bytes: int | None = None
    pids: int | None = None
    cpus: float | None = None
    tmp_bytes: int = 256 << 20
    open_files: int = 4096
    file_bytes: int = 256 << 20
    wall_s: float | None = None
    stderr_bytes: int = 64 << 10
    """Tail of stderr that is kept; the rest is drained and dropped."""
    stdout_bytes: int = 0
    """Most that `SandboxHandle.stdout` yields; one that writes more is ended with ExitKind.OUTPUT. 0: /dev/null."""
    out_bytes: int = 0
    """Size of the file system at /out, which outlives the program until the handle is closed. 0: there is none."""


class SandboxSpec(Value):
    """One sandboxed program. Paths on the left are the host's."""

    name: str
    """Short label for logs, cgroups and temporary directories."""
    argv: tuple[str, ...]
    """Paths as seen inside."""
    ro_mounts: tuple[tuple[Path, str], ...] = ()
    socket_dir: Path | None = None
    """Host directory, bound read-write at /sock."""
    cwd: str = "/"
    gpus: tuple[str, ...] = ()
    """GPU UUIDs whose device nodes are bound."""
    limits: Limits = Limits()
    env: dict[str, str] = msgspec.field(default_factory=dict)


class ExitKind(StrEnum):
    """How a sandbox ended."""

    EXITED = "exited"
    SIGNALLED = "signalled"
    OUT_OF_MEMORY = "out_of_memory"
    WALL_TIME = "wall_time"
    DISK_FULL = "disk_full"
    """It failed with no room left on one of its file systems."""
    OUTPUT = "output"
    """It wrote more to stdout than allowed."""
    STOPPED = "stopped"
    """We stopped it."""


class Used(Value):
    """What a sandbox used over its life; None where this machine cannot tell."""

    wall_s: float = 0.0
    cpu_s: float | None = None
    memory_peak_bytes: int | None = None


class SandboxExit(Value):
    kind: ExitKind
    code: int = 0
    """Exit status, or signal number for SIGNALLED."""
    detail: str = ""
    """Plain words, control characters removed."""
    used: Used = Used()


class SandboxHandle(Protocol):
    """One running sandbox."""

    @property
    def pid(self) -> int: ...
    def stderr_tail(self) -> str:
        """Last lines of stderr, control characters removed."""
        ...

    def stdout(self) -> AsyncIterator[bytes]:
        """What the program writes, as it comes; ends with the program. One reader; nothing without `stdout_bytes`."""
        ...

    @property
    def out_fd(self) -> int | None:
        """Descriptor of /out, open for reading also after the program's end; None without `out_bytes`."""
        ...

    def close(self) -> None:
        """Give up /out and what is left unread. Idempotent; kills what still runs."""
        ...

    async def wait(self) -> SandboxExit: ...
    async def stop(self, grace_s: float) -> SandboxExit:
        """SIGTERM to the program inside, SIGKILL to the sandbox after `grace_s`."""
        ...

    def kill(self) -> None: ...


class Sandbox(Protocol):
    """Isolates a program."""

    async def probe(self) -> SandboxFacts:
        """Really runs a program and a few escapes; says what is enforced here and what is not."""
        ...

    async def start(self, spec: SandboxSpec) -> SandboxHandle:
        """Raises SandboxError when it cannot be built or a limit of `spec` cannot be enforced."""
        ...


# --------------------------------------------------------------------------- engines


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


EngineOutput = Piece | Vectors | Finished


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


# --------------------------------------------------------------------------- prove, report


class Identity(Protocol):
    """The node's Ed25519 key and whom it trusts."""

    @property
    def node_id(self) -> str: ...
    @property
    def public_key(self) -> str: ...
    @property
    def coordinator_key(self) -> str: ...
    def sign(self, digest: bytes) -> str: ...
    def verify(self, key: str, signature: str, digest: bytes) -> bool: ...


class Transcripts(Protocol):
    """Keeps transcripts until the challenge window is over."""

    async def keep(self, key: LeaseKey, transcript: bytes, until: float) -> None:
        """Durable when it returns; `until` in Unix seconds. Raises StorageError."""
        ...

    async def sweep(self, now: float) -> int:
        """Delete what is past its time; returns how many."""
        ...


class OutboxRow(Value):
    """One finished attempt on its way to the coordinator."""

    key: LeaseKey
    idem_key: str
    offer: Signed
    result: Signed
    output: str | None = None


class Outbox(Protocol):
    """Finished attempts survive a crash until a receipt comes.

    A damaged store is put aside for an empty one at any time, and the call that met the damage goes on with that: who
    put something may find it neither among `pending` nor `settled` any more.
    """

    async def put(self, row: OutboxRow) -> None:
        """Durable (fsync) when it returns. The same idem_key again is no error.

        Raises ConflictError when this attempt ended before under another idem_key: it will never be taken. Any other
        StorageError may pass.
        """
        ...

    async def pending(self, limit: int, skip: Collection[str] = ()) -> Sequence[OutboxRow]:
        """Oldest first, without the idem_keys of `skip`: at most `limit`, and fewer when their outputs are large (a few
        MiB together, but one row always, however large). Raises StorageError.
        """
        ...

    async def unsent(self) -> Mapping[str, LeaseKey]:
        """All that waits, by idem_key, oldest first, without its content. Raises StorageError."""
        ...

    async def settle(self, row: OutboxRow, receipt: Signed, body: wire.ReceiptBody) -> None:
        """In one transaction: write the ledger line with its bundle and delete the row. Raises StorageError.

        What is settled already stays as it is; a row that was lost meanwhile is settled all the same.
        """
        ...

    async def settled(self, key: LeaseKey, idem_key: str) -> bool:
        """Whether `idem_key`, or this attempt of the task under any other, is settled or waiting: its offer is a replay
        then, or one attempt given out twice. Raises StorageError.
        """
        ...

    async def settled_many(self, offers: Sequence[tuple[LeaseKey, str]]) -> Sequence[bool]:
        """`settled` of each, all in one look that waits for no write. Raises StorageError."""
        ...


class Link(Protocol):
    """The coordinator. Opens and re-opens its session by itself, through the Greeter."""

    async def call(self, message: wire.UpMessage) -> wire.DownMessage:
        """Send and await the reply. Raises LinkError; a Refusal is raised as LinkFault.REFUSED."""
        ...

    async def post(self, message: wire.Chunk) -> None:
        """Send without a reply; may be lost."""
        ...

    async def put_blob(self, sha256: str, body: bytes) -> None:
        """Idempotent upload. Raises LinkError."""
        ...

    def pushes(self) -> AsyncIterator[wire.Push]:
        """What the coordinator sends unasked; ends when the link is closed."""
        ...

    def describe(self) -> Mapping[str, str]:
        """Transport, state, last fault and clock offset, for status."""
        ...

    async def close(self) -> None: ...


class Greeter(Protocol):
    """What a link needs to open a session; the node implements it."""

    def hello(self, nonce: str) -> wire.Hello: ...
    def welcomed(self, hello: wire.Hello, welcome: wire.Welcome) -> None:
        """`hello` is the one that was answered: two sessions may be opening at once."""
        ...
