"""`gpu-agent resume`: end a pause or a drain, and try pools again that failed too often."""

from __future__ import annotations

from pathlib import Path

import click

from agent.cli import local
from agent.cli.intake import Told, running, subject, tell_daemon
from agent.cli.options import config_sources


@click.command(short_help="Take tasks again after `pause` or `drain`.")
@config_sources
@click.option("--socket", type=click.Path(path_type=Path), help="The daemon's socket, when not the configured one.")
@click.option("--gpu", default="", metavar="UUID", help="End the pause of this GPU alone.")
def command(config_file: Path | None, overrides: tuple[str, ...], socket: Path | None, gpu: str) -> None:
    """Take tasks again after `pause` or `drain`.

    \b
        gpu-agent resume

    A pool that stopped itself after failures tries a task at once, and damage that `status` tells of counts as seen.
    """
    tell_daemon(socket or local.control_socket(config_file, overrides), "resume", sentence, {"gpu": gpu})


def sentence(told: Told) -> str:
    """What now is so."""
    runs = running(told)
    going = f" {runs} went on all the while." if runs else ""
    gates = [gate for gate in told.get("why_idle", ()) if gate["reason"] != "no_demand"]
    if not gates:
        return f"{subject(told)}: new tasks may come.{going}"
    reasons = "; ".join(": ".join(filter(None, (gate["reason"], gate.get("detail", "")))) for gate in gates)
    return f"{subject(told)}, but still takes no new task: {reasons}.{going}"
