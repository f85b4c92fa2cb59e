"""`gpu-agent demo`: the whole path on this machine, with a real model and nothing simulated."""

from __future__ import annotations

import click


@click.command(help="Show the whole path on this machine: a real model answers real tasks, with receipts that verify.")
@click.option("--keep", is_flag=True, help="Go on answering until Ctrl-C; the running task is finished first.")
def command(keep: bool) -> int:
    """Exit status: 0 every task was answered and verified, 1 something was not, 130 ended before its time."""
    import asyncio

    from agent.cli.demo.play import play
    from agent.cli.main import INTERRUPTED
    from agent.cli.run import run_loop

    try:
        return run_loop(play(keep=keep))
    except asyncio.CancelledError:
        return INTERRUPTED
