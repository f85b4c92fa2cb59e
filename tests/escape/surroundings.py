"""What an escape could reach, made by the host: files, processes, sockets, memory. And whether it was reached."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent.ports import Limits

ATTEMPTS = Path(__file__).with_name("attempts")
PYTHON = shutil.which("python3", path="/usr/bin")
LIMITS = Limits(
    memory_bytes=64 << 20,
    pids=48,
    tmp_bytes=16 << 20,
    open_files=256,
    file_bytes=8 << 20,
    wall_s=60,
    stderr_bytes=1 << 20,
)
SHM_BYTES = 64 << 20
"""Of /dev/shm, the same for every sandbox."""
SECRET = "nobody inside may read this"
_LIBC = ctypes.CDLL(None, use_errno=True)
_IPC_CREAT, _IPC_RMID = 0o1000, 0


class Surroundings:
    """Use as a context manager, as the user that the sandbox's agent is."""

    def __init__(self) -> None:
        self.token = f"esc{uuid.uuid4().hex[:8]}"
        self.daemon_name = f"{self.token}d"
        self._key = int(self.token[3:], 16) % 0x3FFFFFFF + 2
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> Surroundings:
        with contextlib.ExitStack() as undo:
            self._prepare(undo)
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def argument(self, limits: Limits = LIMITS) -> dict[str, Any]:
        """What the attempts are told."""
        return {
            "token": self.token,
            "daemon_name": self.daemon_name,
            "canary": str(self.place / "canary"),
            "secret": str(self.place / "secret"),
            "input": "/in",
            "sock": "/sock",
            "out": "/out",
            "agent_pid": os.getpid(),
            "agent_name": Path("/proc/self/comm").read_text().strip(),
            "bystander_pid": self._bystander.pid,
            "bystander_name": self.token,
            "tcp_port": self._tcp,
            "tcp6_port": self._tcp6,
            "udp_port": self._udp,
            "any_port": self._any,
            "left_port": self._left,
            "address": _own_address(),
            "abstract": f"{self.token}-abstract",
            "unix_path": str(self.place / "socket"),
            "ipc_key": self._key,
            "shm_name": f"{self.token}-shm",
            "queue_name": f"{self.token}-queue",
            "limits": {name: getattr(limits, name) for name in limits.__struct_fields__} | {"shm_bytes": SHM_BYTES},
        }

    def fresh_sockets(self) -> Path:
        """A directory for a sandbox to put its socket in."""
        return Path(tempfile.mkdtemp(dir=self.place / "sockets"))

    def let_go(self) -> None:
        """Tell the attempts that the host has looked."""
        (self.input / "go").touch()

    def seen_alive(self, pid: int) -> dict[str, bool]:
        """What a living sandbox, whose first process is `pid`, shows the host."""
        return {
            "root_of_the_host": "0" in _user_ids(pid),
            "listen_for_the_host": _says(self.token, socket.AF_INET, ("127.0.0.1", self._left)),
            "listen_on_an_abstract_name": _says(self.token, socket.AF_UNIX, "\0" + self.token),
            "file_in_the_hosts_tmp": Path("/tmp", self.token).exists(),
            "file_in_the_hosts_shared_memory": Path("/dev/shm", self.token).exists(),
            "shared_memory_for_the_host": _LIBC.shmget(self._key + 1, 0, 0) >= 0,
            "signal_a_process_of_the_host": self._bystander.poll() is not None,
        }

    def seen_after(self) -> dict[str, bool]:
        """What a sandbox that has ended left behind or has changed."""
        return {
            "outlive_the_sandbox": bool(self._daemons()),
            "canary_changed": (self.place / "canary").read_text() != SECRET,
            "input_changed": (self.input / "file").read_text() != "input",
            "mounts_left": self.token in Path("/proc/self/mountinfo").read_text(),
            "cgroups_left": bool(self._cgroups()),
            "hostname_changed": socket.gethostname() != self._hostname,
            "program_changed": PYTHON is not None and Path(PYTHON).stat().st_mtime_ns != self._python_changed_at,
        }

    # ------------------------------------------------------------------ making it

    def _prepare(self, undo: contextlib.ExitStack) -> None:
        self.place = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="escape-")))
        undo.callback(self._sweep)
        self.place.chmod(0o755)
        self.input = self.place / "input"
        self.input.mkdir()
        (self.place / "sockets").mkdir()
        for name, text, mode in (("canary", SECRET, 0o644), ("secret", SECRET, 0o600), ("input/file", "input", 0o666)):
            (self.place / name).write_text(text)
            (self.place / name).chmod(mode)
        self.attempts = self.place / "attempts"
        shutil.copytree(ATTEMPTS, self.attempts, ignore=shutil.ignore_patterns("__pycache__"))
        if PYTHON is not None:
            subprocess.run([PYTHON, "-m", "compileall", "-q", str(self.attempts)], check=True, timeout=60)
            self._python_changed_at = Path(PYTHON).stat().st_mtime_ns
        for path in (self.input, self.attempts, *self.attempts.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        self._hostname = socket.gethostname()
        self._start_bystander(undo)
        self._listen(undo)
        self._share(undo)

    def _start_bystander(self, undo: contextlib.ExitStack) -> None:
        """A process that any signal ends, under a name of its own."""
        named = self.place / self.token
        named.symlink_to("/usr/bin/sleep")
        self._bystander = subprocess.Popen([named, "600"])
        undo.callback(self._bystander.wait)
        undo.callback(self._bystander.kill)

    def _listen(self, undo: contextlib.ExitStack) -> None:
        def stream(family: int, address: Any) -> socket.socket:
            listening = undo.enter_context(socket.socket(family))
            listening.bind(address)
            listening.listen(64)
            return listening

        self._tcp = stream(socket.AF_INET, ("127.0.0.1", 0)).getsockname()[1]
        self._any = stream(socket.AF_INET, ("0.0.0.0", 0)).getsockname()[1]
        self._tcp6 = 0
        with contextlib.suppress(OSError):
            self._tcp6 = stream(socket.AF_INET6, ("::1", 0)).getsockname()[1]
        stream(socket.AF_UNIX, f"\0{self.token}-abstract")
        stream(socket.AF_UNIX, str(self.place / "socket"))
        (self.place / "socket").chmod(0o777)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._left = free.getsockname()[1]
        echo = undo.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        echo.bind(("127.0.0.1", 0))
        self._udp = echo.getsockname()[1]
        threading.Thread(target=_echo, args=(echo,), daemon=True).start()

    def _share(self, undo: contextlib.ExitStack) -> None:
        shared = Path("/dev/shm", f"{self.token}-shm")
        shared.write_text(SECRET)
        shared.chmod(0o666)
        undo.callback(shared.unlink)
        for get, remove in (
            (lambda: _LIBC.shmget(self._key, 4096, _IPC_CREAT | 0o666), lambda n: _LIBC.shmctl(n, _IPC_RMID, None)),
            (lambda: _LIBC.msgget(self._key, _IPC_CREAT | 0o666), lambda n: _LIBC.msgctl(n, _IPC_RMID, None)),
            (lambda: _LIBC.semget(self._key, 1, _IPC_CREAT | 0o666), lambda n: _LIBC.semctl(n, 0, _IPC_RMID)),
        ):
            number = get()
            if number >= 0:
                undo.callback(remove, number)
        queue = f"/{self.token}-queue".encode()
        if _LIBC.mq_open(queue, os.O_RDWR | os.O_CREAT, 0o666, None) >= 0:
            undo.callback(_LIBC.mq_unlink, queue)

    # ------------------------------------------------------------------ after it

    def _daemons(self) -> list[int]:
        """Living processes that an attempt has left behind."""
        return [pid for pid in _pids() if _comm(pid) == self.daemon_name]

    def _cgroups(self) -> list[str]:
        return [place for place, _, _ in os.walk("/sys/fs/cgroup") if self.token in os.path.basename(place)]

    def _sweep(self) -> None:
        """Only attempts without a sandbox leave anything."""
        for pid in self._daemons():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if (left := _LIBC.shmget(self._key + 1, 0, 0)) >= 0:
            _LIBC.shmctl(left, _IPC_RMID, None)
        for place in (Path("/tmp"), Path("/dev/shm")):
            for path in place.glob(f"{self.token}*"):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _echo(server: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            said, sender = server.recvfrom(64)
            server.sendto(said, sender)


def _says(token: str, family: int, address: Any) -> bool:
    """Whether one of ours listens there: somebody else may have got the port meanwhile."""
    with socket.socket(family) as stream, contextlib.suppress(OSError):
        stream.settimeout(2)
        stream.connect(address)
        return stream.recv(64).decode() == token
    return False


def _own_address() -> str:
    """An IPv4 address of this machine that is not its loopback; empty where there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out, contextlib.suppress(OSError):
        out.connect(("192.0.2.1", 9))
        return str(out.getsockname()[0])
    return ""


def _user_ids(pid: int) -> list[str]:
    """Real, effective, saved and file system user of a process."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split()[1:] for line in status if line.startswith("Uid:"))


def _pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def _comm(pid: int) -> str:
    """Its name; empty when it is dead."""
    with contextlib.suppress(OSError, IndexError):
        stat = Path(f"/proc/{pid}/stat").read_text()
        return stat[stat.index("(") + 1 : stat.rindex(")")] if stat.rpartition(")")[2].split()[0] not in "ZX" else ""
    return ""
