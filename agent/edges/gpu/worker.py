"""The child process that owns NVML: `python -m agent.edges.gpu.worker PARENT_PID [LIBRARY]`.

NVML calls hang in the field and vendor libraries crash; here that costs a child, which the parent kills and replaces.
Each line on stdin asks for a snapshot. Lines on stdout: `opened` once the driver is, then a GpuReport (JSON) each.
A report with `fault` set is the last one: the child ends, since only a new one sees a driver that changed.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import BinaryIO

import msgspec

from agent.core.gpu import GpuReport
from agent.edges.gpu.nvml import DriverError
from agent.edges.gpu.reader import Reader

OPENED = b"opened"
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


def serve(reader: Reader, questions: BinaryIO, replies: BinaryIO) -> None:
    """Answer questions until they end or the driver fails."""
    opened = False
    for _ in questions:
        try:
            if not opened:
                reader.open()
                opened = True
                replies.write(OPENED + b"\n")
                replies.flush()
            report = reader.read()
        except DriverError as error:
            report = GpuReport(fault=error.fault, detail=str(error))
        replies.write(msgspec.json.encode(report) + b"\n")
        replies.flush()
        if report.fault:
            return


def main(argv: list[str]) -> None:
    die_with(int(argv[1]))
    serve(Reader(argv[2] if len(argv) > 2 else ""), sys.stdin.buffer, take_stdout())
    os._exit(0)  # no nvmlShutdown and no destructors of a vendor library


if __name__ == "__main__":
    main(sys.argv)
