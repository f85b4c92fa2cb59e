"""Why pools take no work, for people and for the coordinator."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from agent.core.breaker import Breaker, BreakerState
from agent.core.devices import Devices
from agent.core.fingerprint import Pool
from agent.core.model import Reason
from agent.core.status import Gate

IDLE_REASONS: Final = (
    Reason.COORDINATOR_UNREACHABLE,
    Reason.DRAINING,
    Reason.PAUSED,
    Reason.COORDINATOR_PAUSED,
    Reason.OUTSIDE_SCHEDULE,
    Reason.OWNER_PROGRAM,
    Reason.OWNER_ACTIVE,
    Reason.ON_BATTERY,
    Reason.STORAGE_FULL,
    Reason.OUTBOX_BACKLOG,
    Reason.NO_POOL,
    Reason.POOL_NOT_READY,
    Reason.GPU_IN_USE,
    Reason.GPU_HOT,
    Reason.GPU_POWER,
    Reason.ATTESTING,
    Reason.GPU_LOST,
    Reason.GPU_DEGRADED,
    Reason.GPU_UNKNOWN,
    Reason.TOO_MANY_FAILURES,
    Reason.NO_DEMAND,
)
"""Every reason that a gate may have: the closed list of why a node gets no work."""


def model_gate(
    model_digest: str, pools: Mapping[str, Pool], breakers: Mapping[str, Breaker], devices: Devices
) -> Gate | None:
    """Why the pools of a model take nothing now: a GPU that is paused or not well, or too many failures."""
    mine = [pool for pool in pools.values() if pool.model_digest == model_digest]
    for pool in mine:
        for gate in devices.gates(pool):
            return gate
    for pool in mine:
        if breakers[pool.name].state is not BreakerState.CLOSED:
            detail = f"{pool.name}: {breakers[pool.name].tell()}"
            return Gate(reason=Reason.TOO_MANY_FAILURES, detail=detail)
    return None


def pool_gates(
    pools: Mapping[str, Pool], breakers: Mapping[str, Breaker], now: float | None, devices: Devices
) -> list[Gate]:
    """What keeps every pool from taking work; empty when at least one takes some."""
    if not pools:
        return [Gate(reason=Reason.NO_POOL, detail="no pool is configured: add [[models]] and [[pools]]")]
    shut = [gates_of(pool, breakers[name], now, devices) for name, pool in pools.items()]
    return [gate for gates in shut for gate in gates] if all(shut) else []


def gates_of(pool: Pool, breaker: Breaker, now: float | None, devices: Devices) -> list[Gate]:
    """Everything that keeps one pool from taking work."""
    return [*devices.gates(pool, now), *_engine_gates(pool, breaker, now)]


def _engine_gates(pool: Pool, breaker: Breaker, now: float | None) -> Iterable[Gate]:
    if not pool.ready:
        yield Gate(reason=Reason.POOL_NOT_READY, detail=f"{pool.name}: {pool.detail or 'the engine is starting'}")
    if breaker.state is BreakerState.OPEN:
        yield Gate(reason=Reason.TOO_MANY_FAILURES, detail=f"{pool.name}: {breaker.tell(now)}")
