"""The child process that owns NVML: `python -m agent.edges.gpu PARENT_PID [LIBRARY [PCI_BUS [PROC]]]`.

NVML calls hang in the field and vendor libraries crash; here that costs a child, which the parent kills and replaces.
Each line on stdin asks for a snapshot. Lines on stdout: `around` and Surroundings (JSON), at the first question and
every ten seconds, before NVML is asked; `opened` once the driver is; then a GpuReport (JSON) for each question.
A report with `fault` set is the last one: the child ends, since only a new one sees a driver that changed.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import msgspec
from msgspec.structs import replace

from agent.core.gpu import GpuEventKind, GpuReport
from agent.core.surroundings import Surroundings
from agent.edges.gpu.consistency import PROC, kernel_facts
from agent.edges.gpu.events import EventWatch
from agent.edges.gpu.nvml import DriverError
from agent.edges.gpu.pci import BUS as PCI_BUS
from agent.edges.gpu.pci import nvidia_devices
from agent.edges.gpu.reader import SLOW_S, Reader
from agent.edges.gpu.versions import library_version, module_version

OPENED = b"opened"
AROUND = b"around "
_PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """Have the kernel kill us when the thread that started us ends; leave at once if `parent` is already gone."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def take_stdout() -> BinaryIO:
    """The parent's pipe for us alone: whatever a driver library prints goes to stderr."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return replies


_RESHAPING = frozenset({GpuEventKind.MIG_CHANGED, GpuEventKind.RECOVERY_ACTION})
"""Events after which settings and condition are read again at once."""


class Server:
    """Answers questions until they end or the driver fails."""

    def __init__(self, library: str, bus: Path, proc: Path, replies: BinaryIO) -> None:
        self._library = library
        self._reader = Reader(library)
        self._bus = bus
        self._proc = proc
        self._replies = replies
        self._events = EventWatch()
        self._opened = False
        self._around_at = float("-inf")

    def serve(self, questions: Iterable[bytes]) -> None:
        """One report for each of `questions`; one with a fault is the last."""
        for _ in questions:
            self._look_around()
            try:
                report = self._report()
            except DriverError as error:
                report = GpuReport(fault=error.fault, detail=str(error))
            self._say(msgspec.json.encode(report))
            if report.fault:
                return

    def _report(self) -> GpuReport:
        if not self._opened:
            self._reader.open()
            self._opened = True
            self._say(OPENED)
        report = self._reader.read()
        self._events.follow(self._reader.handles())
        absent = {"events": self._events.reason} if self._events.reason else {}
        events = self._events.take()
        if any(event.kind in _RESHAPING for event in events):
            self._reader.look_anew()
        return replace(report, events=events, absent=absent)

    def _look_around(self) -> None:
        """Told before the driver is asked: it may hang on the very GPU that is gone."""
        now = time.monotonic()
        if now < self._around_at:
            return
        self._around_at = now + SLOW_S
        around = Surroundings(
            bus=nvidia_devices(self._bus),
            module=module_version(),
            installed=library_version(self._library),
            kernel=kernel_facts(self._proc),
        )
        self._say(AROUND + msgspec.json.encode(around))

    def _say(self, line: bytes) -> None:
        self._replies.write(line + b"\n")
        self._replies.flush()


def main(argv: list[str]) -> None:
    die_with(int(argv[1]))
    library = argv[2] if len(argv) > 2 else ""
    bus = Path(argv[3]) if len(argv) > 3 else PCI_BUS
    proc = Path(argv[4]) if len(argv) > 4 else PROC
    Server(library, bus, proc, take_stdout()).serve(sys.stdin.buffer)
    os._exit(0)  # no nvmlShutdown and no destructors of a vendor library
