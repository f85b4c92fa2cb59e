"""`gpu-agent run`: the daemon."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Coroutine, Iterator, MutableMapping
from pathlib import Path
from typing import Any

import click

from agent.cli.options import config_sources


@click.command(help="Run the node until SIGTERM (drains) or SIGQUIT (aborts).")
@config_sources
def command(config_file: Path | None, overrides: tuple[str, ...]) -> int:
    """Exit status: 0 stopped as asked, 75 the same but a task was abandoned, 70 a fault of the agent, else the class
    of what kept it from starting.
    """
    import_without_ballast()
    from agent.app import Daemon
    from agent.config import Config, load
    from agent.edges.logs import configure

    def read() -> Config:
        return load(config_file, overrides)

    config = read()
    configure(config.logs)
    return run_loop(Daemon(config, read).run())


def import_without_ballast() -> None:
    """Import three packages without what they merely would like to have: memory that a daemon holds all its life.

    structlog takes rich for a console renderer that we do not use (6 MiB); frozenlist the C++ library for the list of
    an application's signals (1 MiB); aiohttp reads the system's CAs into two contexts of its own (3 MiB), while
    every edge that speaks TLS brings a context (`edges.link.tls`). Without CAs theirs trust nobody.
    """
    import ssl

    if {"rich", "structlog", "frozenlist", "aiohttp"} & sys.modules.keys():
        return  # somebody else in this process has them already
    with _instead(sys.modules, "rich", None), _instead(os.environ, "FROZENLIST_NO_EXTENSIONS", "1"):
        ssl.SSLContext.set_default_verify_paths = _reads_no_cas  # type: ignore[assignment, method-assign]
        try:
            import aiohttp  # noqa: F401
            import structlog  # noqa: F401
        finally:
            del ssl.SSLContext.set_default_verify_paths  # the method of the C class is in force again


def _reads_no_cas(_context: object) -> None:
    """In place of `SSLContext.set_default_verify_paths`."""


@contextlib.contextmanager
def _instead(places: MutableMapping[str, Any], name: str, value: Any) -> Iterator[None]:
    before = places.get(name)
    places[name] = value
    try:
        yield
    finally:
        del places[name]
        if before is not None:
            places[name] = before


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
