"""The sections [[models]], [[pools]], [proof] and [exec]: what the node computes, and what it proves of it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from agent.config.sections.spelling import Device, Digest, ExecDevice, Name, PublicKey
from agent.config.sections.words import says
from agent.core.model import TaskKind, Value


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
    toploc: Annotated[
        bool,
        says("Imprint hidden states (docs/proof.md, TOPLOC) on a second engine beside it, with memory of its own."),
    ] = False

    @property
    def states_name(self) -> str:
        """Of its second engine, which tells hidden states."""
        return f"{self.name}-states"


class ProofConfig(Value):
    """Proof of sampling."""

    # Fewer are suspect to whoever checks (`core.checks.verdict.Thresholds.candidates`).
    top_logprobs: Annotated[int, Meta(ge=20, le=256), says("Most likely tokens recorded at each step.")] = 40
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
