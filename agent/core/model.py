"""The vocabulary of a task: what is asked, where an attempt is, how it ended and why.

The same words stand in the glossary, on the wire and in the logs. Every enum here is closed.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, dataclass_transform

import msgspec


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class ValueMeta(msgspec.StructMeta):
    """Makes every subclass frozen and keyword-only; msgspec does not inherit `kw_only` by itself."""

    def __new__(mcls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **config: Any) -> Any:
        return super().__new__(mcls, name, bases, namespace, **{"frozen": True, "kw_only": True, **config})


class Value(msgspec.Struct, metaclass=ValueMeta):
    """A named, immutable value. Unknown fields are ignored on decode (protocol.md: additive evolution)."""


Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 53) - 1)]
"""Not negative, and exact in every JSON reader: a larger number fits neither a double nor a database column."""


class Batch(Value, forbid_unknown_fields=True):
    """Where one payload stands among those that were signed together."""

    index: Count
    count: Count
    path: tuple[str, ...]
    """Siblings in the Merkle tree, from the leaf upwards, hex."""


class Signed(Value, forbid_unknown_fields=True):
    """Exact bytes and who vouches for them. `payload` is JSON text; the signature covers its UTF-8 bytes.

    The bytes are signed as sent, so that no two JSON writers can disagree. See `core.proof.signed`.
    """

    payload: str
    key: str
    """Ed25519 public key, 64 lower-case hex digits."""
    signature: str
    """Ed25519 signature (RFC 8032), 128 lower-case hex digits."""
    batch: Batch | None = None
    """None: the signature is over this payload alone."""


class State(StrEnum):
    """Where an attempt is."""

    LEASED = "leased"
    STAGING = "staging"
    RUNNING = "running"
    PROVING = "proving"
    REPORTING = "reporting"
    CLOSED = "closed"


class Outcome(StrEnum):
    """How an attempt ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    """Our lease or the task's deadline ran out and the attempt stopped itself."""
    HANDED_BACK = "handed_back"
    """Given back unharmed; the coordinator may lease it again at once."""
    DECLINED = "declined"
    """Never started."""


class Reason(StrEnum):
    """Why: of an outcome, of a declined offer, or of a node that takes no work."""

    # an attempt ended
    COMPLETED = "completed"
    ENGINE_CRASHED = "engine_crashed"
    ENGINE_UNAVAILABLE = "engine_unavailable"
    ENGINE_GARBAGE = "engine_garbage"
    ENGINE_REFUSED = "engine_refused"
    OUTPUT_TOO_LARGE = "output_too_large"
    PROOF_FAILED = "proof_failed"
    STORAGE_FULL = "storage_full"
    CANCELLED_BY_REQUESTER = "cancelled_by_requester"
    LEASE_EXPIRED = "lease_expired"
    LEASE_LOST = "lease_lost"
    LEASE_REVOKED = "lease_revoked"
    """The coordinator took the lease back; comes with a pushed cancel."""
    START_REFUSED = "start_refused"
    DEADLINE_PASSED = "deadline_passed"
    DRAIN_LIMIT = "drain_limit"
    ABORTED = "aborted"
    INTERNAL = "internal"
    """A fault of the agent itself; the log has the traceback."""
    # a program's end: the attempt succeeded all the same, and its result tells this
    PROGRAM_FAILED = "program_failed"
    """It ended by itself, with a status other than 0 or by a signal."""
    OUT_OF_MEMORY = "out_of_memory"
    WALL_TIME = "wall_time"
    DISK_FULL = "disk_full"
    # what a program needs was not to be had
    BLOB_UNAVAILABLE = "blob_unavailable"
    """The coordinator does not have it, or has other bytes than it said."""
    BUNDLE_REFUSED = "bundle_refused"
    """It is no archive of the kind that is taken."""
    # an offer was declined
    WRONG_NODE = "wrong_node"
    MALFORMED_OFFER = "malformed_offer"
    REPLAYED_OFFER = "replayed_offer"
    LEASE_TOO_SHORT = "lease_too_short"
    UNKNOWN_MODEL = "unknown_model"
    UNSUPPORTED_KIND = "unsupported_kind"
    UNSUPPORTED_SAMPLING = "unsupported_sampling"
    CONTEXT_TOO_LONG = "context_too_long"
    NO_CREDIT = "no_credit"
    UNTRUSTED_BUNDLE = "untrusted_bundle"
    """Its publisher is not one that the owner listed, or did not sign it."""
    LIMIT_TOO_HIGH = "limit_too_high"
    """A program asks for more than the owner allows."""
    UNCALIBRATED = "uncalibrated"
    """A validator has no thresholds for this model and engine, so it cannot tell noise from a cheat."""
    # a GPU is not well (ends attempts, declines, and keeps pools from taking work)
    GPU_LOST = "gpu_lost"
    GPU_DEGRADED = "gpu_degraded"
    GPU_UNKNOWN = "gpu_unknown"
    """It was not read yet, or is not any more."""
    # the owner needs the machine
    OUTSIDE_SCHEDULE = "outside_schedule"
    OWNER_PROGRAM = "owner_program"
    """A program that the owner listed runs."""
    ON_BATTERY = "on_battery"
    OWNER_ACTIVE = "owner_active"
    """The owner is at the machine, or whether he is cannot be told (`owner.idle_only`)."""
    GPU_IN_USE = "gpu_in_use"
    """A program of the owner's uses the GPU (`owner.idle_only`)."""
    GPU_HOT = "gpu_hot"
    """Hotter than the owner allows."""
    GPU_POWER = "gpu_power"
    """It draws more than the owner allows."""
    ATTESTING = "attesting"
    """The coordinator checks that it is a GPU."""
    # the node takes no work (also used to decline)
    STARTING = "starting"
    DRAINING = "draining"
    PAUSED = "paused"
    COORDINATOR_PAUSED = "coordinator_paused"
    POOL_NOT_READY = "pool_not_ready"
    NO_POOL = "no_pool"
    OUTBOX_BACKLOG = "outbox_backlog"
    """Too many finished results wait for a receipt."""
    COORDINATOR_UNREACHABLE = "coordinator_unreachable"
    NO_DEMAND = "no_demand"
    TOO_MANY_FAILURES = "too_many_failures"
    """Several tasks in a row failed by the node's own fault; it tries one again after a while."""


class TaskKind(StrEnum):
    """What a task asks of an engine."""

    CHAT = "chat"
    COMPLETION = "completion"
    EMBEDDING = "embedding"
    EXEC = "exec"
    """Runs a program; the pool's engine is the sandbox itself."""
    VERIFY = "verify"
    """Checks what another node claims to have computed, by repeating some of it (proof.md, Validator)."""


class FinishReason(StrEnum):
    """Why a generation ended."""

    STOP = "stop"
    """End-of-text token or a stop string."""
    LENGTH = "length"
    """`max_tokens` reached."""


class Message(Value, forbid_unknown_fields=True):
    """One turn of a chat."""

    role: str
    """`system`, `user` or `assistant`."""
    content: str


class ChatInput(Value, tag="chat", tag_field="kind", forbid_unknown_fields=True):
    """Turns that the model's own chat template renders."""

    messages: tuple[Message, ...]


class CompletionInput(Value, tag="completion", tag_field="kind", forbid_unknown_fields=True):
    """Raw text to continue."""

    prompt: str


class EmbeddingInput(Value, tag="embedding", tag_field="kind", forbid_unknown_fields=True):
    """Texts to embed, one row of output each."""

    texts: tuple[str, ...]


class Blob(Value, forbid_unknown_fields=True):
    """Bytes, named by their digest."""

    sha256: str
    """64 lower-case hex digits."""
    bytes: Count


class Bundle(Value, forbid_unknown_fields=True):
    """A program as somebody published it: an archive (`core.archive`) whose files the task finds in /bundle."""

    sha256: str
    bytes: Count
    publisher: str
    """Ed25519 public key, hex. An owner runs bundles of those publishers alone that the configuration lists."""
    signature: str
    """The publisher's, over `core.program.bundle_digest`."""


class ExecLimits(Value, forbid_unknown_fields=True):
    """The most that a program may use; an owner who allows less declines the task."""

    memory_bytes: Count = 512 << 20
    cpu_millis: Count = 1000
    """Thousandths of a processor."""
    pids: Count = 64
    """Processes and threads."""
    wall_s: Count = 600
    tmp_bytes: Count = 64 << 20
    """Size of /tmp; it counts as memory."""
    out_bytes: Count = 16 << 20
    """Size of /out, and of what is collected from it."""
    stdout_bytes: Count = 1 << 20


class ExecInput(Value, tag="exec", tag_field="kind", forbid_unknown_fields=True):
    """A program to run, in a sandbox of its own: /bundle and /in are read-only, /out is collected."""

    bundle: Bundle
    argv: tuple[str, ...]
    env: dict[str, str] = msgspec.field(default_factory=dict)
    inputs: dict[str, Blob] = msgspec.field(default_factory=dict)
    """Name in /in → content."""
    outputs: tuple[str, ...] = ("**",)
    """What to collect: patterns of paths below /out (`core.globs`)."""
    cwd: str = "/out"
    merge_stderr: bool = False
    """Send stderr the way of stdout, in order; else its tail comes with the result."""
    limits: ExecLimits = ExecLimits()


class VerifyInput(Value, tag="verify", tag_field="kind", forbid_unknown_fields=True):
    """Another node's claim, to be checked. The task's model is the claimed one."""

    evidence: Blob
    """JSON of a `payloads.ReceiptBundle` with an opening."""
    leaves: tuple[Count, ...] = ()
    """Which leaves to repeat on the model, as the beacon drew them; none: all that are opened."""


TaskInput = ChatInput | CompletionInput | EmbeddingInput | ExecInput | VerifyInput


class Sampling(Value, forbid_unknown_fields=True):
    """Sampler chain, in integers (micro-units), so that the same bytes are signed and hashed everywhere."""

    seed: Count
    """u32, never 0xFFFFFFFF (engines read that as "random"). Chosen by the coordinator, never by the node."""
    temperature_micros: int = 800_000
    """0 is greedy."""
    top_k: int = 40
    top_p_micros: int = 950_000
    min_p_micros: int = 0
    stop: tuple[str, ...] = ()


class TaskSpec(Value, forbid_unknown_fields=True):
    """What is asked: one task."""

    task_id: str
    model_digest: str
    """Manifest digest of the model, `sha256:` + 64 hex digits (see `core.manifest`); of a program, what it finds
    around it: `core.program.RUNTIME`."""
    input: TaskInput
    sampling: Sampling
    max_tokens: Count

    @property
    def kind(self) -> TaskKind:
        """The task's kind, read from its input."""
        match self.input:
            case ChatInput():
                return TaskKind.CHAT
            case CompletionInput():
                return TaskKind.COMPLETION
            case EmbeddingInput():
                return TaskKind.EMBEDDING
            case ExecInput():
                return TaskKind.EXEC
            case VerifyInput():
                return TaskKind.VERIFY


class LeaseKey(Value, forbid_unknown_fields=True):
    """Names one lease: the task, which attempt at it, and the fence that rises with every lease of the task."""

    task_id: str
    attempt: Count
    fence: Count


class Usage(Value):
    """Tokens of one attempt."""

    prompt_tokens: Count = 0
    completion_tokens: Count = 0


class Timings(Value):
    """Durations of one attempt on the node's monotonic clock, in milliseconds."""

    staging_ms: Count = 0
    first_token_ms: Count = 0
    """From the request to the engine until its first token; 0 when there was none."""
    running_ms: Count = 0
    proving_ms: Count = 0


class Commitment(Value, forbid_unknown_fields=True):
    """What the node commits to with its result (proof.md); the result's signature covers it. Read by
    `core.proof.commitment`.
    """

    header: str
    """Canonical header bytes, base64."""
    root: str
    """RFC 6962 style Merkle root over the leaves, hex."""
    leaves: Count
