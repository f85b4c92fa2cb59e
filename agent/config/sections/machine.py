"""The sections [gpu] and [sandbox]: what is read of the GPUs, and what engines may use."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from agent.config.sections.words import says
from agent.core.model import Value


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
