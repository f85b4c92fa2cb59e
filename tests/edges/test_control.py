"""edges.control over a real unix socket, asked by the real `http.client`."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import pwd
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from agent.core.errors import ConfigError
from agent.core.model import Reason
from agent.core.orders import PauseOrder, ResumeOrder
from agent.core.status import Gate, LinkStatus, NodeStatus, SandboxStatus, Status
from agent.edges.control import ControlError, ControlServer
from tests.patience import PATIENCE_S

STATUS = Status(
    node=NodeStatus(id="n1", name="box", state="online", version="0", started_at=1.0, since_s=2.0),
    link=LinkStatus(url="https://c.example", transport="websocket", state="open"),
    sandbox=SandboxStatus(backend="bubblewrap 0.11.0", usable=True),
    why_idle=(Gate(reason=Reason.NO_DEMAND, detail="nobody asks"),),
)


class Daemon:
    """A ControlApi that remembers what it was told, and refuses a reload."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.orders: list[PauseOrder | ResumeOrder] = []

    def status(self) -> Status:
        return STATUS

    async def drain(self) -> None:
        self.told.append("drain")

    async def pause(self, order: PauseOrder) -> None:
        self.told.append("pause")
        self.orders.append(order)

    async def resume(self, order: ResumeOrder) -> None:
        self.told.append("resume")
        self.orders.append(order)

    async def reload(self) -> None:
        raise ConfigError(["pools.0.slots: must be at least 1"], source="config.toml")


class OverUnixSocket(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=PATIENCE_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))


def ask(path: Path, method: str, route: str, body: str | None = None) -> tuple[int, bytes]:
    connection = OverUnixSocket(path)
    try:
        connection.request(method, route, body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "control.sock"


@pytest.fixture
def daemon() -> Daemon:
    return Daemon()


@pytest.fixture
async def served(path: Path, daemon: Daemon) -> AsyncIterator[Path]:
    server = ControlServer(path, daemon)
    await server.start()
    yield path
    await server.close()


async def test_status_comes_back_as_the_struct_that_it_was(served: Path) -> None:
    code, body = await asyncio.to_thread(ask, served, "GET", "/v1/status")
    assert code == 200
    assert msgspec.json.decode(body, type=Status) == STATUS


@pytest.mark.parametrize("verb", ["drain", "pause", "resume"])
async def test_a_verb_reaches_the_daemon(served: Path, daemon: Daemon, verb: str) -> None:
    code, _ = await asyncio.to_thread(ask, served, "POST", f"/v1/{verb}")
    assert code == 202
    assert daemon.told == [verb]


async def test_a_pause_may_say_for_how_long_and_which_gpu(served: Path, daemon: Daemon) -> None:
    for body, order in [
        ('{"for_s": 7200, "gpu": "GPU-1"}', PauseOrder(for_s=7200.0, gpu="GPU-1")),
        ("{}", PauseOrder()),
    ]:
        assert (await asyncio.to_thread(ask, served, "POST", "/v1/pause", body))[0] == 202
        assert daemon.orders[-1] == order
    assert (await asyncio.to_thread(ask, served, "POST", "/v1/resume", '{"gpu": "GPU-1"}'))[0] == 202
    assert daemon.orders[-1] == ResumeOrder(gpu="GPU-1")


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ("for two hours", "malformed"),
        ('{"for_s": "2h"}', "for_s"),
        ('{"for_s": 0}', "for_s"),
        ('{"for_s": 1e9}', "for_s"),
        ('{"for": 7200}', "for"),
        ('{"gpu": 0}', "gpu"),
        ("[]", "object"),
    ],
)
async def test_a_pause_that_cannot_be_read_changes_nothing_and_says_what_is_wrong(
    served: Path, daemon: Daemon, body: str, word: str
) -> None:
    code, answer = await asyncio.to_thread(ask, served, "POST", "/v1/pause", body)
    assert (code, daemon.told) == (400, [])
    assert word in json.loads(answer)["error"]


async def test_a_refused_verb_says_why_with_every_fault(served: Path) -> None:
    code, body = await asyncio.to_thread(ask, served, "POST", "/v1/reload")
    assert code == 409
    assert "pools.0.slots" in json.loads(body)["error"]


@pytest.mark.parametrize(("method", "route", "code"), [("GET", "/v1/drain", 405), ("POST", "/v1/kill", 404)])
async def test_what_is_no_verb_changes_nothing(
    served: Path, daemon: Daemon, method: str, route: str, code: int
) -> None:
    assert (await asyncio.to_thread(ask, served, method, route))[0] == code
    assert daemon.told == []


async def test_an_order_longer_than_any_order_is_refused_unread(served: Path, daemon: Daemon) -> None:
    assert (await asyncio.to_thread(ask, served, "POST", "/v1/pause", "{" + " " * 5000 + "}"))[0] == 413
    assert daemon.told == []


async def test_only_the_owner_gets_at_the_socket(served: Path) -> None:
    assert stat.S_IMODE(served.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(served.stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
async def test_another_user_is_refused_even_where_the_modes_were_opened(served: Path) -> None:
    for place in (served, *list(served.parents)[:-1]):
        if place.stat().st_uid == os.geteuid() and place != Path("/tmp"):
            place.chmod(0o777)
    nobody = pwd.getpwnam("nobody").pw_uid
    program = (
        "import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]);"
        "s.sendall(b'POST /v1/drain HTTP/1.1\\r\\nHost: l\\r\\nContent-Length: 0\\r\\nConnection: close\\r\\n\\r\\n');"
        "print(s.recv(64).split(b' ')[1].decode())"
    )
    python = "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable
    asked = await asyncio.to_thread(
        subprocess.run,
        [python, "-c", program, str(served)],
        user=nobody,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert asked.stdout.strip() == "403", asked.stderr


async def test_a_second_daemon_is_told_that_one_is_running(served: Path) -> None:
    with pytest.raises(ControlError, match="already running"):
        await ControlServer(served, Daemon()).start()
    code, _ = await asyncio.to_thread(ask, served, "GET", "/v1/status")
    assert code == 200, "the first one goes on serving"


async def test_the_socket_of_a_dead_daemon_is_replaced(path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    server = ControlServer(path, Daemon())
    await server.start()
    code, _ = await asyncio.to_thread(ask, path, "GET", "/v1/status")
    await server.close()
    assert code == 200
    assert not path.exists()


async def test_a_file_in_the_way_is_not_deleted(path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    path.write_text("precious")
    with pytest.raises(ControlError, match="no socket"):
        await ControlServer(path, Daemon()).start()
    assert path.read_text() == "precious"


async def test_a_path_too_long_for_a_socket_is_named(tmp_path: Path) -> None:
    with pytest.raises(ControlError, match="longer than 107 bytes"):
        await ControlServer(tmp_path / ("x" * 120), Daemon()).start()


async def test_a_start_that_failed_can_be_tried_again(path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    path.write_text("in the way")
    server = ControlServer(path, Daemon())
    with pytest.raises(ControlError):
        await server.start()
    path.unlink(missing_ok=True)
    await server.start()
    await server.close()
