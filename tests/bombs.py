"""Programs that take all they can get, for tests and benchmarks: what each meets, and how still the agent keeps."""

import asyncio
import shutil
import time
from typing import NamedTuple

from agent.ports import ExitKind, Limits, SandboxSpec

PYTHON = shutil.which("python3", path="/usr/bin")
TICK_S = 0.01
ALL = Limits(
    memory_bytes=32 << 20, pids=40, tmp_bytes=16 << 20, out_bytes=8 << 20, open_files=64, stdout_bytes=1 << 20,
    wall_s=60,
)  # fmt: skip

_THREADS = """
import threading, time
try:
    while True:
        threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
except RuntimeError:
    raise SystemExit(f"no more threads: {threading.active_count() < 40}")
"""
_ZOMBIES = """
import os
try:
    while True:
        os.fork() or os._exit(0)
except BlockingIOError:
    raise SystemExit("no more processes")
"""
_DESCRIPTORS = """
import os
try:
    while True:
        os.open("/dev/null", os.O_RDONLY)
except OSError as error:
    raise SystemExit(error.strerror)
"""


class Bomb(NamedTuple):
    """A program, and how it ends: the kind, and words that it says itself."""

    argv: tuple[str, ...]
    kinds: tuple[ExitKind, ...]
    says: str = ""


def _shell(script):
    return ("/bin/sh", "-c", script)


def _python(script):
    return (PYTHON or "", "-I", "-c", script)


BOMBS = {
    "memory": Bomb(("/usr/bin/tail", "/dev/zero"), (ExitKind.OUT_OF_MEMORY,)),
    # Whichever meets the limit first gives up: the program, or a child of its.
    "forks": Bomb(_shell("f() { f & f; }; f"), (ExitKind.EXITED, ExitKind.SIGNALLED), "fork"),
    "threads": Bomb(_python(_THREADS), (ExitKind.EXITED,), "no more threads: True"),
    "zombies": Bomb(_python(_ZOMBIES), (ExitKind.EXITED,), "no more processes"),
    "disk": Bomb(_shell("exec cat /dev/zero >/tmp/x"), (ExitKind.DISK_FULL,), "No space left"),
    "results": Bomb(_shell("exec cat /dev/zero >/out/x"), (ExitKind.DISK_FULL,), "No space left"),
    "shared memory": Bomb(_shell("exec cat /dev/zero >/dev/shm/x"), (ExitKind.DISK_FULL, ExitKind.OUT_OF_MEMORY)),
    # A file that holds nothing takes kernel memory all the same.
    "files": Bomb(_python("for i in range(10**9): open(f'/tmp/{i}', 'w')"), (ExitKind.OUT_OF_MEMORY, ExitKind.EXITED)),
    "output": Bomb(("/usr/bin/yes",), (ExitKind.OUTPUT,)),
    "errors": Bomb(_shell("yes | head -c 64M >&2; echo done >&2"), (ExitKind.EXITED,), "done"),
    "descriptors": Bomb(_python(_DESCRIPTORS), (ExitKind.EXITED,), "Too many open files"),
}


class Blast(NamedTuple):
    """What came of one bomb."""

    end: object
    stderr: str
    pause_s: float
    """The longest that the agent's loop was late for a tick."""


async def set_off(sandbox, bomb, limits=ALL):
    """Run it to its end, reading what it writes, on a loop that ticks like a heartbeat."""
    handle = await sandbox.start(SandboxSpec(name="bomb", argv=bomb.argv, limits=limits))
    ticking = asyncio.ensure_future(_ticks(end := asyncio.ensure_future(handle.wait())))
    async for _ in handle.stdout():
        pass
    blast = Blast(await end, handle.stderr_tail(), await ticking)
    handle.close()
    return blast


async def _ticks(end):
    late = 0.0
    while not end.done():
        began = time.perf_counter()
        await asyncio.sleep(TICK_S)
        late = max(late, time.perf_counter() - began - TICK_S)
    return late
