"""Whether the files that a configuration names are there, for this user."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from agent.config.faults import Fault
from agent.config.schema import Config
from agent.config.sections.work import EngineKind


def check_files(config: Config) -> Iterator[Fault]:
    """A fault for each that is not. Left out is what the agent makes itself or needs once: key and enrolment token."""
    for index, model in enumerate(config.models):
        yield from _file(f"models[{index}].path", model.path, "put the model there, or correct the path")
        yield from _file(
            f"models[{index}].chat_template",
            model.chat_template,
            "correct it, or leave it out for the model's own",
        )
    for index, pool in enumerate(config.pools):
        yield from _file(f"pools[{index}].api_key_file", pool.api_key_file, "write the engine's API key into it")
        if pool.engine is EngineKind.LLAMA_SERVER and "/" in pool.binary:
            yield from _program(f"pools[{index}].binary", Path(pool.binary), 'correct the path, or write "auto"')
    yield from _file(
        "coordinator.ca_file",
        config.coordinator.ca_file,
        "correct it, or leave it out for the system's own",
    )
    yield from _file("gpu.library", config.gpu.library, "correct it, or leave it out for the driver's own")
    yield from _folder("proof.calibrations", config.proof.calibrations, "make the directory, or leave it out")
    if "/" in config.sandbox.bwrap:
        yield from _program("sandbox.bwrap", Path(config.sandbox.bwrap), 'correct the path, or write "auto"')


def _file(key: str, path: Path | None, remedy: str) -> Iterator[Fault]:
    yield from _faults(key, path, "file", os.R_OK, remedy)


def _program(key: str, path: Path, remedy: str) -> Iterator[Fault]:
    yield from _faults(key, path, "file", os.R_OK | os.X_OK, remedy)


def _folder(key: str, path: Path | None, remedy: str) -> Iterator[Fault]:
    yield from _faults(key, path, "directory", os.R_OK | os.X_OK, remedy)


def _faults(key: str, path: Path | None, kind: str, use: int, remedy: str) -> Iterator[Fault]:
    if path is None:
        return
    try:
        mode = path.stat().st_mode
    except OSError as error:
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        what = "does not exist" if missing else f"cannot be looked at: {error.strerror}"
        yield Fault(key=key, message=f"{path} {what}; {remedy}")
        return
    if stat.S_ISDIR(mode) is not (kind == "directory"):
        yield Fault(key=key, message=f"{path} is no {kind}; {remedy}")
    elif not os.access(path, use):
        may = "read and run" if use & os.X_OK and kind == "file" else "read"
        yield Fault(key=key, message=f"this user may not {may} {path}; see its owner and mode (ls -l)")
