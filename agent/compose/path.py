"""The stages that a task passes, from its offer to its receipt, and what hears of it afterwards."""

from __future__ import annotations

import secrets
from functools import partial
from typing import NamedTuple

from agent.compose.edges import Edges
from agent.compose.trunk import Trunk
from agent.config import Config
from agent.core.checks.verdict import Thresholds
from agent.core.fingerprint import Pool
from agent.core.model import TaskKind
from agent.core.proof.beacon import kept
from agent.edges.drand import believe, load_bls
from agent.edges.models.thresholds import shelf
from agent.stages.deliver import Deliver
from agent.stages.execute import Execute
from agent.stages.hearing import Hearing
from agent.stages.prove import Prove
from agent.stages.pull import Pull
from agent.stages.report import Report
from agent.stages.stream import Stream
from agent.stages.supply import Supply
from agent.stages.validate import Validate


class TaskPath(NamedTuple):
    """In the order of the path."""

    pull: Pull
    execute: Execute
    stream: Stream
    prove: Prove
    report: Report
    deliver: Deliver
    hearing: Hearing


async def path_of(config: Config, edges: Edges, trunk: Trunk) -> TaskPath:
    """What an earlier run left in outbox and docket is known when it returns. Raises StorageError."""
    spine, caller, storage, identity = trunk.spine, trunk.caller, trunk.storage, edges.identity
    stream, artifacts = Stream(trunk.link), edges.programs.artifacts if edges.programs else None
    deliver = Deliver(spine, caller, identity, edges.outbox, trunk.pulse, storage, artifacts)
    trunk.herald.owes(await deliver.recall())
    hearing = _hearing(edges, trunk)
    await hearing.recall()
    prove = Prove(
        spine,
        identity,
        edges.pools,
        edges.transcripts,
        retention_s=config.proof.retention_s,
        storage=storage,
        artifacts=artifacts,
        swept_until=hearing.swept_until,
    )
    return TaskPath(
        Pull(spine, caller, identity, edges.outbox),
        _execute(config, edges, trunk, stream),
        stream,
        prove,
        Report(spine, caller, identity, edges.outbox, storage, deliver),
        deliver,
        hearing,
    )


def _hearing(edges: Edges, trunk: Trunk) -> Hearing:
    holds = partial(kept, bls=load_bls() or believe)
    clock, identity = trunk.spine.clock, edges.identity
    return Hearing(clock, trunk.caller, identity, edges.outbox, edges.transcripts, edges.proofs, holds)


def _execute(config: Config, edges: Edges, trunk: Trunk, stream: Stream) -> Execute:
    return Execute(
        trunk.spine,
        trunk.caller,
        edges.pools,
        stream,
        top_logprobs=config.proof.top_logprobs,
        supply=Supply(trunk.caller, edges.programs.stock) if edges.programs else None,
        validate=_validate(config, edges, trunk),
    )


def _validate(config: Config, edges: Edges, trunk: Trunk) -> Validate | None:
    """None where no pool checks what others computed."""
    if not any(TaskKind.VERIFY in pool.facts.kinds for pool in edges.pools.values()):
        return None
    known = shelf(config.proof.calibrations, config.proof.calibration_keys)
    args = {pool.name: pool.args for pool in config.pools}

    def limits(pool: Pool, engine: str, kind: TaskKind) -> Thresholds | None:
        embeds = kind is TaskKind.EMBEDDING
        return known.thresholds_for(pool.model_digest, engine, embeds=embeds, args=args.get(pool.name, ()))

    salt = partial(secrets.token_hex, 32)
    return Validate(trunk.caller, edges.identity, edges.pools, limits, trunk.spine.clock, salt)
