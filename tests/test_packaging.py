"""What a newcomer runs first: `./run`, the lock files and the package itself.

`./run` is executed for real on a machine made of a PATH: coreutils are the real ones, Python and apt-get are programs
of ours that note how they were called.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S

ROOT = Path(__file__).parents[1]
COREUTILS = (
    "sh",
    "dirname",
    "readlink",
    "cat",
    "sha256sum",
    "grep",
    "sed",
    "rm",
    "mkdir",
    "cp",
    "flock",
    "mktemp",
    "chmod",
)

PYTHON = """#!/bin/sh
echo "$*" >>"$CALLS"
case "$*" in
  *sys.version_info*) [ ! -e "$0.old" ] ;;
  -V) echo Python 3.11.2 ;;
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  *--require-hashes*) [ ! -e "$BREAK_PIP" ] ;;
esac
"""
APT = """#!/bin/sh
echo "apt-get $*" >>"$CALLS"
[ ! -e "$BREAK_APT" ] || { echo "E: no network"; exit 100; }
case "$*" in *install*) cp "$SPARE_PYTHON" "${0%/*}/python3" ;; esac
"""
USER = "#!/bin/sh\ncase $1 in -un) echo ann ;; *) echo 1000 ;; esac\n"
SUPERUSER = "#!/bin/sh\ncase $1 in -un) echo root ;; *) echo 0 ;; esac\n"


class Machine:
    """A clone in a folder with a space, and a PATH with nothing but what a bare system has."""

    def __init__(self, folder: Path) -> None:
        self.clone = folder / "my clone"
        self.bin = folder / "bin"
        self.elsewhere = folder / "elsewhere"
        self.calls_file = folder / "calls"
        self.break_pip = folder / "break-pip"
        self.break_apt = folder / "break-apt"
        for place in (self.clone, self.bin, self.elsewhere):
            place.mkdir()
        for name in ("run", "requirements.lock", "requirements-dev.lock", "pyproject.toml"):
            shutil.copy(ROOT / name, self.clone)
        (self.clone / "agent").mkdir()
        for name in COREUTILS:
            (self.bin / name).symlink_to(shutil.which(name) or f"/bin/{name}")
        self.program("spare-python", PYTHON)
        self.program("id", USER)

    def program(self, name: str, text: str) -> Path:
        file = self.bin / name
        file.unlink(missing_ok=True)
        file.write_text(text)
        file.chmod(0o755)
        return file

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        environ = {
            "PATH": str(self.bin),
            "CALLS": str(self.calls_file),
            "BREAK_PIP": str(self.break_pip),
            "BREAK_APT": str(self.break_apt),
            "SPARE_PYTHON": str(self.bin / "spare-python"),
        }
        return subprocess.Popen(
            [self.clone / "run", *arguments],
            cwd=self.elsewhere,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str) -> tuple[int, str]:
        """Exit status and what was said."""
        started = self.start(*arguments)
        _, said = started.communicate(timeout=PATIENCE_S)
        return started.returncode, said

    def calls(self) -> list[str]:
        """How our programs were called since the last time, without the searches for a Python."""
        lines = self.calls_file.read_text().splitlines() if self.calls_file.exists() else []
        self.calls_file.unlink(missing_ok=True)
        return [line for line in lines if not line.startswith(("-c ", "-V"))]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def installs(machine: Machine, lock: str) -> list[str]:
    return [
        f"-m pip install -q --require-hashes -r {machine.clone}/{lock}",
        f"-m pip install -q --no-deps --no-build-isolation --no-index -e {machine.clone}",
    ]


def test_the_first_run_makes_the_environment_and_the_second_only_starts(machine: Machine) -> None:
    machine.program("python3", PYTHON)
    assert machine.run("demo", "--keep", "a b")[0] == 0
    assert machine.calls() == [
        f"-m venv {machine.clone}/.venv",
        *installs(machine, "requirements.lock"),
        "-m agent demo --keep a b",
    ]
    assert machine.run("version") == (0, "")
    assert machine.calls() == ["-m agent version"]


def test_the_development_environment_serves_the_agent_too(machine: Machine) -> None:
    machine.program("python3", PYTHON)
    assert machine.run("test", "-k", "x")[0] == 0
    assert machine.calls()[1:] == [*installs(machine, "requirements-dev.lock"), "-m pytest -k x"]
    assert machine.run("version")[0] == 0
    assert machine.calls() == ["-m agent version"]


def test_a_changed_lock_is_installed_into_the_same_environment(machine: Machine) -> None:
    machine.program("python3", PYTHON)
    machine.run("version")
    machine.calls()
    with (machine.clone / "requirements.lock").open("a") as lock:
        lock.write("# newer\n")
    machine.run("version")
    assert machine.calls() == [*installs(machine, "requirements.lock"), "-m agent version"]


def test_a_broken_off_installation_is_made_anew(machine: Machine) -> None:
    machine.program("python3", PYTHON)
    machine.break_pip.touch()
    status, said = machine.run("version")
    assert status == 69
    assert "pip could not install requirements.lock" in said
    (machine.clone / ".venv/half").touch()
    machine.calls()
    machine.break_pip.unlink()
    assert machine.run("version")[0] == 0
    assert machine.calls()[0] == f"-m venv {machine.clone}/.venv"
    assert not (machine.clone / ".venv/half").exists()


def test_a_clone_that_moved_gets_a_new_look_at_its_environment(machine: Machine) -> None:
    machine.program("python3", PYTHON)
    machine.run("version")
    machine.clone = machine.clone.rename(machine.clone.with_name("moved"))
    machine.calls()
    machine.run("version")
    assert machine.calls() == [*installs(machine, "requirements.lock"), "-m agent version"]


def test_two_at_once_make_one_environment(machine: Machine) -> None:
    machine.program("python3", PYTHON)
    both = [machine.start("version"), machine.start("version")]
    assert [one.wait(timeout=PATIENCE_S) for one in both] == [0, 0]
    for one in both:
        one.communicate()
    calls = machine.calls()
    assert sum("-m venv" in call for call in calls) == 1
    assert calls.count("-m agent version") == 2


def test_an_ordinary_user_without_python_is_told_the_one_command(machine: Machine) -> None:
    machine.program("apt-get", APT)
    status, said = machine.run("version")
    assert status == 69
    assert re.search(
        r"Run this once, then again \./run: sudo apt-get install -y python3\S* python3\S*-venv$", said.strip()
    )
    assert machine.calls() == []


def test_root_without_python_gets_it_from_the_distribution(machine: Machine) -> None:
    machine.program("apt-get", APT)
    machine.program("id", SUPERUSER)
    status, said = machine.run("version")
    assert (status, "run: installing with apt-get: python3" in said) == (0, True)
    calls = machine.calls()
    assert calls[0] == "apt-get -qq update"
    assert calls[1].startswith("apt-get -qq install -y --no-install-recommends")
    assert calls[-1] == "-m agent version"


def test_a_failing_apt_get_is_quoted(machine: Machine) -> None:
    machine.program("apt-get", APT)
    machine.program("id", SUPERUSER)
    machine.break_apt.touch()
    status, said = machine.run("version")
    assert status == 69
    assert "E: no network" in said


def test_a_system_without_apt_is_told_what_is_missing(machine: Machine) -> None:
    status, said = machine.run("version")
    assert status == 69
    assert "Python 3.11 or newer with venv and pip is missing" in said


def test_a_python_that_is_too_old_or_lacks_venv_is_passed_over(machine: Machine) -> None:
    machine.program("python3.13", PYTHON.replace('echo "$*"', 'echo "unfit $*"'))
    (machine.bin / "python3.13.old").touch()
    machine.program("python3", PYTHON)
    assert machine.run("version")[0] == 0
    calls = machine.calls()
    assert calls[-1] == "-m agent version"
    assert not any(call.startswith("unfit -m") for call in calls)


def test_missing_test_tools_are_named_and_do_not_stop_the_tests(machine: Machine) -> None:
    machine.program("python3", PYTHON)
    status, said = machine.run("test")
    assert status == 0
    assert re.search(r"tests that need these packages will skip:.* gcc", said)


def test_the_status_of_the_agent_is_that_of_run(machine: Machine) -> None:
    machine.program("python3", PYTHON + 'case "$*" in "-m agent"*) exit 78 ;; esac\n')
    assert machine.run("config", "check")[0] == 78


def test_the_script_is_plain_posix_shell() -> None:
    dash = shutil.which("dash") or "sh"
    subprocess.run([dash, "-n", ROOT / "run"], check=True)
    if shellcheck := shutil.which("shellcheck"):
        subprocess.run([shellcheck, ROOT / "run", ROOT / ".ci/run"], check=True)


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock"])
def test_every_locked_package_has_hashes_and_names_no_index(lock: str) -> None:
    text = (ROOT / lock).read_text()
    packages = re.split(r"\n(?=[a-z0-9])", text.partition("\n    make lock\n")[2] or text)
    pinned = [package for package in packages if "==" in package.splitlines()[0]]
    assert len(pinned) > 30
    assert all("--hash=sha256:" in package for package in pinned)
    assert not re.search(r"https?://|file:|--index|--find-links", text)


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock"])
def test_the_locks_ask_for_the_minor_version_of_python_because_a_release_candidate_has_no_other_order(
    lock: str,
) -> None:
    assert "python_full_version" not in (ROOT / lock).read_text()


def locked(lock: str) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9.-]+)==([^\s;]+)", (ROOT / lock).read_text(), re.MULTILINE))


def test_the_locks_hold_every_requirement_and_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    groups = [
        project["project"]["dependencies"],
        extras["demo"],
        extras["speed"],
        project["dependency-groups"]["build"],
    ]
    names = {re.split(r"[<>=!\[ ;]", requirement)[0] for group in groups for requirement in group}
    runtime, development = locked("requirements.lock"), locked("requirements-dev.lock")
    assert names <= runtime.keys(), "run `make lock`"
    assert {re.split(r"[<>=!\[ ;]", requirement)[0] for requirement in extras["dev"]} <= development.keys(), "make lock"
    assert runtime.items() <= development.items()


def test_the_package_carries_its_licence_and_its_types(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    if subprocess.run([sys.executable, "-c", "import hatchling"], check=False, capture_output=True).returncode:
        pytest.skip("hatchling is not installed here")
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    listing = subprocess.run([sys.executable, "-m", "zipfile", "-l", wheel], check=True, capture_output=True, text=True)
    assert "licenses/LICENSE" in listing.stdout
    assert "agent/py.typed" in listing.stdout
    assert "tests/" not in listing.stdout
