"""Compiles the fake driver and places it, with a scenario, in a directory of its own.

To look at it by hand: `python -m tests.fakes.nvml.build tests/hosts/h200x8.ini /tmp/fake` and then
`LD_LIBRARY_PATH=/tmp/fake gpustat`, or `gpu-agent gpus --library /tmp/fake/libnvidia-ml.so.1`.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pynvml

from tests.fakes.nvml.scenario import Scenario, load

SONAME = "libnvidia-ml.so.1"
SOURCE = Path(__file__).with_name("fake_nvml.c")
_POINTER = re.compile(r'_nvmlGetFunctionPointer\("(\w+)"\)')


def compiler() -> str | None:
    """A C compiler of this machine, or None."""
    return next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)


@dataclasses.dataclass(frozen=True)
class Placed:
    """One fake driver on disk."""

    folder: Path

    @property
    def library(self) -> Path:
        return self.folder / SONAME

    def at(self, seconds: float) -> None:
        """Set the driver's clock, for every process that has it loaded."""
        with (self.folder / "clock").open("r+b" if (self.folder / "clock").exists() else "wb", buffering=0) as clock:
            clock.write(struct.pack("=d", seconds))  # in place: the driver has it mapped

    def hide(self) -> None:
        """Take the library away, as an uninstalled driver would be."""
        self.library.rename(self.folder / "not-installed")

    def show(self) -> None:
        (self.folder / "not-installed").rename(self.library)


class Builder:
    """Builds each variant (set of hidden symbols) once."""

    def __init__(self, work: Path) -> None:
        self._work = work
        self._cc = compiler() or "cc"
        self._libraries: dict[tuple[str, ...], Path] = {}

    def place(self, scenario: Scenario, folder: Path) -> Placed:
        """The driver of `scenario` in `folder`, its clock at 0."""
        folder.mkdir(parents=True, exist_ok=True)
        placed = Placed(folder)
        shutil.copy(self._library(scenario), placed.library)
        (folder / "scenario.table").write_bytes(scenario.table())
        placed.at(0)
        return placed

    def _library(self, scenario: Scenario) -> Path:
        key = tuple(scenario.hidden)
        if key not in self._libraries:
            self._libraries[key] = self._link(scenario, self._work / f"{len(self._libraries)}.so")
        return self._libraries[key]

    def _link(self, scenario: Scenario, library: Path) -> Path:
        known = set(_POINTER.findall(Path(pynvml.__file__).read_text()))
        served = set(re.findall(r"nvml\w+", self._symbols()))
        stubs, exports = library.with_suffix(".stubs.c"), library.with_suffix(".map")
        stubs.write_text("".join(f"int {name}(void) {{ return 3; }}\n" for name in sorted(known - served)))
        shown = sorted(name for name in known | served if not scenario.lacks(name))
        exports.write_text("{ global: " + "".join(f"{name}; " for name in shown) + "local: *; };\n")
        self._run(
            "-shared", f"-Wl,-soname,{SONAME}", f"-Wl,--version-script={exports}", self._object, stubs, "-o", library
        )
        return library

    @property
    def _object(self) -> Path:
        return self._work / "fake_nvml.o"

    def _symbols(self) -> str:
        if not self._object.exists():
            self._run("-Wall", "-Wextra", "-Werror", "-c", SOURCE, "-o", self._object)
        listing = subprocess.run(
            ["nm", "--defined-only", "-g", self._object], check=True, capture_output=True, text=True
        )
        return listing.stdout

    def _run(self, *arguments: object) -> None:
        subprocess.run([self._cc, "-O1", "-fPIC", *map(str, arguments)], check=True, env={"PATH": os.environ["PATH"]})


if __name__ == "__main__":
    target = Path(sys.argv[2])
    target.mkdir(parents=True, exist_ok=True)
    print(Builder(target).place(load(Path(sys.argv[1])), target).library)
