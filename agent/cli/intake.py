"""What `drain`, `pause` and `resume` share: tell the daemon, then say what now is so."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from agent.cli import local
from agent.core.orders import LONGEST_PAUSE_S
from agent.core.text import plain, span

Told = dict[str, Any]
"""A status (`core.status.Status` as JSON)."""


def tell_daemon(socket: Path, verb: str, sentence: Callable[[Told], str], order: dict[str, Any] | None = None) -> Told:
    """Do it as `order` (core.orders) says, print what `sentence` makes of the status after it, return that status.

    Raises Unreachable, Refused.
    """
    local.ask(socket, "POST", f"/v1/{verb}", order)
    told = local.ask(socket, "GET", "/v1/status")
    click.echo(" ".join(plain(sentence(told), 1000).split("\n")))
    return told


def subject(told: Told) -> str:
    """`rig-1 is draining`."""
    return f"{told['node']['name']} is {told['node']['state']}"


def running(told: Told) -> str:
    """`2 running tasks`; empty when nothing runs."""
    count = len(told.get("attempts", ()))
    return "" if not count else "1 running task" if count == 1 else f"{count} running tasks"


def duration(text: str) -> float:
    """`90s`, `30min`, `2h`, `1h30m`, `1d`; in seconds. Raises what click shows with the option's name."""
    parts = _PART.findall(text)
    if not parts or "".join(map("".join, parts)) != text:
        raise click.BadParameter(f"{text!r} is no duration; write 90s, 30min, 2h, 1h30m or 1d")
    seconds = sum(float(number) * _UNIT_S[unit[:1]] for number, unit in parts)
    if not 0 < seconds <= LONGEST_PAUSE_S:
        raise click.BadParameter(f"{text!r} is not above nothing and at most {span(LONGEST_PAUSE_S)}")
    return seconds


_PART = re.compile(r"(\d+(?:\.\d+)?)(min|[smhd])")
_UNIT_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
