"""`gpu-agent power`: what gpu-agent-power.service runs. Root's only input is root's own configuration."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.cli.options import config_sources

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agent.edges.gpu.power import PowerLimits

RUNTIME = Path("/run/gpu-agent-power")


@click.command(short_help="Hold GPUs to the owner's power limit, or give it back; for root.")
@config_sources
@click.argument("what", type=click.Choice(["hold", "give-back"]))
def command(config_file: Path | None, overrides: tuple[str, ...], what: str) -> None:
    """`hold` lowers every GPU to owner.power_limit_w, `give-back` returns to each what it had before.

    \b
        sudo gpu-agent power hold
    """
    from agent.edges.gpu.power import PowerLimits

    limits = PowerLimits(Path(os.environ.get("RUNTIME_DIRECTORY") or RUNTIME))
    # The configuration may be faulty by now, and what was taken is given back all the same.
    for done in limits.give_back() if what == "give-back" else _hold(limits, config_file, overrides):
        click.echo(done)


def _hold(limits: PowerLimits, config_file: Path | None, overrides: tuple[str, ...]) -> Iterable[str]:
    from agent.config import load_with_origins

    loaded = load_with_origins(config_file, overrides)
    config = loaded.config
    if config.owner.power_limit_w is None:
        return ("owner.power_limit_w is not set: nothing to do",)
    _refuse_loose(loaded.file, config.gpu.library)
    return limits.hold(config.owner.power_limit_w, config.gpu.library)


def _refuse_loose(*files: Path | None) -> None:
    """Root loads the library that the configuration names: nobody else may write either, nor put another there."""
    from agent.core.errors import ConfigError

    if os.geteuid() != 0:
        return
    named = [file.absolute() for file in files if file is not None and len(file.parts) > 1]
    for place in (place for file in named for place in (file, file.parent, file.resolve().parent)):
        facts = place.stat() if place.exists() else None
        if facts is not None and (facts.st_uid != 0 or facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH)):
            raise ConfigError([f"{place} can be written by others than root, who would decide what root loads"])
