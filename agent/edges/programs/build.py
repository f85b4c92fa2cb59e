"""The pool of programs, from the configuration."""

from __future__ import annotations

from typing import NamedTuple

from agent.config import Config, ExecConfig
from agent.config.checks import EXEC_POOL
from agent.core.fingerprint import SandboxFacts
from agent.core.model import ExecLimits
from agent.edges.programs.artifacts import DIRECTORY_NAME, FileArtifacts
from agent.edges.programs.pool import ProgramPool, ProgramSettings
from agent.edges.programs.stock import Stock
from agent.edges.signing import verify
from agent.ports import Clock, Sandbox

STOCK_NAME = "programs"


class Programs(NamedTuple):
    """What runs programs."""

    pool: ProgramPool
    stock: Stock
    artifacts: FileArtifacts


def build_programs(config: Config, sandbox: Sandbox, facts: SandboxFacts, clock: Clock) -> Programs | None:
    """None where the owner runs none. Raises StorageError."""
    asked = config.exec
    if not asked.enabled:
        return None
    stock = Stock(config.node.cache_dir / STOCK_NAME, asked.cache_mib << 20)
    artifacts = FileArtifacts(config.node.state_dir / DIRECTORY_NAME)
    settings = ProgramSettings(
        name=EXEC_POOL,
        slots=asked.slots,
        publishers=asked.trusted_keys,
        most=most(asked),
        backend=facts.backend,
        gpus=() if asked.device == "cpu" else (asked.device,),
    )
    pool = ProgramPool(settings, sandbox=sandbox, clock=clock, stock=stock, artifacts=artifacts, verify=verify)
    return Programs(pool, stock, artifacts)


def most(asked: ExecConfig) -> ExecLimits:
    """What a program may ask for at most."""
    return ExecLimits(
        memory_bytes=asked.memory_mib << 20,
        cpu_millis=round(asked.cpus * 1000),
        pids=asked.pids,
        wall_s=asked.wall_s,
        tmp_bytes=asked.tmp_mib << 20,
        out_bytes=asked.out_mib << 20,
        stdout_bytes=asked.stdout_kib << 10,
    )
