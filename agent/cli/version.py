"""`gpu-agent version`: what to put into a bug report."""

from __future__ import annotations

import json
import platform
import sys

import click

from agent import __version__


@click.command(short_help="Versions of the agent and of what it runs on.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, name to version.")
def command(as_json: bool) -> None:
    """Print the versions of the agent, of Python and of the system, as a bug report needs them.

    \b
        gpu-agent version
    """
    found = versions()
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    click.echo(f"gpu-agent {found.pop('agent')}")
    for name, value in found.items():
        click.echo(f"  {name:<10}{value}")


def versions() -> dict[str, str]:
    """Name → version, `agent` first."""
    from agent.core.wire import PROTO_MAX, PROTO_MIN

    return {
        "agent": __version__,
        "protocol": f"{PROTO_MIN}" if PROTO_MIN == PROTO_MAX else f"{PROTO_MIN}-{PROTO_MAX}",
        "python": f"{platform.python_version()} ({sys.executable})",
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "os": _os_name(),
    }


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "unknown")
    except OSError:
        return "unknown"
