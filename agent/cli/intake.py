"""What `drain`, `pause` and `resume` share: tell the daemon, then say what now is so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from agent.cli import local
from agent.core.text import plain

Told = dict[str, Any]
"""A status (`core.status.Status` as JSON)."""


def tell_daemon(socket: Path, verb: str, sentence: Callable[[Told], str]) -> Told:
    """Do it, print what `sentence` makes of the status after it, return that status. Raises Unreachable, Refused."""
    local.ask(socket, "POST", f"/v1/{verb}")
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
