"""How a sandbox ended, in one word and in plain words. Pure."""

from __future__ import annotations

import signal

from agent.core.text import plain
from agent.ports import ExitKind, Limits, SandboxExit

_CAUSES = {
    ExitKind.STOPPED: "stopped by the agent",
    ExitKind.WALL_TIME: "ran longer than allowed",
    ExitKind.OUT_OF_MEMORY: "used more memory than allowed",
    ExitKind.DISK_FULL: "failed with no room left in its file systems",
    ExitKind.OUTPUT: "wrote more to stdout than allowed",
}
_SIGNALS = {
    signal.SIGSEGV: "it crashed: invalid memory access",
    signal.SIGABRT: "it gave up: abort",
    signal.SIGILL: "it crashed: this processor lacks an instruction it was built for",
    signal.SIGBUS: "it crashed: bus error, often a file that shrank or a full /tmp",
    signal.SIGFPE: "it crashed: arithmetic fault",
    signal.SIGSYS: "it was killed for a forbidden system call",
    signal.SIGXFSZ: "it wrote a larger file than allowed",
    signal.SIGKILL: "it was killed, perhaps by the kernel for lack of memory",
}
SETUP_PREFIXES = ("bwrap: ", "sandbox: ")
"""How bubblewrap, and the first process of a container, begin their own messages; then the program never ran."""


def classify(code: int, cause: ExitKind | None, limits: Limits, stderr: str) -> SandboxExit:
    """`code` is the monitor's: the program's status, 128 + signal, or negative when the monitor itself was killed.

    A program that exits with a status above 128 looks like a signalled one; shells have the same ambiguity.
    """
    number = -code if code < 0 else code - 128
    signalled = code < 0 or (code > 128 and number in signal.valid_signals())
    status = number if signalled else code
    if cause is not None:
        return SandboxExit(kind=cause, code=status, detail=_cause_detail(cause, limits))
    if signalled:
        return SandboxExit(kind=ExitKind.SIGNALLED, code=status, detail=_signal_detail(status))
    last = stderr.rstrip("\n").rpartition("\n")[2]
    if code != 0 and last.startswith(SETUP_PREFIXES):
        return SandboxExit(kind=ExitKind.EXITED, code=code, detail=plain(f"the sandbox could not run it: {last}", 500))
    return SandboxExit(kind=ExitKind.EXITED, code=code, detail=f"exit status {code}")


def _cause_detail(cause: ExitKind, limits: Limits) -> str:
    if cause is ExitKind.WALL_TIME:
        return f"{_CAUSES[cause]} ({limits.wall_s:g} s)"
    if cause is ExitKind.OUT_OF_MEMORY and limits.memory_bytes is not None:
        return f"{_CAUSES[cause]} ({limits.memory_bytes >> 20} MiB)"
    if cause is ExitKind.OUTPUT:
        return f"{_CAUSES[cause]} ({limits.stdout_bytes} bytes)"
    return _CAUSES[cause]


def _signal_detail(number: int) -> str:
    try:
        known = signal.Signals(number)
    except ValueError:  # real-time signals have no names
        return f"signal {number}"
    return f"{known.name}: {_SIGNALS[known]}" if known in _SIGNALS else known.name
