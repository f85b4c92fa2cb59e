"""A dishonest node, for the demo to catch: the agent as it is, but its engine has cheaper weights than it claims.

`python -m agent.cli.demo.cheat --config FILE --digest MODEL --determinism CLASS`
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import click
import msgspec

from agent.app import Daemon
from agent.cli.run import run_loop
from agent.config import Config, load
from agent.core.fingerprint import Model, Pool
from agent.core.model import TaskSpec
from agent.edges.engines.build import Built, PoolBuilder, build_pools
from agent.edges.engines.placement import GpuRoom
from agent.edges.logs import configure
from agent.edges.models.store import Progress
from agent.ports import Clock, EngineOutput, EnginePool, Replayer, Sandbox


class Claiming:
    """A real pool that says it has another model."""

    def __init__(self, pool: EnginePool, digest: str, determinism: str) -> None:
        self._pool = pool
        self._digest = digest
        self._determinism = determinism

    @property
    def facts(self) -> Pool:
        return msgspec.structs.replace(self._pool.facts, model_digest=self._digest, determinism=self._determinism)

    async def run(self, changed: Callable[[], None]) -> None:
        await self._pool.run(changed)

    async def check(self, task: TaskSpec) -> None:
        await self._pool.check(task)

    def generate(self, task: TaskSpec) -> AsyncGenerator[EngineOutput, None]:
        return self._pool.generate(task)

    def replayer(self) -> AbstractAsyncContextManager[Replayer]:
        return self._pool.replayer()


def claiming(digest: str, determinism: str) -> PoolBuilder:
    """The configuration's pools, lying."""

    async def build(
        config: Config,
        sandbox: Sandbox,
        clock: Clock,
        *,
        gpus: Sequence[str] = (),
        room: GpuRoom | None = None,
        progress: Progress = lambda *_: None,
    ) -> Built:
        built = await build_pools(config, sandbox, clock, gpus=gpus, room=room, progress=progress)
        models = tuple(Model(name=model.name, digest=digest, bytes=model.bytes) for model in built.models)
        return Built(tuple(Claiming(pool, digest, determinism) for pool in built.pools), models)

    return build


@click.command()
@click.option("--config", "config_file", type=click.Path(path_type=Path), required=True)
@click.option("--digest", required=True, help="Of the model that it claims to run.")
@click.option("--determinism", required=True, help="The class that it claims.")
def main(config_file: Path, digest: str, determinism: str) -> None:
    """Run the dishonest node until SIGTERM."""

    def read() -> Config:
        return load(config_file, ())

    config = read()
    configure(config.logs)
    sys.exit(run_loop(Daemon(config, read, claiming(digest, determinism)).run()))


if __name__ == "__main__":
    main()
