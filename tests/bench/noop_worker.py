"""The agent as it runs, but for its engine: one in this process that answers at once with nothing.

Everything else is on: session, leases, sandbox checks, transcript, commitment, signatures, fsync, log.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

from agent.app import Daemon
from agent.cli.run import run_loop
from agent.config import Config, load
from agent.core.fingerprint import Model, Pool
from agent.core.model import FinishReason, TaskKind, TaskSpec, Usage
from agent.edges.engines.build import Built
from agent.edges.logs import configure
from agent.ports import Clock, EngineOutput, Finished, Sandbox
from tests import builders


class NoopPool:
    """Implements ports.EnginePool."""

    def __init__(self, slots: int) -> None:
        self.facts = Pool(
            name="noop",
            device="cpu",
            engine="noop",
            model="noop",
            model_digest=builders.MODEL,
            kinds=(TaskKind.CHAT,),
            slots=slots,
            context_tokens=4096,
            ready=True,
        )

    async def run(self, changed: Callable[[], None]) -> None:
        changed()
        await asyncio.Event().wait()

    async def check(self, task: TaskSpec) -> None:
        return None

    async def generate(self, task: TaskSpec) -> AsyncGenerator[EngineOutput, None]:
        yield Finished(finish=FinishReason.STOP, usage=Usage(prompt_tokens=1), request_sha256="11" * 32)


def main(config_file: str, slots: str, profile: str = "") -> int:
    """`profile` names a file for cProfile's figures; empty measures the truth."""

    def read() -> Config:
        return load(Path(config_file), ())

    config = read()
    configure(config.logs)

    async def build_noop(config: Config, sandbox: Sandbox, clock: Clock, **_: object) -> Built:
        return Built((NoopPool(int(slots)),), (Model(name="noop", digest=builders.MODEL, bytes=0),))

    daemon = Daemon(config, read, build_noop)
    if not profile:
        return run_loop(daemon.run())
    import cProfile

    with cProfile.Profile() as profiler:
        status = run_loop(daemon.run())
    profiler.dump_stats(profile)
    return status


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
