"""Real sandboxes for tests: whether this machine can make them, and running a test as an ordinary user."""

import asyncio
import contextlib
import functools
import os
import pickle
import signal
import tempfile
import traceback
from pathlib import Path

import pytest

from agent.edges.sandbox.bubblewrap import Bubblewrap
from agent.edges.sandbox.fds import readable
from agent.edges.sandbox.oci.backend import Oci
from agent.edges.sandbox.oci.facts import EngineName
from agent.edges.sandbox.probing import LEAK
from agent.ports import Limits, SandboxSpec
from tests.patience import within

ORDINARY_USER = 61_000
"""Has no account; only root can run a test as it."""

BOMB = SandboxSpec(name="test", argv=("/usr/bin/tail", "/dev/zero"), limits=Limits(memory_bytes=128 << 20, wall_s=60))
FORKS = "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do sleep 60 & done; echo all >&2"


BACKENDS = ("bubblewrap", *EngineName)


def make_backend(name, directory):
    """The backend called `name`, whose runtime directory is `directory`."""
    return Bubblewrap(directory) if name == "bubblewrap" else Oci(directory, EngineName(name))


@functools.cache
def probed(name="bubblewrap"):
    with tempfile.TemporaryDirectory() as directory:
        return asyncio.run(make_backend(name, Path(directory)).probe())


def require_sandbox(name="bubblewrap"):
    """Skips where this machine allows no sandbox; one that leaks is a failure, not a reason to skip."""
    facts = probed(name)
    if facts.detail.startswith(LEAK):
        pytest.fail(facts.detail)
    if not facts.usable:
        pytest.skip(f"no sandbox of {name} on this machine: {facts.detail}")


def require_root():
    if os.geteuid() != 0:
        pytest.skip("needs root")


def as_ordinary_user(make):
    """The result of coroutine function `make` in a forked process without privileges; its assertions fail here."""
    if os.geteuid() != 0:
        return asyncio.run(make())
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(out)
        _run_unprivileged(make, into)
    os.close(into)
    with os.fdopen(out, "rb") as results:
        answer = results.read()
    os.waitpid(pid, 0)
    failure, value = pickle.loads(answer)
    if failure:
        pytest.fail(failure)
    return value


def _run_unprivileged(make, into):
    try:
        drop_privileges()
        answer = ("", asyncio.run(make()))
    except BaseException:  # noqa: BLE001 (the parent reports it)
        answer = (traceback.format_exc(), None)
    os.write(into, pickle.dumps(answer))
    os._exit(0)


def drop_privileges():
    os.setgroups([])
    os.setresgid(ORDINARY_USER, ORDINARY_USER, ORDINARY_USER)
    os.setresuid(ORDINARY_USER, ORDINARY_USER, ORDINARY_USER)


def fork_agent(make):
    """(pid, reading end of a pipe) of a forked process that runs `make(write)` and then waits to be killed."""
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            asyncio.run(make(functools.partial(os.write, into)))
        finally:
            signal.pause()
    os.close(into)
    return pid, out


async def gone(pid):
    """Until a process is dead that need not be our child."""
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        try:
            await within(readable(pidfd))
        finally:
            os.close(pidfd)


def shell(script, **fields):
    return SandboxSpec(name="test", argv=("/bin/sh", "-c", script), **fields)


async def run(sandbox, script, **fields):
    """(end, stderr) of a shell script."""
    handle = await within(sandbox.start(shell(script, **fields)))
    return await within(handle.wait()), handle.stderr_tail()


async def said_up(directory):
    """What the program wrote to the fifo of a `shared` directory."""
    return await within(asyncio.to_thread((directory / "up").read_text))
