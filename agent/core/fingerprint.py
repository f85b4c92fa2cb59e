"""What a node is: hardware, pools, models, what its sandbox enforces, versions."""

from __future__ import annotations

from agent.core.attest.consistency import Doubt
from agent.core.findings import Finding
from agent.core.gpu import Gpu
from agent.core.health import GpuHealth, HealthState, explained
from agent.core.model import ExecLimits, TaskKind, Value


class Cpu(Value):
    """The host's processor."""

    model: str
    cores: int
    threads: int
    arch: str


class Model(Value):
    """A model file set that was verified on this node."""

    name: str
    digest: str
    """Manifest digest, `sha256:` + hex."""
    bytes: int
    license: str = ""


class ProgramTerms(Value):
    """Whose programs a pool runs, and what they may ask for."""

    publishers: tuple[str, ...]
    """Public keys, hex, of those whose bundles the owner runs."""
    most: ExecLimits


class Pool(Value):
    """Slots of one engine with one model on one device: what work is placed on."""

    name: str
    device: str
    """`cpu`, or GPU UUIDs joined by `+`."""
    engine: str
    """Engine profile and version, such as `llama-server b1-86a2835`."""
    model: str
    model_digest: str
    kinds: tuple[TaskKind, ...]
    slots: int
    context_tokens: int
    """Longest prompt plus completion that one slot takes."""
    engine_digest: str = ""
    """SHA-256 over the engine's binaries; empty for an external engine, which cannot be measured."""
    programs: ProgramTerms | None = None
    """Of a pool of programs alone."""
    determinism: str = "U"
    """Determinism class id (proof.md); `U` is unverifiable."""
    ready: bool = False
    detail: str = ""
    """Why not, in plain words, when it is not ready."""


class Enforcement(Value):
    """Whether the sandbox really enforces one limit here."""

    limit: str
    """`memory`, `pids`, `cpu`, `disk`, `output`, `network`, `syscalls`, `wall`, `files`."""
    enforced: bool
    how: str
    """The mechanism, or why there is none."""
    evadable: bool = False
    """It stops what only grows, as an engine may; a program that means to can get around it."""


class SandboxFacts(Value):
    """What the sandbox on this machine promises, found by running it."""

    backend: str
    """`bubblewrap 0.11.0`, or `none`."""
    usable: bool
    limits: tuple[Enforcement, ...] = ()
    detail: str = ""
    """When unusable: why, and the remedy."""


class Versions(Value):
    """Software versions."""

    agent: str
    python: str
    kernel: str
    os: str
    driver: str = ""
    cuda: str = ""


class GpuStanding(Value):
    """Whether one GPU may take work."""

    uuid: str
    state: HealthState
    findings: tuple[Finding, ...] = ()
    """What is wrong, the gravest first."""
    detail: str = ""
    """Why it takes no work, in one line; empty when it does."""
    doubts: tuple[Doubt, ...] = ()
    """What is told of it and does not fit together: it takes work all the same, and is never attested."""


def standing_of(uuid: str, health: GpuHealth, doubts: tuple[Doubt, ...] = ()) -> GpuStanding:
    """What is told of one GPU."""
    return GpuStanding(uuid=uuid, state=health.state, findings=health.findings, detail=explained(health), doubts=doubts)


class Fingerprint(Value):
    """All of the above; sent in full on hello, on change, and every five minutes."""

    hostname: str
    cpu: Cpu
    memory_bytes: int
    sandbox: SandboxFacts
    versions: Versions
    gpus: tuple[Gpu, ...] = ()
    gpu_note: str = ""
    """Why there is no GPU, in plain words; empty when there is one."""
    standings: tuple[GpuStanding, ...] = ()
    pools: tuple[Pool, ...] = ()
    models: tuple[Model, ...] = ()
    boot_id: str = ""
