"""Reads what the owner's limits rest on: who is at the machine, and what memory engines on the processor find."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from agent.config import Config, EngineKind, PoolConfig
from agent.core import machine_judgements as judge
from agent.core.doctor import Finding
from agent.core.errors import EngineError, ModelError
from agent.core.model_memory import Need, need
from agent.core.placement import plan_of
from agent.core.status import PoolStatus
from agent.edges import presence
from agent.edges.engines.launch import CPU, find_llama_server, runs_on_nvidia
from agent.edges.host import memory_limits
from agent.edges.models.gguf import model_shape


def at_the_machine() -> Finding:
    """Asks logind, as the daemon does."""
    try:
        return judge.presence("", presence.away_s())
    except presence.Unknown as reason:
        return judge.presence(str(reason), None)


def engine_memory(config: Config, running: Sequence[PoolStatus] = ()) -> list[Finding]:
    """`running`: pools of the daemon that runs, whose engines hold some of the memory already."""
    needs = dict(_needs(config))
    held = {pool.name: pool.measured_bytes or 0 for pool in running if pool.ready and pool.name in needs}
    membership = Path("/proc/self/cgroup").read_text()
    return judge.engine_memory(
        needs,
        available_bytes=int(psutil.virtual_memory().available),
        held_bytes=sum(held.values()),
        limit_bytes=min(memory_limits(membership, Path("/sys/fs/cgroup")), default=None),
        engine_bytes=None if (mib := config.sandbox.engine_memory_mib) is None else mib << 20,
    )


def _needs(config: Config) -> Iterator[tuple[str, Need]]:
    """By pool. One whose engine or model is not there has a line of its own in the report."""
    for pool in config.pools:
        path = config.model_named(pool.model).path
        if path is None or not _on_the_processor(pool):
            continue
        plan = plan_of(pool.slots, pool.context_tokens, 0, pool.args)
        try:
            if plan is not None:
                yield pool.name, need(model_shape(path), plan)
        except (ModelError, ValueError):
            continue


def _on_the_processor(pool: PoolConfig) -> bool:
    if pool.engine is EngineKind.EXTERNAL or pool.device not in (CPU, "auto"):
        return False
    try:
        return pool.device == CPU or not runs_on_nvidia(find_llama_server(pool.binary))
    except EngineError:
        return False
