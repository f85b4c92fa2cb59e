"""The health of GPUs from a single look, for a verb that runs without a daemon: what the reading shows, and what an
earlier daemon remembered of this boot."""

from __future__ import annotations

from pathlib import Path

from agent.core.attest.consistency import doubts_of
from agent.core.fingerprint import GpuStanding, standing_of
from agent.core.gpu import GpuReport
from agent.core.health import Health
from agent.edges.clock import SystemClock
from agent.edges.gpu.findings import FindingsFile
from agent.edges.gpu.models import card_table
from agent.edges.gpu.xids import xid_table
from agent.edges.host import Host


def judged_at_once(report: GpuReport, state_dir: Path) -> tuple[GpuStanding, ...]:
    """Of every GPU in `report`."""
    clock = SystemClock()
    health = Health(xid_table(), Host().facts().boot_id, FindingsFile(state_dir).load())
    health.read(report, clock.monotonic(), clock.wall(), period_s=1.0)
    doubts = doubts_of(report, card_table())
    return tuple(standing_of(gpu.uuid, health.gpus[gpu.uuid], doubts.get(gpu.uuid, ())) for gpu in report.gpus)
