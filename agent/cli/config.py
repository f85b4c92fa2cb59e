"""`gpu-agent config`: write, check and show the configuration."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli.options import config_sources

if TYPE_CHECKING:
    from agent.config import Loaded


@click.group(short_help="Write, check and show the configuration.")
def command() -> None:
    """Write, check and show the configuration.

    \b
        gpu-agent config init
        gpu-agent config check
        gpu-agent config show --origin
    """


@command.command(short_help="Write the commented example.")
@click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path))
@click.option("--stdout", "to_stdout", is_flag=True, help="Print it instead of writing a file.")
def init(file: Path | None, to_stdout: bool) -> None:
    """Write the commented example to FILE (the default place when not given). Never overwrites."""
    from agent.config.example import example

    if to_stdout:
        click.echo(example(), nl=False)
        return
    target = file or _default_file()
    _write_new(target, example())
    click.echo(f"wrote {target}; edit it, then run: gpu-agent config check")


@command.command(short_help="Say every fault, with its line.")
@config_sources
def check(config_file: Path | None, overrides: tuple[str, ...]) -> None:
    """Say whether the configuration is usable and names files that are there; lists every fault, exit status 78.

    `gpu-agent doctor` looks further: at the machine, the engines and the coordinator.
    """
    from agent.config import load_with_origins

    loaded = load_with_origins(config_file, overrides, files=True)
    click.echo(f"{loaded.file or 'no file'}: ok ({_count(loaded)})")
    for line in (*_lacking(loaded), *_understood(loaded)):
        click.echo(f"  · {line}")


@command.command(short_help="Print what is in force.")
@config_sources
@click.option("--origin", is_flag=True, help="Also say where each value comes from.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object: key to value, or to value and origin.")
def show(config_file: Path | None, overrides: tuple[str, ...], origin: bool, as_json: bool) -> None:
    """Print the configuration in force, all sources merged."""
    from agent.config import load_with_origins

    loaded = load_with_origins(config_file, overrides)
    rows = {key: (_plain(value), loaded.origins[key]) for key, value in _rows(loaded)}
    if as_json:
        told = {key: {"value": value, "origin": where} if origin else value for key, (value, where) in rows.items()}
        click.echo(json.dumps(told, indent=2))
        return
    from agent.config.example import toml

    click.echo(f"# file: {loaded.file or 'none'}")
    width = max(len(key) for key in rows)
    for key, (value, where) in rows.items():
        line = f"{key:<{width}} = {'(not set)' if value is None else toml(value)}"
        click.echo(f"{line:<{width + 40}}  # {where}" if origin else line)


def _default_file() -> Path:
    import os

    from agent.config.places import places

    return places(os.environ, os.geteuid()).config_file.path


def _write_new(target: Path, text: str) -> None:
    from agent.core.errors import ConfigError

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigError(["exists already and is not overwritten"], source=str(target)) from None
    except OSError as error:
        raise ConfigError([f"cannot be written: {error.strerror}"], source=str(target)) from error


def _lacking(loaded: Loaded) -> Iterator[str]:
    """What a node works without, but not for anybody."""
    config = loaded.config
    if loaded.file is None:
        yield f"there is no {_default_file()}; `gpu-agent config init` writes one"
    if config.coordinator.url is None:
        yield "coordinator.url is not set: the node has nobody to work for"
    if not config.pools and not config.exec.enabled:
        yield "there are no [[pools]]: the node takes no work"


def _understood(loaded: Loaded) -> Iterator[str]:
    """What the file leaves to this machine."""
    owner = loaded.config.owner
    if owner.schedule:
        from agent.edges.owner import owner_clock

        yield f"owner.schedule is read on the clock of {owner_clock(owner.time_zone)}"


def _count(loaded: Loaded) -> str:
    models, pools = len(loaded.config.models), len(loaded.config.pools)
    given = sum(not origin.startswith("default") for origin in loaded.origins.values())
    return f"{given} keys set, {models} model{'s' * (models != 1)}, {pools} pool{'s' * (pools != 1)}"


def _rows(loaded: Loaded) -> Iterator[tuple[str, Any]]:
    """(key, value) of every key, in the order of the schema."""
    for key in loaded.origins:
        section, _, name = key.partition(".")
        attribute, _, index = section.partition("[")
        held = getattr(loaded.config, attribute)
        yield key, getattr(held[int(index.rstrip("]"))] if index else held, name)


def _plain(value: Any) -> Any:
    """JSON types only."""
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return str(value)
