"""Why pools take no work, for people and for the coordinator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from agent.core.breaker import Breaker, BreakerState
from agent.core.fingerprint import Pool
from agent.core.health import HealthState
from agent.core.model import Reason
from agent.core.status import Gate

_NOT_WELL = {
    HealthState.LOST: Reason.GPU_LOST,
    HealthState.DEGRADED: Reason.GPU_DEGRADED,
    HealthState.UNKNOWN: Reason.GPU_UNKNOWN,
}
"""The gravest first."""


class DeviceHealth(NamedTuple):
    """Of one GPU or MIG slice."""

    state: HealthState
    detail: str = ""


def device_gate(pool: Pool, devices: Mapping[str, DeviceHealth]) -> Gate | None:
    """Why the GPUs of a pool may not take work, by the worst of them. A device that nobody judges is trusted."""
    known = [(uuid, devices[uuid]) for uuid in pool.device.split("+") if uuid in devices]
    for state, reason in _NOT_WELL.items():
        for uuid, health in known:
            if health.state is state:
                detail = health.detail or state.value
                return Gate(reason=reason, detail=f"{pool.name}: {uuid}: {detail}")
    return None


def model_gate(
    model_digest: str,
    pools: Mapping[str, Pool],
    breakers: Mapping[str, Breaker],
    devices: Mapping[str, DeviceHealth],
) -> Gate | None:
    """Why the pools of a model take nothing now: a GPU that is not well, or too many failures."""
    mine = [pool for pool in pools.values() if pool.model_digest == model_digest]
    for pool in mine:
        if (gate := device_gate(pool, devices)) is not None:
            return gate
    for pool in mine:
        if breakers[pool.name].state is not BreakerState.CLOSED:
            detail = f"{pool.name}: {breakers[pool.name].tell()}"
            return Gate(reason=Reason.TOO_MANY_FAILURES, detail=detail)
    return None


def pool_gates(
    pools: Mapping[str, Pool],
    breakers: Mapping[str, Breaker],
    now: float | None,
    devices: Mapping[str, DeviceHealth],
) -> list[Gate]:
    """What keeps every pool from taking work; empty when at least one takes some."""
    if not pools:
        return [Gate(reason=Reason.NO_POOL, detail="no pool is configured: add [[models]] and [[pools]]")]
    shut = [device_gate(pool, devices) or _pool_gate(pool, breakers[name], now) for name, pool in pools.items()]
    return [] if None in shut else [gate for gate in shut if gate is not None]


def _pool_gate(pool: Pool, breaker: Breaker, now: float | None) -> Gate | None:
    if not pool.ready:
        return Gate(reason=Reason.POOL_NOT_READY, detail=f"{pool.name}: {pool.detail or 'the engine is starting'}")
    if breaker.state is BreakerState.OPEN:
        return Gate(reason=Reason.TOO_MANY_FAILURES, detail=f"{pool.name}: {breaker.tell(now)}")
    return None
