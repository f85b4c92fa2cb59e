"""`gpu-agent pause`: take nothing new until `resume`."""

from __future__ import annotations

from pathlib import Path

import click

from agent.cli import local
from agent.cli.intake import Told, running, subject, tell_daemon
from agent.cli.options import config_sources


@click.command(short_help="Take no new task until `resume`; what runs goes on.")
@config_sources
@click.option("--socket", type=click.Path(path_type=Path), help="The daemon's socket, when not the configured one.")
def command(config_file: Path | None, overrides: tuple[str, ...], socket: Path | None) -> None:
    """Take no new task until `gpu-agent resume`; what runs goes on to its end, however long that takes.

    A restart of the daemon ends the pause.
    """
    tell_daemon(socket or local.control_socket(config_file, overrides), "pause", sentence)


def sentence(told: Told) -> str:
    """What now is so."""
    if told["node"]["state"] != "paused":
        return f"{subject(told)}, which takes no new task either; nothing changed."
    runs = running(told)
    rest = f"{runs} will go on to the end." if runs else "Nothing runs."
    return f"{subject(told)}: no new task is taken. {rest} `gpu-agent resume` ends it."
