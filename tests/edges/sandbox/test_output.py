"""What a program in a real sandbox hands out: its stdout, and what it leaves in /out."""

import asyncio
import os

import pytest

from agent.core.errors import SandboxError
from agent.edges.sandbox.bubblewrap import Bubblewrap
from agent.ports import ExitKind, Limits
from tests.patience import within
from tests.sandboxes import as_ordinary_user, require_root, run, said_up, shell

pytestmark = pytest.mark.usefixtures("sandboxes")


async def read_all(handle):
    return b"".join([piece async for piece in handle.stdout()])


# ---------------------------------------------------------------- stdout


async def test_stdout_comes_while_the_program_runs(sandbox, shared):
    spec = shell("echo one; read line </sock/up; echo two", socket_dir=shared, limits=Limits(stdout_bytes=100))
    handle = await within(sandbox.start(spec))
    pieces = handle.stdout()
    assert await within(anext(pieces)) == b"one\n"
    await within(asyncio.to_thread((shared / "up").write_text, "go\n"))
    assert await within(anext(pieces)) == b"two\n"
    with pytest.raises(StopAsyncIteration):
        await within(anext(pieces))
    assert (await within(handle.wait())).code == 0
    handle.close()


async def test_a_slow_reader_slows_the_program(sandbox, shared):
    script = "head -c 4M /dev/zero; echo written >/sock/up"
    handle = await within(sandbox.start(shell(script, socket_dir=shared, limits=Limits(stdout_bytes=4 << 20))))
    written = asyncio.ensure_future(said_up(shared))
    assert not (await asyncio.wait({written}, timeout=0.3))[0]  # a pipe holds 64 KiB
    assert len(await within(read_all(handle))) == 4 << 20
    await within(written)
    assert (await within(handle.wait())).kind is ExitKind.EXITED
    handle.close()


async def test_who_writes_more_than_allowed_is_ended_for_it(sandbox):
    handle = await within(sandbox.start(shell("exec yes", limits=Limits(stdout_bytes=1_000_001))))
    assert await within(read_all(handle)) == (b"y\n" * 500_001)[:-1]
    end = await within(handle.wait())
    assert end.kind is ExitKind.OUTPUT
    assert "1000001 bytes" in end.detail
    handle.close()


async def test_too_much_output_is_named_also_when_nobody_reads_it(sandbox):
    handle = await within(sandbox.start(shell("echo 1234567", limits=Limits(stdout_bytes=7))))
    assert (await within(handle.wait())).kind is ExitKind.OUTPUT
    assert await within(read_all(handle)) == b"1234567"
    handle.close()


async def test_output_as_large_as_allowed_is_no_fault(sandbox):
    handle = await within(sandbox.start(shell("echo 1234567", limits=Limits(stdout_bytes=8))))
    assert await within(read_all(handle)) == b"1234567\n"
    assert (await within(handle.wait())).kind is ExitKind.EXITED
    handle.close()


async def test_without_an_allowance_stdout_goes_nowhere(sandbox):
    handle = await within(sandbox.start(shell("head -c 1M /dev/zero")))
    assert await within(read_all(handle)) == b""
    assert (await within(handle.wait())).code == 0


async def test_who_closes_ends_the_program_and_its_own_reading(sandbox):
    handle = await within(sandbox.start(shell("sleep 600", limits=Limits(stdout_bytes=8, out_bytes=1 << 20))))
    reading = asyncio.ensure_future(read_all(handle))
    await asyncio.sleep(0)
    handle.close()
    handle.close()
    assert await within(reading) == b""
    assert handle.out_fd is None
    assert (await within(handle.wait())).kind is ExitKind.STOPPED
    assert await within(read_all(handle)) == b""


# ---------------------------------------------------------------- /out


async def test_what_lies_in_out_outlives_the_program(sandbox):
    await what_lies_in_out_outlives_the_program(sandbox)


def test_what_lies_in_out_outlives_the_program_of_an_ordinary_user(tmp_path_factory):
    require_root()
    directory = tmp_path_factory.mktemp("ordinary")
    as_ordinary_user(lambda: what_lies_in_out_outlives_the_program(Bubblewrap(directory)))


async def what_lies_in_out_outlives_the_program(sandbox):
    await run(sandbox, "true")  # what is kept for all sandboxes is there from now on
    before = len(os.listdir("/proc/self/fd"))
    limits = Limits(out_bytes=1 << 20, stdout_bytes=100, pids=20, memory_bytes=64 << 20)
    handle = await within(sandbox.start(shell("mkdir d; echo result >d/file; pwd", cwd="/out", limits=limits)))
    assert await within(read_all(handle)) == b"/out\n"
    assert (await within(handle.wait())).code == 0
    fd = os.open("d/file", os.O_RDONLY, dir_fd=handle.out_fd)
    assert os.read(fd, 100) == b"result\n"
    os.close(fd)
    assert os.fstatvfs(handle.out_fd).f_blocks * os.fstatvfs(handle.out_fd).f_frsize == 1 << 20
    handle.close()
    await within(asyncio.get_running_loop().shutdown_default_executor())  # where it is closed
    assert len(os.listdir("/proc/self/fd")) == before


async def test_without_an_allowance_there_is_no_out(sandbox):
    end, stderr = await run(sandbox, "[ ! -e /out ] && echo none >&2")
    assert (end.code, stderr) == (0, "none\n")


@pytest.mark.parametrize("place", ["/out", "/tmp", "/dev/shm"])
async def test_who_fails_on_a_full_disk_is_told_apart(sandbox, place):
    limits = Limits(out_bytes=1 << 20, tmp_bytes=1 << 20)
    end, stderr = await run(sandbox, f"exec head -c 100M /dev/zero >{place}/x", limits=limits)
    assert (end.kind, end.code) == (ExitKind.DISK_FULL, 1), stderr


async def test_who_fills_the_disk_and_succeeds_has_just_ended(sandbox):
    end, _ = await run(sandbox, "head -c 100M /dev/zero >/out/x; exit 0", limits=Limits(out_bytes=1 << 20))
    assert end.kind is ExitKind.EXITED


# ---------------------------------------------------------------- where it starts


async def test_the_program_starts_where_it_was_told(sandbox):
    handle = await within(sandbox.start(shell("pwd >&2", cwd="/usr/lib")))
    await within(handle.wait())
    assert handle.stderr_tail() == "/usr/lib\n"


@pytest.mark.parametrize("cwd", ["out", "/usr/../out", ""])
async def test_a_working_directory_that_is_no_place_inside_is_refused(sandbox, cwd):
    with pytest.raises(SandboxError, match="working directory"):
        await sandbox.start(shell("true", cwd=cwd))


# ---------------------------------------------------------------- on the other loop


def test_output_is_handed_out_on_uvloop_too(tmp_path):
    uvloop = pytest.importorskip("uvloop")

    async def everything():
        sandbox = Bubblewrap(tmp_path)
        await test_who_writes_more_than_allowed_is_ended_for_it(sandbox)
        await test_who_closes_ends_the_program_and_its_own_reading(sandbox)
        await what_lies_in_out_outlives_the_program(sandbox)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(everything())
