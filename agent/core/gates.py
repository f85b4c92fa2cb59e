"""Why pools take no work, for people and for the coordinator."""

from __future__ import annotations

from collections.abc import Mapping

from agent.core.breaker import Breaker, BreakerState
from agent.core.fingerprint import Pool
from agent.core.model import Reason
from agent.core.status import Gate


def pool_gates(pools: Mapping[str, Pool], breakers: Mapping[str, Breaker], now: float | None) -> list[Gate]:
    """What keeps every pool from taking work; empty when at least one takes some."""
    if not pools:
        return [Gate(reason=Reason.NO_POOL, detail="no pool is configured: add [[models]] and [[pools]]")]
    shut = [_pool_gate(pool, breakers[name], now) for name, pool in pools.items()]
    return [] if None in shut else [gate for gate in shut if gate is not None]


def _pool_gate(pool: Pool, breaker: Breaker, now: float | None) -> Gate | None:
    if not pool.ready:
        return Gate(reason=Reason.POOL_NOT_READY, detail=f"{pool.name}: {pool.detail or 'the engine is starting'}")
    if breaker.state is BreakerState.OPEN:
        return Gate(reason=Reason.TOO_MANY_FAILURES, detail=f"{pool.name}: {breaker.tell(now)}")
    return None
