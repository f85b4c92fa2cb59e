"""Every section and key of the configuration: type, default, bounds and one sentence.

The sentences become the comments of `config.example.toml`; the bounds are what `loading` enforces.
A key that needs a unit carries it in its name (`_s` seconds, `_mib` mebibytes).
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from agent.config.owner import OwnerConfig
from agent.config.words import says
from agent.core.model import TaskKind, Value


class TransportChoice(StrEnum):
    """How the node reaches its coordinator."""

    AUTO = "auto"
    WEBSOCKET = "websocket"
    POLL = "poll"


class SandboxBackend(StrEnum):
    """What isolates engines."""

    BUBBLEWRAP = "bubblewrap"
    PODMAN = "podman"
    DOCKER = "docker"


class ContainerRuntime(StrEnum):
    """What podman and docker start containers with."""

    AUTO = "auto"
    RUNC = "runc"
    CRUN = "crun"


class EngineKind(StrEnum):
    """Who runs the engine: the agent inside its sandbox, or somebody else."""

    LLAMA_SERVER = "llama-server"
    EXTERNAL = "external"


class EngineProfile(StrEnum):
    """Which dialect of the OpenAI-compatible API the engine speaks."""

    LLAMA_SERVER = "llama-server"
    VLLM = "vllm"
    SGLANG = "sglang"
    OLLAMA = "ollama"
    TEI = "tei"
    OPENAI = "openai"


class LogLevel(StrEnum):
    """Lowest level that is written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """How a log line looks."""

    AUTO = "auto"
    JSON = "json"
    CONSOLE = "console"


NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z"
DIGEST_PATTERN = r"^sha256:[0-9a-f]{64}\Z"
DEVICE_PATTERN = r"^(auto|cpu|MIG-[0-9A-Fa-f/-]{1,80}|GPU-[0-9A-Fa-f/-]{1,80}(\+GPU-[0-9A-Fa-f/-]{1,80}){0,15})\Z"

KEY_PATTERN = r"^[0-9a-f]{64}\Z"
EXEC_DEVICE_PATTERN = r"^(cpu|(GPU|MIG)-[0-9A-Fa-f/-]{1,80})\Z"

Name = Annotated[
    str, Meta(pattern=NAME_PATTERN, description="letters, digits, dots, dashes and underscores, at most 63")
]
Digest = Annotated[str, Meta(pattern=DIGEST_PATTERN, description="sha256: and 64 lower-case hex digits")]
PublicKey = Annotated[str, Meta(pattern=KEY_PATTERN, description="an Ed25519 public key, 64 lower-case hex digits")]
ExecDevice = Annotated[str, Meta(pattern=EXEC_DEVICE_PATTERN, description='"cpu" or a GPU UUID (`gpu-agent gpus`)')]
Device = Annotated[
    str, Meta(pattern=DEVICE_PATTERN, description='"cpu", "auto", a GPU UUID, or several with + between')
]


class NodeConfig(Value):
    """This machine."""

    name: Annotated[
        Name | None, says("Name shown to the coordinator; the host name when not set.", example="rig-1")
    ] = None
    state_dir: Annotated[
        Path,
        says("Keys, outbox and ledger; $STATE_DIRECTORY under systemd, below $XDG_STATE_HOME for an ordinary user."),
    ] = Path("/var/lib/gpu-agent")
    cache_dir: Annotated[
        Path, says("Things that can be made again; $CACHE_DIRECTORY under systemd, below $XDG_CACHE_HOME for a user.")
    ] = Path("/var/cache/gpu-agent")
    runtime_dir: Annotated[
        Path, says("Sockets, gone after a reboot; $RUNTIME_DIRECTORY under systemd, below $XDG_RUNTIME_DIR for a user.")
    ] = Path("/run/gpu-agent")
    drain_limit_s: Annotated[
        float,
        Meta(ge=0, le=86_400),
        says("Seconds that a drain lets running tasks finish before it hands them back."),
    ] = 300.0
    breaker_failures: Annotated[
        int,
        Meta(ge=1, le=1000),
        says("Tasks that fail in a row by this node's own fault before their pool takes none for a while."),
    ] = 5


class CoordinatorConfig(Value):
    """Where work comes from."""

    url: Annotated[
        str | None,
        says("Address of the coordinator; plain http:// only on this machine.", example="https://coordinator.example"),
    ] = None
    enrol_token_file: Annotated[
        Path | None,
        says("File with the one-time enrolment token, read once on first start.", example="/etc/gpu-agent/enrol.token"),
    ] = None
    ca_file: Annotated[
        Path | None,
        says("PEM file of the authority that signed the coordinator's certificate.", example="/etc/gpu-agent/ca.pem"),
    ] = None
    transport: Annotated[TransportChoice, says("WebSocket, long-poll, or whichever works.")] = TransportChoice.AUTO


class IdentityConfig(Value):
    """Who this node is."""

    key_file: Annotated[
        Path | None,
        says(
            "Ed25519 node key, mode 0600; the systemd credential `node.key`, or node.key in state_dir, when not set.",
            example="/var/lib/gpu-agent/node.key",
        ),
    ] = None


class GpuConfig(Value):
    """Reading NVIDIA GPUs."""

    enabled: Annotated[bool, says("Whether to look for GPUs at all.")] = True
    library: Annotated[
        Path | None,
        says("NVML library; the loader's libnvidia-ml.so.1 when not set.", example="/usr/lib/libnvidia-ml.so.1"),
    ] = None
    reserve_mib: Annotated[
        int, Meta(ge=0, le=1 << 24), says("Memory in MiB of each GPU that engines leave free for you when they start.")
    ] = 256
    period_s: Annotated[float, Meta(ge=0.1, le=3600), says("Seconds between two readings.")] = 1.0
    attest: Annotated[
        bool,
        says("Whether to show a coordinator that asks that a GPU is one: it computes for some seconds, about daily."),
    ] = True
    deadline_s: Annotated[
        float, Meta(ge=0.1, le=600), says("Seconds after which a reading counts as hung and its process is replaced.")
    ] = 2.0


class SandboxConfig(Value):
    """What an engine that the agent starts may use."""

    backend: Annotated[SandboxBackend, says("What isolates engines.")] = SandboxBackend.BUBBLEWRAP
    bwrap: Annotated[str, Meta(min_length=1), says('Path of bwrap, or "auto" to find one.')] = "auto"
    runtime: Annotated[ContainerRuntime, says("Runtime that podman or docker takes; auto is one that works here.")] = (
        ContainerRuntime.AUTO
    )
    engine_memory_mib: Annotated[
        Annotated[int, Meta(ge=16, le=1 << 24)] | None,
        says("Memory of one engine in MiB; unlimited when not set.", example=8192),
    ] = None
    engine_pids: Annotated[int, Meta(ge=16, le=1 << 20), says("Processes and threads of one engine.")] = 512
    engine_cpus: Annotated[
        Annotated[float, Meta(gt=0, le=4096)] | None,
        says("Processors of one engine; unlimited when not set.", example=4.0),
    ] = None
    tmp_mib: Annotated[int, Meta(ge=1, le=1 << 20), says("Size of an engine's private /tmp in MiB.")] = 256


class ModelConfig(Value):
    """A model that this node has."""

    name: Annotated[Name, says("Name that pools refer to.", example="gemma3-270m")]
    path: Annotated[
        Path | None,
        says("Model file; not needed for a model that only an external engine serves.", example="/models/gemma3.gguf"),
    ] = None
    digest: Annotated[
        Digest | None,
        says("Manifest digest that the file must have; checked before use.", example="sha256:" + "0" * 64),
    ] = None
    license: Annotated[str, says("Licence of the weights, as told to the coordinator.", example="Gemma")] = ""
    chat_template: Annotated[
        Path | None,
        says("Chat template file; the one inside the model when not set.", example="/models/gemma3.jinja"),
    ] = None


class PoolConfig(Value):
    """Slots of one engine with one model on one device."""

    name: Annotated[Name, says("Name of the pool.", example="main")]
    model: Annotated[Name, says("Name of one of the models above.", example="gemma3-270m")]
    device: Annotated[Device, says('"cpu", "auto", a GPU UUID (`gpu-agent gpus`), or several joined by +.')] = "auto"
    engine: Annotated[EngineKind, says("Started by the agent in its sandbox, or external.")] = EngineKind.LLAMA_SERVER
    profile: Annotated[EngineProfile, says("Which engine answers, for its dialect.")] = EngineProfile.LLAMA_SERVER
    binary: Annotated[str, Meta(min_length=1), says('Path of the engine, or "auto" to find one.')] = "auto"
    slots: Annotated[int, Meta(ge=1, le=1024), says("Tasks that run at once.")] = 1
    context_tokens: Annotated[
        int, Meta(ge=16, le=1 << 24), says("Longest prompt plus answer of one slot, in tokens.")
    ] = 4096
    threads: Annotated[
        Annotated[int, Meta(ge=1, le=4096)] | None,
        says("Threads of the engine; its own choice when not set.", example=4),
    ] = None
    gpu_memory_mib: Annotated[
        Annotated[int, Meta(ge=16, le=1 << 24)] | None,
        says("GPU memory in MiB of an engine that the agent starts; it is ended when it uses more.", example=16_384),
    ] = None
    url: Annotated[
        str | None,
        says("External engines only: http://127.0.0.1:8000, https://… or unix:/path.", example="http://127.0.0.1:8000"),
    ] = None
    api_key_file: Annotated[
        Path | None,
        says("External engines only: file with the engine's API key.", example="/etc/gpu-agent/engine.key"),
    ] = None
    kinds: Annotated[
        tuple[TaskKind, ...], Meta(min_length=1), says('Kinds of task taken: "chat", "completion", "embedding".')
    ] = (TaskKind.CHAT, TaskKind.COMPLETION)
    args: Annotated[tuple[str, ...], says("More arguments for an engine that the agent starts.")] = ()
    validate: Annotated[
        bool | None,
        says("Whether it also checks what other nodes computed; as proof.validate when not set.", example=True),
    ] = None


class ProofConfig(Value):
    """Proof of sampling."""

    top_logprobs: Annotated[int, Meta(ge=1, le=256), says("Most likely tokens recorded at each step.")] = 40
    retention_s: Annotated[
        int, Meta(ge=0, le=31_536_000), says("Seconds that transcripts are kept for challenges.")
    ] = 86_400
    retention_mib: Annotated[
        int,
        Meta(ge=64, le=1 << 30),
        says("Disk for transcripts in MiB; no new task is taken while they fill nearly all of it."),
    ] = 16_384
    validate: Annotated[
        bool,
        says("Whether to check, for pay, what other nodes computed with your pools' models; each check takes a slot."),
    ] = False
    calibrations: Annotated[
        Path | None,
        says(
            "Directory of calibrations (`gpu-agent calibrate`), besides those that came with the agent.",
            example="/etc/gpu-agent/calibrations",
        ),
    ] = None
    calibration_keys: Annotated[
        tuple[PublicKey, ...],
        says(
            "Public keys of those whose calibrations you trust; the publisher of gpu-agent always is.",
            example=("0" * 64,),
        ),
    ] = ()


class ExecConfig(Value):
    """Programs that tasks bring along. Off, unless you turn it on."""

    enabled: Annotated[bool, says("Whether to run programs of the publishers below, each in a sandbox of its own.")] = (
        False
    )
    trusted_keys: Annotated[
        tuple[PublicKey, ...],
        says("Public keys of publishers whose bundles you run; all others are refused.", example=("0" * 64,)),
    ] = ()
    slots: Annotated[int, Meta(ge=1, le=1024), says("Programs that run at once.")] = 1
    device: Annotated[ExecDevice, says('"cpu", or the UUID of the GPU that each program gets.')] = "cpu"
    memory_mib: Annotated[int, Meta(ge=16, le=1 << 20), says("The most memory that a program may ask for, in MiB.")] = (
        1024
    )
    cpus: Annotated[float, Meta(ge=0.1, le=1024), says("The most processors.")] = 1.0
    pids: Annotated[int, Meta(ge=16, le=1 << 16), says("The most processes and threads.")] = 256
    wall_s: Annotated[int, Meta(ge=1, le=7 * 86_400), says("The longest run, in seconds.")] = 3600
    tmp_mib: Annotated[int, Meta(ge=1, le=1 << 16), says("The largest /tmp, in MiB; it takes memory.")] = 256
    out_mib: Annotated[int, Meta(ge=1, le=56), says("The most that a program may leave in /out, in MiB.")] = 32
    stdout_kib: Annotated[int, Meta(ge=1, le=4096), says("The most that it may print, in KiB.")] = 1024
    cache_mib: Annotated[
        int,
        Meta(ge=64, le=1 << 24),
        says("Disk for bundles and inputs, in MiB; what was not used for longest goes first."),
    ] = 1024


class LogsConfig(Value):
    """What the agent tells, on standard error."""

    level: Annotated[LogLevel, says("Lowest level that is written.")] = LogLevel.INFO
    format: Annotated[LogFormat, says("JSON lines, or text for people; auto is text on a terminal.")] = LogFormat.AUTO


class ControlConfig(Value):
    """The local socket that `gpu-agent status` talks to."""

    socket: Annotated[
        Path | None,
        says("Path of the socket; control.sock in runtime_dir when not set.", example="/run/gpu-agent/control.sock"),
    ] = None


class MetricsConfig(Value):
    """What Prometheus reads: `GET /metrics`."""

    enabled: Annotated[bool, says("Whether to serve them.")] = True
    listen: Annotated[
        str,
        says("Address and port; by default this machine alone can ask. Everybody who reaches the address reads them."),
    ] = "127.0.0.1:9410"


class Config(Value):
    """Everything an owner can set. `Config()` is valid: a node that only looks at itself."""

    node: NodeConfig = NodeConfig()
    coordinator: CoordinatorConfig = CoordinatorConfig()
    identity: IdentityConfig = IdentityConfig()
    gpu: GpuConfig = GpuConfig()
    sandbox: SandboxConfig = SandboxConfig()
    models: tuple[ModelConfig, ...] = ()
    pools: tuple[PoolConfig, ...] = ()
    proof: ProofConfig = ProofConfig()
    exec: ExecConfig = ExecConfig()
    owner: OwnerConfig = OwnerConfig()
    logs: LogsConfig = LogsConfig()
    control: ControlConfig = ControlConfig()
    metrics: MetricsConfig = MetricsConfig()

    @property
    def key_file(self) -> Path:
        """Where the node's key is."""
        return self.identity.key_file or self.node.state_dir / "node.key"

    @property
    def control_socket(self) -> Path:
        """Where the daemon listens for `gpu-agent status`."""
        return self.control.socket or self.node.runtime_dir / "control.sock"

    def model_named(self, name: str) -> ModelConfig:
        """The model that a pool refers to; `checks` has made sure that there is one."""
        return next(model for model in self.models if model.name == name)
