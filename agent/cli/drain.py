"""`gpu-agent drain`: finish what runs, take nothing new; the daemon stays."""

from __future__ import annotations

import time
from pathlib import Path

import click

from agent.cli import local
from agent.cli.intake import Told, running, subject, tell_daemon
from agent.cli.options import config_sources

STILL_DRAINING = 75
"""EX_TEMPFAIL of sysexits(3): ask again later."""
LOOK_EVERY_S = 0.5


@click.command(short_help="Finish what runs and take no new task; the daemon stays.")
@config_sources
@click.option("--socket", type=click.Path(path_type=Path), help="The daemon's socket, when not the configured one.")
@click.option("--wait", is_flag=True, help="Return when nothing runs any more.")
@click.option(
    "--limit",
    "limit_s",
    type=click.FloatRange(min=0.0),
    metavar="SECONDS",
    help="With --wait: give up waiting after this long; the drain goes on.",
)
def command(
    config_file: Path | None, overrides: tuple[str, ...], socket: Path | None, wait: bool, limit_s: float | None
) -> int:
    """Finish what runs and take no new task until `gpu-agent resume`; the daemon stays.

    \b
        gpu-agent drain --wait --limit 600

    What still runs after node.drain_limit_s is handed back: another node does it. With --wait, exit status 0 says that
    all is done and receipted, 75 that --limit came first, 1 that somebody resumed.
    """
    place = socket or local.control_socket(config_file, overrides)
    told = tell_daemon(place, "drain", sentence)
    return _wait(place, told, limit_s) if wait else 0


def sentence(told: Told) -> str:
    """What now is so."""
    runs = running(told)
    if told["node"]["state"] == "drained" or not runs:
        owed = told.get("outbox_waiting", 0)
        rest = f" {owed} finished earlier still wait for a receipt." if owed else ""
        return f"{subject(told)}: nothing runs and no new task is taken.{rest} `gpu-agent resume` ends it."
    return (
        f"{subject(told)}: no new task is taken. {runs} may finish, and after node.drain_limit_s what is left "
        "is handed back. `gpu-agent resume` ends it."
    )


def _wait(place: Path, told: Told, limit_s: float | None) -> int:
    until = None if limit_s is None else time.monotonic() + limit_s
    while told["node"]["state"] == "draining":
        if until is not None and time.monotonic() >= until:
            click.echo(f"Still draining after {limit_s:g} s: {running(told)}.", err=True)
            return STILL_DRAINING
        time.sleep(LOOK_EVERY_S)
        told = local.ask(place, "GET", "/v1/status")
    if told["node"]["state"] != "drained":
        click.echo(f"{subject(told)}: somebody ended the drain.", err=True)
        return 1
    click.echo("Drained.")
    return 0
