"""Every field of a spec and of its limits is held or refused, in a real sandbox of each backend."""

import re
import signal

import msgspec
import pytest

from agent.core.errors import SandboxError
from agent.edges.sandbox.vram import GpuMemoryGuard
from agent.ports import ExitKind, Limits, SandboxSpec
from tests.patience import within
from tests.sandboxes import BOMB, FORKS, run, said_up, shell

SPEC, LIMITS = {}, {}


def proves(table):
    def add(proof):
        table[proof.__name__] = proof
        return proof

    return add


# ---------------------------------------------------------------- the spec


@proves(SPEC)
async def name(sandbox, _shared):
    """A label: whatever is in it leads nowhere."""
    spec = SandboxSpec(name="../../tmp/ä b", argv=("/bin/true",), limits=Limits(pids=9))
    assert (await within((await sandbox.start(spec)).wait())).code == 0


@proves(SPEC)
async def argv(sandbox, _shared):
    words = ("two words", "--share-net", "$HOME", "ä", "")
    handle = await within(sandbox.start(SandboxSpec(name="t", argv=("/bin/sh", "-c", 'printf "%s|" "$@" >&2', *words))))
    await within(handle.wait())
    assert handle.stderr_tail() == "--share-net|$HOME|ä||"


@proves(SPEC)
async def ro_mounts(sandbox, shared):
    (shared / "file").write_text("given")
    script = "cat /in/file >&2; (: >/in/file) 2>/dev/null || echo refused >&2"
    assert (await run(sandbox, script, ro_mounts=((shared, "/in"),)))[1] == "givenrefused\n"


@proves(SPEC)
async def socket_dir(sandbox, shared):
    handle = await within(sandbox.start(shell("echo out >/sock/up", socket_dir=shared)))
    assert await said_up(shared) == "out\n"
    await within(handle.wait())


@proves(SPEC)
async def cwd(sandbox, _shared):
    assert (await run(sandbox, "pwd >&2", cwd="/usr/lib"))[1] == "/usr/lib\n"


@proves(SPEC)
async def gpus(sandbox, _shared):
    with pytest.raises(SandboxError):
        await sandbox.start(shell("true", gpus=("GPU-none",)))


@proves(SPEC)
async def env(sandbox, _shared):
    assert (await run(sandbox, 'echo "$A" >&2', env={"A": "two words = $PATH"}))[1] == "two words = $PATH\n"


@proves(SPEC)
async def limits(_sandbox, _shared):
    assert LIMITS.keys() == {field.name for field in msgspec.structs.fields(Limits)}


# ---------------------------------------------------------------- its limits


@proves(LIMITS)
async def memory_bytes(sandbox, _shared):
    assert (await within((await sandbox.start(BOMB)).wait())).kind is ExitKind.OUT_OF_MEMORY


@proves(LIMITS)
async def pids(sandbox, _shared):
    _, stderr = await run(sandbox, FORKS, limits=Limits(pids=12, wall_s=20))
    assert "all" not in stderr
    assert re.search(r"fork|Resource temporarily", stderr)


@proves(LIMITS)
async def cpus(sandbox, _shared):
    limits = Limits(cpus=0.5, wall_s=1)
    if "cpu" not in sandbox.machine.controllers:
        with pytest.raises(SandboxError, match="cannot be enforced"):
            await sandbox.start(shell("true", limits=limits))
        return
    end, _ = await run(sandbox, "while :; do :; done & while :; do :; done", limits=limits)
    # A machine under load gives less, never more; a period's worth and the building of the sandbox come on top.
    assert end.used.cpu_s < 0.5 * end.used.wall_s + 0.2


@proves(LIMITS)
async def tmp_bytes(sandbox, _shared):
    end, _ = await run(sandbox, "exec head -c 3M /dev/zero >/tmp/x", limits=Limits(tmp_bytes=2 << 20))
    assert end.kind is ExitKind.DISK_FULL
    end, _ = await run(sandbox, "exec head -c 1M /dev/zero >/tmp/x", limits=Limits(tmp_bytes=2 << 20))
    assert end.code == 0


@proves(LIMITS)
async def open_files(sandbox, _shared):
    script = "ulimit -n >&2; ulimit -n 100 2>/dev/null || echo no more >&2"
    assert (await run(sandbox, script, limits=Limits(open_files=99)))[1] == "99\nno more\n"


@proves(LIMITS)
async def file_bytes(sandbox, _shared):
    end, _ = await run(sandbox, "exec head -c 2M /dev/zero >/tmp/x", limits=Limits(file_bytes=1 << 20))
    assert (end.kind, end.code) == (ExitKind.SIGNALLED, signal.SIGXFSZ)


@proves(LIMITS)
async def wall_s(sandbox, _shared):
    assert (await run(sandbox, "sleep 600", limits=Limits(wall_s=0.1)))[0].kind is ExitKind.WALL_TIME


@proves(LIMITS)
async def stderr_bytes(sandbox, _shared):
    _, stderr = await run(sandbox, "seq 100000 >&2", limits=Limits(stderr_bytes=100))
    assert len(stderr) <= 100
    assert stderr.endswith("\n100000\n")


@proves(LIMITS)
async def stdout_bytes(sandbox, _shared):
    handle = await within(sandbox.start(shell("exec yes", limits=Limits(stdout_bytes=100))))
    assert b"".join([piece async for piece in handle.stdout()]) == b"y\n" * 50
    assert (await within(handle.wait())).kind is ExitKind.OUTPUT
    handle.close()


@proves(LIMITS)
async def out_bytes(sandbox, _shared):
    handle = await within(sandbox.start(shell("exec head -c 3M /dev/zero >/out/x", limits=Limits(out_bytes=2 << 20))))
    assert (await within(handle.wait())).kind is ExitKind.DISK_FULL
    handle.close()


@proves(LIMITS)
async def gpu_memory_bytes(sandbox, _shared):
    """The guard has its own tests; what asks for it without a GPU of this machine is refused."""
    with pytest.raises(SandboxError):
        await GpuMemoryGuard(sandbox).start(shell("true", gpus=("GPU-none",), limits=Limits(gpu_memory_bytes=1)))


# ---------------------------------------------------------------- all of them


@pytest.mark.parametrize("proof", [*SPEC.values(), *LIMITS.values()], ids=lambda proof: proof.__name__)
async def test_a_field_is_held_or_refused(sandbox, shared, proof):
    await proof(sandbox, shared)


def test_no_field_lacks_its_proof():
    assert SPEC.keys() == {field.name for field in msgspec.structs.fields(SandboxSpec)}
    assert LIMITS.keys() == {field.name for field in msgspec.structs.fields(Limits)}
