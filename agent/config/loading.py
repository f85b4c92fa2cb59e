"""Reads the configuration from its four sources: `--set` over environment over file over default."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import tomli

from agent.config.checks import check
from agent.config.faults import Fault
from agent.config.files import check_files
from agent.config.layers import Layers
from agent.config.places import Place, Places, places
from agent.config.positions import key_lines
from agent.config.reading import Reading
from agent.config.schema import Config
from agent.core.errors import ConfigError
from agent.core.model import Value

MAX_FILE_BYTES = 1 << 20
"""A configuration is a few kilobytes; something larger is the wrong file."""


class Loaded(Value):
    """A valid configuration and where each value came from."""

    config: Config
    file: Path | None
    """None when there was no file."""
    origins: dict[str, str]
    """`pools[0].slots` → `file`, `environment NAME`, `--set`, or `default` with its reason."""


def load(path: Path | None = None, overrides: Sequence[str] = (), environ: Mapping[str, str] | None = None) -> Config:
    """The configuration. Raises ConfigError with every fault found.

    `path` None means $GPU_AGENT_CONFIG, or the default place, which may be absent.
    """
    return load_with_origins(path, overrides, environ).config


def load_with_origins(
    path: Path | None = None,
    overrides: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    *,
    uid: int | None = None,
    files: bool = False,
) -> Loaded:
    """Like `load`, and tells the origin of every value. With `files` a file that is named and not there is a fault."""
    environ = os.environ if environ is None else environ
    defaults = places(environ, os.geteuid() if uid is None else uid)
    named = path or (Path(environ["GPU_AGENT_CONFIG"]) if environ.get("GPU_AGENT_CONFIG") else None)
    file = named or defaults.config_file.path
    text = _read(file, required=named is not None)
    layers = Layers(_parse(text or "", file), "file")
    layers.environment(environ)
    layers.overrides(overrides)

    reading = Reading(base=file.absolute().parent, home=Path(environ.get("HOME") or "/"))
    config = reading.config(layers.tree)
    origins = _origins(config, layers.origins)
    config = _with_places(config, origins, defaults)
    faults = [*layers.faults, *reading.faults]
    reported = tuple(faults)
    faults += [fault for fault in check(config) if not _follows(fault, reported)]
    faults += check_files(config) if files else ()
    if faults:
        raise ConfigError(_lines(faults, text or "", file, layers.origins), source=str(file))
    return Loaded(config=config, file=file if text is not None else None, origins=origins)


def _read(file: Path, *, required: bool) -> str | None:
    try:
        raw = file.open("rb").read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        if not required:
            return None
        raise ConfigError(["no such file; `gpu-agent config init` writes one"], source=str(file)) from None
    except OSError as error:
        raise ConfigError([f"cannot be read: {error.strerror}"], source=str(file)) from error
    if len(raw) > MAX_FILE_BYTES:
        raise ConfigError([f"is larger than {MAX_FILE_BYTES >> 20} MiB: not a configuration"], source=str(file))
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError([f"line {line}: not UTF-8 text"], source=str(file)) from error


def _parse(text: str, file: Path) -> dict[str, Any]:
    try:
        return tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        raise ConfigError([f"line {error.lineno}, column {error.colno}: {error.msg}"], source=str(file)) from error
    except RecursionError as error:
        raise ConfigError(["is nested too deeply"], source=str(file)) from error


def _follows(fault: Fault, reported: Collection[Fault]) -> bool:
    """Whether the fault may only follow from one that is reported: in the same key, or in the kind of engine."""
    table = fault.key.rpartition(".")[0]
    return any(other.key in {fault.key, f"{table}.engine"} for other in reported)


def _lines(faults: Iterable[Fault], text: str, file: Path, origins: Mapping[str, str]) -> list[str]:
    """One line a fault, in the order of the file; what other sources brought comes last."""
    where = key_lines(text)
    told = []
    for fault in faults:
        origin = fault.origin or _origin_of(fault.key, origins)
        keys = (fault.key, f"{fault.key}[0]", fault.key.rpartition(".")[0])
        line = next((where[key] for key in keys if key in where), None) if origin == "file" else None
        place = f"{file.name}:{line}: " if line else "" if origin == "file" else f"{origin}: "
        told.append((line or len(text), f"{place}{fault.key}: {fault.message}"))
    return [sentence for _, sentence in sorted(told, key=lambda row: row[0])]


def _origin_of(key: str, origins: Mapping[str, str]) -> str:
    """Where `key`, or the first key below it, comes from."""
    return origins.get(key) or next((origin for name, origin in origins.items() if name.startswith(f"{key}.")), "file")


def _origins(config: Config, given: Mapping[str, str]) -> dict[str, str]:
    """Every key of `config` in schema order."""
    found: dict[str, str] = {}
    for section in Config.__struct_fields__:
        value = getattr(config, section)
        rows = (
            [(f"{section}[{i}]", row) for i, row in enumerate(value)]
            if isinstance(value, tuple)
            else [(section, value)]
        )
        for prefix, row in rows:
            for name in row.__struct_fields__:
                found[f"{prefix}.{name}"] = given.get(f"{prefix}.{name}", "default")
    return found


def _with_places(config: Config, origins: dict[str, str], defaults: Places) -> Config:
    """Fill in the defaults that depend on the user, systemd and credentials."""
    moved: dict[str, Path] = {}
    for name in ("state_dir", "cache_dir", "runtime_dir"):
        place: Place = getattr(defaults, name)
        if origins[f"node.{name}"] == "default":
            moved[name] = place.path
            origins[f"node.{name}"] = f"default ({place.why})"
    config = msgspec.structs.replace(config, node=msgspec.structs.replace(config.node, **moved))
    credential = defaults.credentials_dir / "node.key" if defaults.credentials_dir else None
    if credential and credential.exists() and config.identity.key_file is None:
        origins["identity.key_file"] = "default (systemd credential)"
        config = msgspec.structs.replace(config, identity=msgspec.structs.replace(config.identity, key_file=credential))
    return config
