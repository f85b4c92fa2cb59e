"""Options that verbs share."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

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


class FiniteRange(click.FloatRange):
    """A number; "nan", which is below and above nothing, and "inf" are none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        return number if isfinite(number) else self.fail(f"{value} is no number that can be reckoned with", param, ctx)


class Where(NamedTuple):
    """A coordinator, as a requester reaches it."""

    url: str
    token_file: Path
    ca_file: Path | None


_READABLE_OR_NOT = click.Path(dir_okay=False, path_type=Path, readable=False)  # `requesting` says what to do then
_WHERE = (
    click.option("--coordinator", "url", required=True, metavar="URL", help="Address of the coordinator to ask."),
    click.option("--token-file", required=True, type=_READABLE_OR_NOT, help="File with the requester's token."),
    click.option("--ca-file", type=_READABLE_OR_NOT, help="PEM file of its CA, where the system does not know it."),
)


def asks_a_coordinator(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `--coordinator`, `--token-file` and `--ca-file`; passes them on as `where: Where`."""

    @wraps(function)
    def asking(*args: Any, url: str, token_file: Path, ca_file: Path | None, **kwargs: Any) -> Any:
        return function(*args, where=Where(url, token_file, ca_file), **kwargs)

    for option in reversed(_WHERE):
        asking = option(asking)
    return asking
