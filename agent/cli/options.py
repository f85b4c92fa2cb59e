"""Options that verbs share."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

_FILE = click.option(
    "-c",
    "--config",
    "config_file",
    type=click.Path(path_type=Path, readable=False),  # what is wrong with the file, the configuration tells
    help="Configuration file; $GPU_AGENT_CONFIG or the default place when not given.",
)
_SET = click.option(
    "-s", "--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Override one key; may be repeated."
)


def config_sources(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `--config` and `--set`; passes them on as `config_file: Path | None` and `overrides: tuple[str, ...]`."""
    return _FILE(_SET(function))


def with_config(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `--config` and `--set`, and passes the loaded, valid `config: agent.config.Config`."""

    @wraps(function)
    def loaded(*args: Any, config_file: Path | None, overrides: tuple[str, ...], **kwargs: Any) -> Any:
        from agent.config import load

        return function(*args, config=load(config_file, overrides), **kwargs)

    return config_sources(loaded)
