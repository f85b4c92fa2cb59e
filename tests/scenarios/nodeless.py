"""`gpu-agent` for a machine without a GPU, whose engines are placed on one all the same and compute on the processor:
everything but the device nodes in their sandboxes is real."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

import agent.app
from agent.core.fingerprint import SandboxFacts
from agent.edges.engines.build import Built, build_pools
from agent.ports import Sandbox, SandboxHandle, SandboxSpec


class WithoutNodes:
    """Implements ports.Sandbox."""

    def __init__(self, inner: Sandbox) -> None:
        self._inner = inner

    async def probe(self) -> SandboxFacts:
        return await self._inner.probe()

    async def start(self, spec: SandboxSpec) -> SandboxHandle:
        return await self._inner.start(replace(spec, gpus=()))


async def pools(config: Any, sandbox: Sandbox, clock: Any, **more: Any) -> Built:
    return await build_pools(config, WithoutNodes(sandbox), clock, **more)


class Daemon(agent.app.Daemon):
    def __init__(self, config: Any, reload: Any) -> None:
        super().__init__(config, reload, pools)


def main(arguments: Sequence[str]) -> int:
    from pathlib import Path

    from agent.cli.run import run_loop
    from agent.config import load
    from agent.edges.logs import configure

    assert arguments[:2] == ["run", "--config"]
    overrides = tuple(word for word in arguments[3:] if word != "--set")

    def read() -> Any:
        return load(Path(arguments[2]), overrides)

    configure(read().logs)
    return run_loop(Daemon(read(), read).run())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
