"""`gpu-agent run`: the daemon."""

from __future__ import annotations

from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import click

from agent.cli.options import config_sources


@click.command(short_help="Run the node: probe, advertise, pull, execute, prove, report.")
@config_sources
def command(config_file: Path | None, overrides: tuple[str, ...]) -> int:
    """Run the node until SIGTERM or Ctrl-C (running tasks finish) or SIGQUIT (they are handed back).

    \b
        gpu-agent run
        gpu-agent run --config rig.toml --set logs.level=debug

    As a service: docs/install.md. Exit status: 0 stopped as asked, 75 the same but a task was abandoned, 70 a fault of
    the agent, 77 key or enrolment, 78 configuration, else the class of what kept it from starting.
    """
    import faulthandler

    from agent.edges.lean import import_for_the_daemon

    faulthandler.enable()  # who dies in a library's own code says where
    import_for_the_daemon()
    from agent.app import Daemon
    from agent.config import Config, load
    from agent.edges.logs import configure

    def read() -> Config:
        return load(config_file, overrides)

    config = read()
    configure(config.logs)
    return run_loop(Daemon(config, read).run())


def run_loop(main: Coroutine[Any, Any, int]) -> int:
    """Run on uvloop where it is installed (twice the WebSocket throughput), else on asyncio's own loop."""
    import asyncio

    try:
        import uvloop
    except ImportError:
        factory = None
    else:
        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)
