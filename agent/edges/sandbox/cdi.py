"""Finds the CDI specifications of this machine and reads them, without believing what strangers could have written."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

import msgspec
import structlog

from agent.core.cdi import GPU_KIND, CdiError, CdiSpec, parse

FOLDERS = (Path("/etc/cdi"), Path("/var/run/cdi"), Path("/run/cdi"))
"""In the order of the interface's own rule: what comes later wins. /var/run is /run on most machines."""
FILE_BYTES = 4 << 20
"""A specification of 16 cards with 7 slices each has 200 KiB."""
DEPTH = 16
"""A specification has six levels."""
_log = structlog.get_logger("sandbox")


def gpu_specs(folders: Sequence[Path] = FOLDERS) -> list[CdiSpec]:
    """The specifications of NVIDIA GPUs that can be read, the one that wins last. What cannot is logged."""
    found: dict[Path, CdiSpec] = {}
    for folder in folders:
        for file in sorted(folder.glob("*")):
            if file.suffix not in {".json", ".yaml", ".yml"} or file.resolve() in found:
                continue
            try:
                spec = read(file)
            except CdiError as reason:
                _log.warning("cdi.refused", file=str(file), detail=str(reason))
                continue
            if spec.kind == GPU_KIND:
                found[file.resolve()] = spec
    return list(found.values())


def read(file: Path) -> CdiSpec:
    """One specification. Raises CdiError for a file that is none, or that others than root and we can write."""
    text = _text(file)
    try:
        content = msgspec.json.decode(text) if file.suffix == ".json" else _plain_yaml(text)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise CdiError(f"not readable: {' '.join(str(error).split())[:200]}") from error
    return parse(content)


def _text(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            about = os.fstat(stream.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise CdiError("no regular file")
            if about.st_uid not in {0, os.geteuid()} or about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise CdiError("others than root and this user may write it")
            text = stream.read(FILE_BYTES + 1)
    except OSError as error:
        raise CdiError(error.strerror or str(error)) from error
    if len(text) > FILE_BYTES:
        raise CdiError("too large")
    return text


def _plain_yaml(text: bytes) -> object:
    """Raises ValueError, CdiError. What makes a small file take long or grow large is met before it is built."""
    import yaml  # noqa: PLC0415  (2 MiB, which only a machine with such a file pays)

    # The one in C is twenty times as fast, and missing where PyYAML was built without libyaml.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    depth = 0
    try:
        for event in yaml.parse(text, Loader=loader):
            if isinstance(event, yaml.AliasEvent):
                raise CdiError("it uses aliases, which no tool writes here")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEPTH:
                raise CdiError("it is nested too deeply")
        return yaml.load(text, Loader=loader)  # noqa: S506 (both are safe loaders)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
