"""`gpu-agent demo`: the whole path on this machine, with a real model and nothing simulated."""

from __future__ import annotations

import click


@click.command(short_help="Show the whole path on this machine with a real model.")
@click.option("--keep", is_flag=True, help="Go on answering until Ctrl-C; the running task is finished first.")
def command(keep: bool) -> int:
    """Show the whole path on this machine: a real model answers real tasks, with receipts that verify.

    \b
        gpu-agent demo
        gpu-agent demo --keep

    Then it has one answer checked by another node, and a cheat caught. It needs no GPU and no root. Exit status: 0
    every task was answered and verified, 1 something was not, 130 ended before its time.
    """
    import asyncio

    from agent.cli.demo.play import play
    from agent.cli.main import INTERRUPTED
    from agent.cli.run import run_loop

    try:
        return run_loop(play(keep=keep))
    except asyncio.CancelledError:
        return INTERRUPTED
