"""`gpu-agent pause`: take nothing new, on one GPU or at all, for a while or until `resume`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from agent.cli import local
from agent.cli.intake import Told, duration, running, subject, tell_daemon
from agent.cli.options import config_sources
from agent.cli.releasing import release
from agent.core.text import span


@click.command(short_help="Take no new task until `resume`.")
@config_sources
@click.option("--socket", type=click.Path(path_type=Path), help="The daemon's socket, when not the configured one.")
@click.option("--for", "for_s", type=duration, metavar="DURATION", help="End it by itself after 90s, 30min, 2h, 1d.")
@click.option("--now", is_flag=True, help="Hand back what runs, at once.")
@click.option("--after", "after_s", type=duration, metavar="DURATION", help="Hand back what runs after 30s, 5min.")
@click.option("--wait/--no-wait", default=True, help="Wait until the memory of engines that end is free (the default).")
@click.option("--gpu", default="", metavar="UUID", help="Only pools on this GPU (`gpu-agent gpus`) take nothing.")
def command(
    config_file: Path | None,
    overrides: tuple[str, ...],
    socket: Path | None,
    for_s: float | None,
    now: bool,
    after_s: float | None,
    wait: bool,
    gpu: str,
) -> int:
    """Take no new task until `gpu-agent resume` or for as long as told; what runs goes on to its end, however long
    that takes, unless told otherwise.

    \b
        gpu-agent pause --for 2h
        gpu-agent pause --now

    Engines on GPUs then end (owner.unload), and this says when the driver shows their memory free: exit status 75
    when it does not. The pause outlives a restart or crash of the daemon and a reboot.
    """
    if now and after_s is not None:
        raise click.UsageError("--now and --after contradict each other")
    place = socket or local.control_socket(config_file, overrides)
    limit_s = 0.0 if now else after_s
    order = {"for_s": for_s, "hand_back_after_s": limit_s, "gpu": gpu}
    told = tell_daemon(place, "pause", partial(sentence, for_s=for_s, hand_back_after_s=limit_s, gpu=gpu), order)
    return release(place, told) if wait and (now or not running(told)) else 0


def sentence(told: Told, for_s: float | None = None, hand_back_after_s: float | None = None, gpu: str = "") -> str:
    """What now is so."""
    runs = running(told)
    rest = f"{runs} {_becomes(hand_back_after_s)}." if runs else "Nothing runs."
    ends = f"It ends in {span(for_s)}, or with" if for_s else "It ends with"
    if gpu:
        return f"No pool on {gpu} takes a new task. {rest} {ends} `gpu-agent resume --gpu {gpu}`."
    if not told["node"].get("paused"):
        return f"{subject(told)}, which takes no new task either; nothing changed."
    return f"{subject(told)}: no new task is taken. {rest} {ends} `gpu-agent resume`."


def _becomes(hand_back_after_s: float | None) -> str:
    if hand_back_after_s is None:
        return "will go on to the end"
    return (
        f"may go on for {span(hand_back_after_s)}, then is handed back" if hand_back_after_s else "is being handed back"
    )
