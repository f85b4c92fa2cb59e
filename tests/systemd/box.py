"""A real systemd in a box: pid 1 of fresh namespaces over a throw-away overlay of this machine's root.

Mounts and processes live in namespaces and end with them; the one thing that would stay behind, a cgroup, is removed
by `stop`, and by the next `start` when a test run was killed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.patience import PATIENCE_S

INIT = Path(__file__).with_name("box_init.sh")
SYSTEMD = Path("/lib/systemd/systemd")
_CGROUP_PREFIX = "systemd-box-"
_BOOT_S = 30.0


def systemd_version() -> int:
    """Major number; 0 where there is none."""
    if shutil.which("systemctl") is None:
        return 0
    said = subprocess.run(
        ["systemctl", "--version"], capture_output=True, text=True, timeout=PATIENCE_S, check=True
    ).stdout
    return int(said.split()[1])


def why_not() -> str:
    """Why this machine can hold no box; empty when it can."""
    if os.geteuid() != 0:
        return "a systemd in a box needs root"
    missing = [tool for tool in ("unshare", "nsenter", "setpriv", "pivot_root") if shutil.which(tool) is None]
    if missing or not SYSTEMD.exists():
        return f"not installed: {', '.join(missing) or 'systemd'}"
    if not os.access(_cgroups() / "cgroup.procs", os.W_OK):
        return "no writable cgroup v2 hierarchy"
    program = (
        "set -e; mount -t tmpfs box /mnt; mkdir /mnt/u /mnt/w /mnt/r;"
        "mount -t overlay box -o lowerdir=/,upperdir=/mnt/u,workdir=/mnt/w /mnt/r; mount -t proc proc /mnt/r/proc"
    )
    tried = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--cgroup", "sh", "-c", program],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    return f"no namespaces or overlay here: {tried.stderr.strip()}" if tried.returncode else ""


def _cgroups() -> Path:
    """The v2 hierarchy, also where v1 is mounted beside it."""
    hybrid = Path("/sys/fs/cgroup/unified")
    return hybrid if (hybrid / "cgroup.procs").exists() else Path("/sys/fs/cgroup")


class Box:
    """Use as a context manager. `binds` maps a directory here to its place inside, read-only."""

    def __init__(self, room: Path, binds: Mapping[Path, str]) -> None:
        self._room = room
        self._binds = binds
        self._cgroup = _cgroups() / f"{_CGROUP_PREFIX}{os.getpid()}"
        self._outer: subprocess.Popen[bytes] | None = None
        self._init = 0
        self.console = room.with_name(room.name + ".console")

    def __enter__(self) -> Box:
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def run(self, *argv: str, check: bool = True, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a program inside as root."""
        done = subprocess.run(
            ["nsenter", "-t", str(self._init), "-a", "--", *argv],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
            input=stdin,
        )
        if check and done.returncode:
            raise AssertionError(f"{argv} → {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def write(self, path: str, text: str, mode: str = "0644") -> None:
        """Make a file inside."""
        self.run("install", "-D", "-m", mode, "/dev/stdin", path, stdin=text)

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """`systemctl show` of a unit."""
        shown = self.run("systemctl", "show", unit, "--property", ",".join(properties)).stdout
        return dict(line.split("=", 1) for line in shown.splitlines())

    def until(self, unit: str, fact: Callable[[dict[str, str]], bool], *properties: str, limit_s: float = 60.0) -> None:
        """Wait until the unit's properties are so; AssertionError with its story when they never are."""
        self.eventually(lambda: fact(self.show(unit, *properties)), unit, limit_s)

    def eventually(self, fact: Callable[[], bool], unit: str, limit_s: float = 60.0) -> None:
        """Wait for anything; the story of `unit` is told when it never comes."""
        _wait(fact, limit_s, lambda: self.story(unit))

    def journal(self, *matches: str) -> str:
        """Messages of the box's journal, as far as they were sent before the call."""
        self.run("journalctl", "--sync")
        return self.run("journalctl", "--no-pager", "-o", "cat", *matches, check=False).stdout

    def story(self, unit: str) -> str:
        """What systemd and the journal know of a unit, for a failed test."""
        status = self.run("systemctl", "status", "--no-pager", "--full", unit, check=False).stdout
        journal = self.run("journalctl", "--no-pager", "-o", "short-monotonic", "-n", "80", check=False).stdout
        return f"{status}\n{journal}"

    def _start(self) -> None:
        _sweep()
        self._room.mkdir()
        self._cgroup.mkdir()
        unshare = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"]
        unshare += ["--uts", "--ipc", "--cgroup", "--net"]
        places = [str(part) for pair in self._binds.items() for part in pair]
        enter = f'echo $$ > {self._cgroup}/cgroup.procs && exec "$@"'
        # The box dies with the test run, however that ends.
        bound = ["setpriv", "--pdeathsig", "KILL", "sh", "-c", enter, "sh"]
        with self.console.open("wb") as console:
            self._outer = subprocess.Popen(
                [*bound, *unshare, "sh", str(INIT), str(self._room), *places],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
            )
        _wait(self._booted, _BOOT_S, lambda: self.console.read_text(errors="replace"))

    def _booted(self) -> bool:
        assert self._outer is not None
        if self._outer.poll() is not None:
            raise AssertionError(f"the box ended at once:\n{self.console.read_text(errors='replace')}")
        children = Path(f"/proc/{self._outer.pid}/task/{self._outer.pid}/children").read_text().split()
        if not children or Path(f"/proc/{children[0]}/comm").read_text().strip() != "systemd":
            return False
        self._init = int(children[0])
        return self.run("systemctl", "is-system-running", check=False).stdout.strip() in ("running", "degraded")

    def _stop(self) -> None:
        if self._outer is not None:
            self._outer.send_signal(signal.SIGKILL)  # --kill-child takes pid 1 and so the whole box with it
            self._outer.wait()
        _remove_cgroup(self._cgroup)


def _wait(fact: Callable[[], bool], limit_s: float, story: Callable[[], str]) -> None:
    """Poll: systemd in the box has no bus that we could wait on from outside."""
    end = time.monotonic() + limit_s
    while not fact():
        if time.monotonic() > end:
            raise AssertionError(f"not so after {limit_s:.0f} s\n{story()}")
        time.sleep(0.05)


def _sweep() -> None:
    """Remove what a killed test run left behind."""
    for cgroup in _cgroups().glob(f"{_CGROUP_PREFIX}*"):
        if not Path("/proc", cgroup.name.removeprefix(_CGROUP_PREFIX)).exists():
            _remove_cgroup(cgroup)


def _remove_cgroup(cgroup: Path) -> None:
    if not cgroup.exists():
        return
    with contextlib.suppress(OSError):
        (cgroup / "cgroup.kill").write_text("1")
    end = time.monotonic() + 10
    while cgroup.exists():
        for child in sorted(cgroup.rglob("*/"), reverse=True):
            with contextlib.suppress(OSError):
                child.rmdir()
        try:
            cgroup.rmdir()
        except OSError:  # the killed processes are still being reaped
            if time.monotonic() > end:
                raise
            time.sleep(0.02)
