"""What the stages need of the world, as narrow interfaces. Edges implement them; tests have fakes of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Protocol

import msgspec

from agent.core import wire
from agent.core.checks.claims import Position
from agent.core.findings import Finding
from agent.core.fingerprint import Cpu, Pool, SandboxFacts, Versions
from agent.core.gpu import GpuReport
from agent.core.model import (
    Blob,
    ChatInput,
    CompletionInput,
    ExecInput,
    FinishReason,
    LeaseKey,
    Signed,
    TaskSpec,
    Usage,
    Value,
)
from agent.core.owner import Observed
from agent.core.proof.files import FileLeaf


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


class Findings(Protocol):
    """What lasts of the findings about GPUs, over restarts of the agent."""

    def load(self) -> Sequence[Finding]: ...
    def keep(self, findings: Sequence[Finding]) -> None:
        """Durable when it returns; blocks. Raises StorageError."""
        ...


class HostFacts(Value):
    """The host, by psutil and /proc."""

    hostname: str
    cpu: Cpu
    memory_bytes: int
    versions: Versions
    boot_id: str


class OwnerView(Protocol):
    """The owner's side of the machine."""

    def look(self, wall: float) -> Observed:
        """At `wall`, Unix seconds. Blocks for some milliseconds; never raises."""
        ...


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
    gpu_memory_bytes: int | None = None
    """Memory on all its GPUs together. Watched, since no kernel limits it: who is over is ended a second later."""


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
    OUT_OF_GPU_MEMORY = "out_of_gpu_memory"
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


EngineOutput = Piece | Vectors | Finished | Printed | Ran


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


class Incoming(Protocol):
    """One blob on its way in: a context manager. Nothing of it stays unless `settle` came to its end."""

    @property
    def sha256(self) -> str: ...
    def write(self, piece: bytes) -> None:
        """Raises EngineError when more comes than was announced, StorageError."""
        ...

    def restart(self) -> None:
        """Forget what came: the connection broke."""
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

    def incoming(self, name: str, size: int) -> Incoming:
        """Takes in one of `lacking`; makes room for it first. Raises StorageError."""
        ...


# --------------------------------------------------------------------------- verify


class Replayer(Protocol):
    """An engine with a model, asked what it would have said in somebody else's place. All raise EngineError."""

    async def prompt_ids(self, given: ChatInput | CompletionInput) -> tuple[int, ...]:
        """Token ids of the prompt, a chat's as the model's template renders it."""
        ...

    async def replay(self, prefix: Sequence[int], ids: Sequence[int], top: int) -> tuple[Position, ...]:
        """A position for each of `ids`, with up to `top` candidates, after `prefix` and the ids before it."""
        ...

    async def in_one_go(self, ids: Sequence[int]) -> int:
        """How many of `ids`, from the first, one replay computes as a generation does: there equal determinism classes
        give equal bits.
        """
        ...

    async def text(self, ids: Sequence[int]) -> str:
        """What the engine would have written for `ids`; U+FFFD where a character is incomplete."""
        ...

    async def ends(self, token: int) -> bool:
        """Whether this token ends a text."""
        ...

    async def rows(self, texts: tuple[str, ...]) -> tuple[tuple[float, ...], ...]:
        """An embedding of each text."""
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


class Room(Value):
    """How much of a quota is used."""

    used_bytes: int
    quota_bytes: int


class Transcripts(Protocol):
    """Keeps transcripts until the challenge window is over."""

    async def keep(self, key: LeaseKey, transcript: bytes, until: float) -> None:
        """Durable when it returns; `until` in Unix seconds. Raises StorageError, `full` also when the quota is."""
        ...

    async def read(self, key: LeaseKey) -> bytes | None:
        """What was kept last for `key`; None when nothing was, or it was swept. Raises StorageError: it is damaged."""
        ...

    async def sweep(self, now: float) -> int:
        """Delete what is past its time, or soon after; returns how many."""
        ...

    def room(self) -> Room: ...


class Artifacts(Protocol):
    """What programs made, until the coordinator has it."""

    async def keep(self, key: LeaseKey, artifact: Artifact) -> None:
        """Durable when it returns, until `drop`. Raises StorageError."""
        ...

    def of(self, key: LeaseKey) -> Blob | None:
        """What is kept for an attempt."""
        ...

    async def read(self, key: LeaseKey) -> bytes:
        """All of what `of` tells. Raises StorageError."""
        ...

    def drop(self, key: LeaseKey) -> None:
        """The coordinator has it, or nobody wants it any more."""
        ...

    def retain(self, keys: Collection[LeaseKey]) -> None:
        """Drop what belongs to none of these attempts: an earlier life ended before it could."""
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

    async def get_blob(self, sha256: str, size: int, write: Callable[[bytes], None]) -> None:
        """Download a blob that a task of this node names, at most `size` bytes of it. Raises LinkError.

        `write` gets the pieces; what it raises ends the download.
        """
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
