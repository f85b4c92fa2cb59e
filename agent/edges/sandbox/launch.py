"""Starts bubblewrap, holds the sandbox's first process until its limits stand, then lets it go."""

from __future__ import annotations

import array
import asyncio
import contextlib
import fcntl
import json
import os
import select
import signal
import subprocess
import termios
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from agent.core.errors import SandboxError
from agent.core.text import plain
from agent.edges.sandbox.fds import Tail, read_until, writable
from agent.edges.sandbox.places import Places, hold
from agent.edges.sandbox.processes import reap, tree
from agent.edges.sandbox.remedies import remedy_for

_TIED_PERIOD_S = 0.0005
LAUNCH_LIMIT_S = 30.0
"""bubblewrap takes 5 to 20 ms; a machine that needs this long is stuck."""
_TRIES = 5
"""While mounts come and go around it."""


class Recipe(NamedTuple):
    """What to run."""

    command: Sequence[str]
    """Words up to and including the path of the bubblewrap that builds the sandbox."""
    options: Callable[[Mapping[str, int]], Sequence[str]]
    """Its options, given the descriptors for `seccomp`, `info-fd`, `block-fd` and `built`."""
    argv: Sequence[str]
    """The program, as seen inside."""
    tag: str
    """Name under which the processes around the program appear."""
    seccomp: bytes
    stderr_bytes: int
    stdout: bool = False
    """Whether its stdout is wanted."""
    places: tuple[str, ...] = ()
    """Paths inside of the file systems that are to be held open."""


class Launched(NamedTuple):
    """A sandbox whose program runs."""

    monitor: subprocess.Popen[bytes]
    """Our child: bubblewrap outside. Its exit status is the program's."""
    init_pid: int
    """The sandbox's pid 1, in our numbers. Killing it kills everything inside."""
    init_pidfd: int
    stderr: Tail
    stdout: int | None
    """Reading end of a pipe."""
    places: Places


class _MountGoneError(SandboxError):
    """Bubblewrap bound a tree, and went through its mounts: somebody, such as a container that ended, has unmounted one
    meanwhile. The next try sees what is there then.
    """


class _Held(NamedTuple):
    monitor: subprocess.Popen[bytes]
    facts: int
    """Reading end: bubblewrap tells the pid of the sandbox's first process."""
    gate: int
    """Writing end: that process goes on when a byte comes."""
    built: int
    """Writing end of a pipe that is full until bubblewrap, after the last mount, reads what is in it."""
    go_on: Callable[[], None]
    """Closes `built`, for whose end bubblewrap waits then. Idempotent."""
    stderr: int
    stdout: int | None


async def launch(recipe: Recipe, confine: Callable[[int], None]) -> Launched:
    """`confine` gets the pid of the sandbox's first process while that is held at the gate.

    Nothing of ours runs between fork and exec; limits are put on the held process from outside. Raises SandboxError,
    with bubblewrap's own words, when the sandbox cannot be built; then nothing of it is left.
    """
    for _ in range(_TRIES - 1):
        with contextlib.suppress(_MountGoneError):
            return await _launched(recipe, confine)
    return await _launched(recipe, confine)


async def _launched(recipe: Recipe, confine: Callable[[int], None]) -> Launched:
    with contextlib.ExitStack() as ends:
        try:
            held = _spawn(recipe, ends)
        except OSError as error:
            raise SandboxError(f"{recipe.command[0]} cannot be started: {error.strerror}") from error
        return await _go_on(held, recipe, confine)


async def _go_on(held: _Held, recipe: Recipe, confine: Callable[[int], None]) -> Launched:
    pidfd, places, tail = -1, Places({}), Tail(recipe.stderr_bytes)
    try:
        reader = os.fdopen(held.stderr, "rb", 0)
        await asyncio.get_running_loop().connect_read_pipe(lambda: tail, reader)
        async with asyncio.timeout(LAUNCH_LIMIT_S):
            init_pid = _init_pid(held.monitor.pid, await read_until(held.facts, b"}\n", 4096))
            pidfd = os.pidfd_open(init_pid)
            # It may wait for other programs and for the kernel: milliseconds that the loop has better use for.
            await asyncio.to_thread(confine, init_pid)
            await writable(held.built)
            places = hold(init_pid, recipe.places)
            held.go_on()
            await _let_go(held.gate)
            await _tied(init_pid, pidfd)
    except (SandboxError, OSError, TimeoutError) as error:
        await asyncio.shield(_abandon(held, pidfd, places, tail))
        told = _explained(error, tail)
        raise _MountGoneError(told.message, remedy=told.remedy) if pidfd < 0 and _gone(told) else told from error
    except BaseException:  # cancelled: leave nothing behind
        await asyncio.shield(_abandon(held, pidfd, places, tail))
        raise
    return Launched(held.monitor, init_pid, pidfd, tail, held.stdout, places)


def _spawn(recipe: Recipe, ends: contextlib.ExitStack) -> _Held:
    """`ends` closes what nobody needs once the program runs."""
    with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours, contextlib.ExitStack() as building:
        facts, facts_in = _pipe(ours, theirs)
        gate_out, gate = _gate(theirs, ours)
        built_out, built = _full_pipe(theirs, building)
        stderr, stderr_in = _pipe(ours, theirs)
        stdout, stdout_in = _pipe(ours, theirs) if recipe.stdout else (None, subprocess.DEVNULL)
        fds = {
            "info-fd": facts_in,
            "block-fd": gate_out,
            "built": built_out,
            "seccomp": _memory_file("seccomp", recipe.seccomp, theirs),
        }
        words = b"".join(os.fsencode(word) + b"\0" for word in recipe.options(fds))
        # Options in a file stay out of /proc/1/cmdline, which the sandbox can read; a pipe could be too short for them.
        args = _memory_file("args", words, theirs)
        monitor = subprocess.Popen(
            [recipe.tag, *recipe.command[1:], "--args", str(args), "--", *recipe.argv],
            executable=recipe.command[0],
            pass_fds=(*fds.values(), args),
            env={},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=stdout_in,
            stderr=stderr_in,
            start_new_session=True,
        )
        ours.pop_all()
        ends.callback(os.close, facts)
        ends.callback(os.close, gate)
        go_on = ends.enter_context(building.pop_all()).close
        return _Held(monitor, facts, gate, built, go_on, stderr, stdout)


def _pipe(reading: contextlib.ExitStack, writing: contextlib.ExitStack) -> tuple[int, int]:
    out, into = os.pipe()
    reading.callback(os.close, out)
    writing.callback(os.close, into)
    return out, into


def _gate(theirs: contextlib.ExitStack, ours: contextlib.ExitStack) -> tuple[int, int]:
    """A pipe whose reading end is open for writing too: bubblewrap takes an end of file for leave to go on, and so it
    would run a program without limits if we died while it is held."""
    reader, writer = _narrow_pipe()
    ours.callback(os.close, writer)
    try:
        both = os.open(f"/proc/self/fd/{reader}", os.O_RDWR)
    finally:
        os.close(reader)
    theirs.callback(os.close, both)
    return both, writer


def _full_pipe(reading: contextlib.ExitStack, writing: contextlib.ExitStack) -> tuple[int, int]:
    out, into = _narrow_pipe()
    reading.callback(os.close, out)
    writing.callback(os.close, into)
    os.write(into, b"\n")
    return out, into


def _narrow_pipe() -> tuple[int, int]:
    """A pipe that is full with whatever is written first, and writable again once that is read."""
    out, into = os.pipe()
    fcntl.fcntl(into, fcntl.F_SETPIPE_SZ, 1)  # rounded up to a page, which is one buffer, and a write takes a buffer
    return out, into


def _memory_file(name: str, content: bytes, stack: contextlib.ExitStack) -> int:
    fd = os.memfd_create(name)
    stack.callback(os.close, fd)
    os.write(fd, content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _init_pid(monitor_pid: int, facts: bytes) -> int:
    if not facts:
        raise SandboxError("the sandbox could not be built")
    # As bubblewrap numbers it, which may itself be in a pid namespace: we know it by the number one level up.
    number = int(json.loads(facts)["child-pid"])
    for pid in tree(monitor_pid):
        numbers = _namespace_pids(pid)
        if len(numbers) > 1 and numbers[-2:] == [number, 1]:
            return pid
    raise SandboxError("the sandbox ended while it was built")


def _namespace_pids(pid: int) -> list[int]:
    """The numbers of `pid`, from our pid namespace down to its own; none when it is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("NSpid:"):
                return [int(word) for word in line.split()[1:]]
    return []


async def _let_go(gate: int) -> None:
    os.write(gate, b"1")
    await writable(gate)
    # Taken, or nobody is there any more to take it.
    unread = array.array("i", [0])
    fcntl.ioctl(gate, termios.FIONREAD, unread)
    if unread[0]:
        raise SandboxError("the sandbox could not be built")


async def _tied(init_pid: int, pidfd: int) -> None:
    """Until the sandbox's pid 1 will die with its parent, or is dead. It asks for that after it has started the program
    and just before it begins to wait, which is when it sleeps and has a child."""
    dead = select.poll()
    dead.register(pidfd, select.POLLIN)
    while not dead.poll(0) and not _waits(init_pid):  # noqa: ASYNC110 (nothing signals it)
        await asyncio.sleep(_TIED_PERIOD_S)


def _waits(pid: int) -> bool:
    """Whether a process sleeps and has a child."""
    with contextlib.suppress(OSError):
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state == "S" and any(found != pid for found in tree(pid))
    return False


async def _abandon(held: _Held, pidfd: int, places: Places, tail: Tail) -> None:
    monitor = held.monitor
    with contextlib.suppress(ProcessLookupError):
        # The group, since bubblewrap dies with its parent only once it has asked to.
        os.killpg(monitor.pid, signal.SIGKILL)
    if pidfd >= 0:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    dead = await asyncio.to_thread(reap, monitor, pidfd)
    places.close()
    for fd in (pidfd, held.stdout):
        if fd is not None and fd >= 0:
            os.close(fd)
    if dead:
        await tail.closed.wait()


def _gone(error: SandboxError) -> bool:
    return "Unable to apply mount flags: remount" in error.message


def _explained(error: Exception, tail: Tail) -> SandboxError:
    said = plain(tail.read(), 500).strip()
    if isinstance(error, TimeoutError):
        return SandboxError(f"the sandbox was not built within {LAUNCH_LIMIT_S:g} s. {said}".strip())
    if isinstance(error, SandboxError) and not said:
        return error
    return SandboxError(f"the sandbox could not be built: {said or error}", remedy=remedy_for(said))
