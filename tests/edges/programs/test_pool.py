"""A pool of programs with a real sandbox, as root and as an ordinary user."""

from __future__ import annotations

import contextlib
import gc
import tempfile
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from agent.core.errors import EngineError, SandboxError
from agent.core.fingerprint import SandboxFacts
from agent.core.model import ExecLimits, Reason
from agent.core.program import FLOOR
from agent.edges.clock import SystemClock
from agent.edges.programs.artifacts import FileArtifacts
from agent.edges.programs.pool import ProgramPool, ProgramSettings, why_not
from agent.edges.programs.stock import Stock
from agent.edges.sandbox.bubblewrap import Bubblewrap
from agent.edges.signing import KeyPair, verify
from agent.ports import ExitKind, Printed, Ran, Sandbox
from tests.edges.programs.making import PUBLISHER, archive, bring, program, task
from tests.patience import within
from tests.sandboxes import BACKENDS, as_ordinary_user, make_backend, require_root, require_sandbox

MOST = ExecLimits(memory_bytes=256 << 20, wall_s=30, out_bytes=1 << 20, tmp_bytes=1 << 20)
ASKED = replace(MOST, memory_bytes=128 << 20)


@pytest.fixture(scope="module")
def sandboxes() -> None:
    """Skips where none can be made."""
    require_sandbox()


def pool_in(directory: Path, sandbox: Sandbox, **settings: Any) -> ProgramPool:
    fields = {"name": "exec", "slots": 1, "publishers": (PUBLISHER.public_key,), "most": MOST, "backend": "test"}
    return ProgramPool(
        ProgramSettings(**{**fields, **settings}),
        sandbox=sandbox,
        clock=SystemClock(),
        stock=Stock(directory / "stock", 1 << 20),
        artifacts=FileArtifacts(directory / "artifacts"),
        verify=verify,
    )


async def ran(pool: ProgramPool, script: str, inputs: dict[str, bytes] | None = None, **changes: Any):
    """(all that was printed, the end) of a shell script."""
    raw = archive({"run": f"#!/bin/sh\n{script}\n".encode(), "data/x": b"bundled"})
    asked = program(raw, inputs=inputs, **{"limits": ASKED, **changes})
    await bring(pool._stock, asked, raw, *(inputs or {}).values())
    await pool.check(task(asked))
    printed, end = b"", None
    async with contextlib.aclosing(pool.generate(task(asked))) as outputs:
        async for output in outputs:
            match output:
                case Printed(data=data):
                    printed += data
                case Ran():
                    end = output
    assert end is not None
    return printed, end


async def looks_around(pool: ProgramPool) -> None:
    script = (
        'pwd; cat /bundle/data/x /in/a; echo; echo "$GPU_AGENT_TASK $GPU_AGENT_SEED $MINE"\n'
        "(: >/bundle/new) 2>/dev/null || echo bundle is read-only\n"
        "(: >/in/a) 2>/dev/null || echo input is read-only\n"
        "ls -A /out /tmp; ln -s /etc/passwd link; echo result >file"
    )
    printed, end = await within(ran(pool, script, {"a": b"input"}, env={"MINE": "ours"}))
    assert printed.decode().splitlines() == [
        "/out",
        "bundledinput",
        "task-1 7 ours",
        "bundle is read-only",
        "input is read-only",
        "/out:",
        "",
        "/tmp:",
    ]
    assert (end.end.kind, end.end.code) == (ExitKind.EXITED, 0)
    assert [it.path for it in end.members] == [b"out/file", b"stderr", b"stdout"]
    assert end.left_out == ("link: symbolic link",)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Sandbox:
    """Each that this machine has."""
    require_sandbox(request.param)
    return make_backend(request.param, tmp_path)


async def test_a_program_sees_its_bundle_its_inputs_and_nothing_of_another_run(
    backend: Sandbox, tmp_path: Path
) -> None:
    pool = pool_in(tmp_path, backend)
    await looks_around(pool)
    await looks_around(pool)


async def test_the_least_that_may_be_asked_builds_a_sandbox_in_each_backend(backend: Sandbox, tmp_path: Path) -> None:
    """Else whoever asks for less than can be would trip the node's breaker."""
    pool = pool_in(tmp_path, backend)
    for name in ExecLimits.__struct_fields__:
        if name not in ("stdout_bytes", "wall_s"):
            least = replace(ASKED, **{name: getattr(FLOOR, name)})
            pool._fractions = True
            printed, end = await within(ran(pool, "echo here", limits=least))
            assert (printed, end.end.kind) == (b"here\n", ExitKind.EXITED), (name, end)


@pytest.mark.usefixtures("sandboxes")
async def test_a_trial_says_whether_programs_can_run_here(tmp_path: Path) -> None:
    assert await within(why_not(Bubblewrap(tmp_path), MOST)) == ""
    assert "pids cannot be enforced" in await why_not(NoSandbox(), MOST)
    assert await why_not(Bubblewrap(tmp_path), MOST, ("GPU-00000000-0000-0000-0000-000000000000",))


@pytest.mark.usefixtures("sandboxes")
async def test_where_no_cgroup_bounds_its_memory_no_strangers_program_runs(tmp_path: Path) -> None:
    """Measuring stops what grows; a program that hides its memory in a memfd is not seen."""
    unbounded = Bubblewrap(tmp_path, cgroup_root=tmp_path / "none")
    why = await within(why_not(unbounded, MOST))
    assert "could get around the limit of memory" in why
    assert "systemd service" in why


@pytest.mark.usefixtures("sandboxes")
def test_an_ordinary_user_runs_programs_as_well() -> None:
    require_root()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o777)
        as_ordinary_user(lambda: looks_around(pool_in(directory, Bubblewrap(directory))))


@pytest.mark.usefixtures("sandboxes")
async def test_stderr_comes_apart_or_in_its_place(tmp_path: Path) -> None:
    pool = pool_in(tmp_path, Bubblewrap(tmp_path))
    printed, end = await within(ran(pool, "echo one; echo two >&2; echo three"))
    assert (printed, end.stderr_tail) == (b"one\nthree\n", "two\n")
    printed, end = await within(ran(pool, "echo one; echo two >&2; echo three", merge_stderr=True))
    assert (printed, end.stderr_tail) == (b"one\ntwo\nthree\n", "")


@pytest.mark.usefixtures("sandboxes")
async def test_what_is_printed_reaches_people_without_what_moves_a_terminal(tmp_path: Path) -> None:
    printed, end = await within(ran(pool_in(tmp_path, Bubblewrap(tmp_path)), r"printf 'a\033[2Jb\007\377\n'"))
    assert printed == b"a\x1b[2Jb\x07\xff\n", "the archive has it as it is"
    assert end.stdout_tail == "ab�\n"


@pytest.mark.usefixtures("sandboxes")
async def test_a_program_that_cannot_be_started_ends_as_a_shell_would_say(tmp_path: Path) -> None:
    pool = pool_in(tmp_path, Bubblewrap(tmp_path))
    for argv, status in ((("/bundle/missing",), 127), (("/bundle/data",), 126)):
        _, end = await within(ran(pool, "", argv=argv))
        assert (end.end.kind, end.end.code) == (ExitKind.EXITED, status)


@pytest.mark.usefixtures("sandboxes")
async def test_a_working_directory_that_the_bundle_lacks_is_the_requesters_mistake(tmp_path: Path) -> None:
    pool = pool_in(tmp_path, Bubblewrap(tmp_path))
    assert (await within(ran(pool, "pwd", cwd="/bundle/data")))[0] == b"/bundle/data\n"
    with pytest.raises(EngineError) as refused:
        await within(ran(pool, "pwd", cwd="/bundle/missing"))
    assert refused.value.reason is Reason.BUNDLE_REFUSED


@pytest.mark.usefixtures("sandboxes")
async def test_whoever_stops_listening_ends_the_program_and_nothing_of_it_stays(tmp_path: Path) -> None:
    pool = pool_in(tmp_path, Bubblewrap(tmp_path))
    raw = archive({"run": b"#!/bin/sh\necho begun; exec sleep 1000\n"})
    asked = program(raw, limits=ASKED)
    await bring(pool._stock, asked, raw)
    outputs = pool.generate(task(asked))
    assert await within(anext(outputs)) == Printed(data=b"begun\n")
    await within(outputs.aclose())
    gc.collect()
    assert list((tmp_path / "artifacts").iterdir()) == []
    assert (await within(ran(pool, "echo again")))[0] == b"again\n"


# ---------------------------------------------------------------- what is refused before anything runs


class NoSandbox:
    """A machine where none can be built."""

    async def probe(self):
        return SandboxFacts(backend="none", usable=False)

    async def start(self, spec):
        raise SandboxError("a limit of pids cannot be enforced here", remedy="Buy another machine")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"keys": KeyPair.generate()}, Reason.UNTRUSTED_BUNDLE),
        ({"limits": replace(MOST, memory_bytes=MOST.memory_bytes + 1)}, Reason.LIMIT_TOO_HIGH),
        ({"limits": replace(MOST, cpu_millis=500)}, Reason.LIMIT_TOO_HIGH),
        ({"inputs": {"a": bytes(600 << 10)}}, Reason.LIMIT_TOO_HIGH),
    ],
    ids=["stranger", "memory", "half a processor", "larger than the cache"],
)
async def test_it_is_refused_before_anything_is_fetched_or_run(tmp_path: Path, changes: dict, reason: Reason) -> None:
    raw = archive({"run": b""})
    with pytest.raises(EngineError) as refused:
        await pool_in(tmp_path, NoSandbox()).check(task(program(raw, **{"limits": MOST, **changes})))
    assert refused.value.reason is reason


@pytest.mark.parametrize("field", ["sha256", "bytes", "signature"])
async def test_a_bundle_that_its_publisher_did_not_sign_is_refused(tmp_path: Path, field: str) -> None:
    asked = program(archive({"run": b""}), limits=MOST)
    other = program(archive({"run": b"other"}))
    forged = replace(asked, bundle=replace(asked.bundle, **{field: getattr(other.bundle, field)}))
    if field == "bytes":
        forged = replace(asked, bundle=replace(asked.bundle, bytes=asked.bundle.bytes + 512))
    with pytest.raises(EngineError) as refused:
        await pool_in(tmp_path, NoSandbox()).check(task(forged))
    assert refused.value.reason is Reason.UNTRUSTED_BUNDLE


async def test_a_pool_without_a_sandbox_is_not_ready_and_says_why(tmp_path: Path) -> None:
    pool = pool_in(tmp_path, NoSandbox())

    class SeenError(Exception):
        pass

    def changed() -> None:
        raise SeenError

    with pytest.raises(SeenError):
        await within(pool.run(changed))
    assert not pool.facts.ready
    assert "a limit of pids cannot be enforced here" in pool.facts.detail
