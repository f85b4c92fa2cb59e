"""The command line of podman or docker.

Why the command line and not the HTTP API: the two take the same words for all that is needed here, while their APIs
differ (podman's own one, and docker's with its hijacked connections); a program's streams come as pipes; podman needs
no service running for it, least of all for an ordinary user; and there is no socket of an engine for anything of ours
to leak. The price is one process of the engine (some 30 to 50 MB) beside each running sandbox, and 50 to 100 ms a
call.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from agent.core.errors import SandboxError
from agent.core.text import plain
from agent.edges.sandbox.oci.facts import EngineName, Facts, parse_docker, parse_podman
from agent.edges.sandbox.oci.remedies import remedy_for

LIMIT_S = 60.0
"""A call takes 0.1 s; the first one after an installation sets the engine's storage up."""
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# What an engine needs to find its storage, its daemon and its runtimes. Nothing else of ours is its business.
_KEPT = (
    "HOME", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "DBUS_SESSION_BUS_ADDRESS", "TMPDIR", "DOCKER_HOST",
    "DOCKER_CONFIG", "DOCKER_CONTEXT", "CONTAINERS_CONF", "CONTAINERS_STORAGE_CONF", "STORAGE_DRIVER",
)  # fmt: skip
INSTALL = {
    EngineName.PODMAN: "Install it: `sudo apt-get install podman runc uidmap`",
    EngineName.DOCKER: "Install it: `sudo apt-get install docker.io`",
}


_ADVICE = re.compile(r"(See|Run) '")
_ORIGIN = re.compile(r"^((Error|docker): |Error response from daemon: )+")


class Command(NamedTuple):
    """How an engine is called."""

    name: EngineName
    words: tuple[str, ...]
    """Its path and options that stand before every verb."""
    environment: Mapping[str, str]

    def ask(self, *words: str, stdin: bytes = b"", limit_s: float = LIMIT_S) -> str:
        """What it answers on stdout; blocks. Raises SandboxError with its own words."""
        try:
            done = subprocess.run(
                [*self.words, *words],
                input=stdin,
                capture_output=True,
                env=self.environment,
                cwd="/",
                timeout=limit_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise SandboxError(f"{self.name} {words[0]} did not answer within {limit_s:g} s") from error
        except OSError as error:
            raise SandboxError(f"{self.words[0]} does not run: {error.strerror}") from error
        if done.returncode != 0:
            said = complaint(done.stderr)
            raise SandboxError(f"{self.name} {words[0]} failed: {said}", remedy=remedy_for(said))
        return done.stdout.decode(errors="replace")

    @property
    def removal(self) -> tuple[str, ...]:
        """The words that kill and remove a container."""
        # podman would first ask it to stop, and wait ten seconds for a first process that does not listen.
        at_once = ("--time", "0") if self.name is EngineName.PODMAN else ()
        return ("rm", "--force", "--volumes", *at_once)

    def facts(self) -> Facts:
        """What the engine says of itself. Raises SandboxError."""
        if self.name is EngineName.PODMAN:
            return parse_podman(self.ask("info", "--format", "json"))
        return parse_docker(self.ask("info", "--format", "{{json .}}"))

    def ids(self, label: str) -> Sequence[str]:
        """The containers with a label, dead or alive. Raises SandboxError."""
        return self.ask("ps", "--all", "--quiet", "--no-trunc", "--filter", f"label={label}").split()

    def remove(self, *containers: str) -> None:
        """Kill and remove containers, by name or full id; one that is not there is no error. Raises SandboxError when
        one is still there afterwards."""
        for last in (False, False, True):
            if not containers:
                return
            try:
                self.ask(*self.removal, *containers)
            except SandboxError:
                # Its client removes it too as soon as it is dead (`run --rm`); who comes second may find it half gone.
                containers = self._left_of(containers)
                if last and containers:
                    raise
            else:
                return

    def _left_of(self, containers: Sequence[str]) -> tuple[str, ...]:
        known = set(self.ask("ps", "--all", "--no-trunc", "--format", "{{.ID}} {{.Names}}").split())
        return tuple(name for name in containers if name in known)


def find(name: EngineName, environ: Mapping[str, str] | None = None) -> Command:
    """The engine's command on this machine. Raises SandboxError with the command that installs it."""
    environ = os.environ if environ is None else environ
    path = environ.get("PATH") or _PATH
    program = shutil.which(name, path=path)
    if program is None:
        raise SandboxError(f"{name} is not installed", remedy=INSTALL[name])
    kept = {key: environ[key] for key in _KEPT if key in environ}
    return Command(name, (str(Path(program).absolute()),), {"PATH": path, "LANG": "C.UTF-8", **kept})


def installed_runtimes(command: Command) -> frozenset[str]:
    """The runtimes found on this machine."""
    known = ("runc", "crun", "runsc")
    return frozenset(name for name in known if shutil.which(name, path=f"{command.environment['PATH']}:{_PATH}"))


def complaint(said: bytes) -> str:
    """The last line that tells what is wrong: without the log lines of a healthy engine, and without advice."""
    lines = [line.strip() for line in plain(said, 4000).splitlines()]
    telling = [line for line in lines if line and "level=warning" not in line and not _ADVICE.match(line)]
    return _ORIGIN.sub("", telling[-1])[:500] if telling else "it did not say why"
