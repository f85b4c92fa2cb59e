"""Every way out that we know of is tried from inside a real sandbox, with nothing mocked."""

import asyncio
import json
import os
import shutil
import socket
import subprocess
import tempfile
import uuid
from pathlib import Path

import pytest

from agent.edges.sandbox.bubblewrap import Bubblewrap
from agent.ports import Limits, SandboxSpec
from tests.sandboxes import LIMIT_S, as_ordinary_user, require_root, require_sandbox

PYTHON = shutil.which("python3", path="/usr/bin")
SCRIPT = Path(__file__).with_name("attempts.py")


def names():
    """The attempts, read from the script by running it on nothing but its table."""
    source = SCRIPT.read_text().partition("def outcome(")[0]
    table = {"__name__": "attempts"}
    exec(compile(source.replace("sys.argv[1]", "'{}'"), str(SCRIPT), "exec"), table)
    return sorted(table["ATTEMPTS"])


@pytest.fixture(scope="module")
def host():
    """What an escape could reach: a listening port, an abstract socket, a file. Yields the script's argument."""
    require_sandbox()
    if PYTHON is None:
        pytest.skip("the attempts need a Python in /usr/bin")
    tcp = socket.create_server(("127.0.0.1", 0))
    abstract = f"gpu-agent-test-{uuid.uuid4()}"
    unix = socket.socket(socket.AF_UNIX)
    unix.bind("\0" + abstract)
    unix.listen()
    with tempfile.NamedTemporaryFile(prefix="canary-") as canary:
        os.chmod(canary.name, 0o644)
        yield json.dumps({
            "canary": canary.name,
            "agent_pid": os.getpid(),
            "tcp_port": tcp.getsockname()[1],
            "abstract": abstract,
        })  # fmt: skip
    tcp.close()
    unix.close()


async def attempts(directory, host):
    """Outcome of each attempt, made in one sandbox."""
    script = directory / "attempts.py"
    mounts = ((script, "/opt/attempts.py"), (directory, "/in"))
    limits = Limits(pids=64, memory_bytes=512 << 20, wall_s=LIMIT_S)
    argv = (PYTHON, "-I", "/opt/attempts.py", host)
    handle = await Bubblewrap(directory).start(SandboxSpec(name="escape", argv=argv, ro_mounts=mounts, limits=limits))
    end = await handle.wait()
    assert end.code == 0, (end, handle.stderr_tail())
    outcomes = json.loads(handle.stderr_tail())
    assert not {name: said for name, said in outcomes.items() if said.startswith("broken")}
    return outcomes


@pytest.fixture(scope="module")
def directory():
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        (directory / "file").write_text("input")
        (directory / "file").chmod(0o666)
        shutil.copy(SCRIPT, directory)
        (directory / "attempts.py").chmod(0o644)
        yield directory


@pytest.fixture(scope="module")
def tried(host, directory):
    return asyncio.run(attempts(directory, host))


@pytest.fixture(scope="module")
def tried_by_ordinary_user(host, directory):
    require_root()
    return as_ordinary_user(lambda: attempts(directory, host))


@pytest.mark.parametrize("name", names())
def test_no_way_out(tried, name):
    assert tried[name] != "out"


@pytest.mark.parametrize("name", names())
def test_no_way_out_of_an_ordinary_users_sandbox(tried_by_ordinary_user, name):
    assert tried_by_ordinary_user[name] != "out"


def test_the_attempts_do_get_out_where_there_is_no_sandbox(host):
    """Otherwise the tests above would prove nothing. Only what harms nothing outside is tried."""
    source = SCRIPT.read_text()
    harmless = (
        "host_file", "home_directories", "loopback_of_the_host", "abstract_socket_of_the_host", "no_filter",
        "gain_privileges", "host_file_by_init_root", "host_processes", "devices", "socket_netfilter",
    )  # fmt: skip
    only = source.replace("in ATTEMPTS.items()", f"in ATTEMPTS.items() if name in {harmless!r}")
    done = subprocess.run([PYTHON, "-I", "-c", only, host], capture_output=True, text=True, timeout=60, check=True)
    found = json.loads(done.stderr)
    reached = {name for name, said in found.items() if said == "out"}
    assert reached >= {
        "host_file",
        "home_directories",
        "loopback_of_the_host",
        "abstract_socket_of_the_host",
        "no_filter",
    }
