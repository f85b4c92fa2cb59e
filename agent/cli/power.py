"""`gpu-agent power`: what gpu-agent-power.service runs. Root's only input is root's own configuration."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.cli.options import config_sources

if TYPE_CHECKING:
    from agent.config import Config

RUNTIME = Path("/run/gpu-agent-power")


@click.command(short_help="Hold GPUs to the owner's power limit, or give it back; for root.")
@config_sources
@click.argument("what", type=click.Choice(["hold", "give-back"]))
def command(config_file: Path | None, overrides: tuple[str, ...], what: str) -> None:
    """`hold` lowers every GPU to owner.power_limit_w, `give-back` returns to each what it had before."""
    from agent.config import load
    from agent.edges.gpu.power import PowerLimits

    _refuse_loose(config_file)
    config = load(config_file, overrides)
    if what == "hold" and config.owner.power_limit_w is None:
        click.echo("owner.power_limit_w is not set: nothing to do")
        return
    directory = Path(os.environ.get("RUNTIME_DIRECTORY") or RUNTIME)
    limits = PowerLimits(config.gpu.library, directory)
    for done in limits.hold(_wanted(config)) if what == "hold" else limits.give_back():
        click.echo(done)


def _wanted(config: Config) -> int:
    assert config.owner.power_limit_w is not None
    return config.owner.power_limit_w


def _refuse_loose(config_file: Path | None) -> None:
    """Root loads the library that the configuration names: nobody else may write there."""
    from agent.core.errors import ConfigError

    if os.geteuid() != 0 or config_file is None:
        return
    for place in (config_file, config_file.resolve().parent):
        facts = place.stat() if place.exists() else None
        if facts is not None and (facts.st_uid != 0 or facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH)):
            raise ConfigError([f"{place} can be written by others than root, who would decide what root loads"])
