"""The Sandbox port by podman or docker."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import itertools
import json
import os
import platform
import re
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from agent.core.errors import SandboxError
from agent.core.fingerprint import Enforcement, SandboxFacts
from agent.edges.durable import make_private_directory
from agent.edges.sandbox import host, probing, seccomp
from agent.edges.sandbox.asked import check
from agent.edges.sandbox.handle import RunningSandbox
from agent.edges.sandbox.mechanisms import Machine
from agent.edges.sandbox.oci import facts as engine_facts
from agent.edges.sandbox.oci import first, image, words
from agent.edges.sandbox.oci.command import Command, find, installed_runtimes
from agent.edges.sandbox.oci.confine import ContainerConfinement
from agent.edges.sandbox.oci.facts import EngineName, Facts
from agent.edges.sandbox.oci.keeper import Keeper
from agent.edges.sandbox.oci.launch import Order, launch
from agent.edges.sandbox.oci.policy import for_libseccomp
from agent.edges.sandbox.profile import scratch
from agent.edges.sandbox.sources import existing, shareable
from agent.ports import SandboxSpec

_PID_MAX = Path("/proc/sys/kernel/pid_max")
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]")


class Engine(NamedTuple):
    """An engine that can be used here, and how."""

    command: Command
    facts: Facts
    runtime: str | None
    user: int | None
    """Host id of its containers' processes where it gives them no user namespace."""
    most_pids: int
    """Processes that this machine can have."""


class Oci:
    """Makes sandboxes that are containers. One per agent; `runtime_dir` tells this agent's containers from another's.

    podman runs as whoever the agent is; docker only for an agent that is root, which whoever may use docker is anyway.
    """

    def __init__(
        self, runtime_dir: Path, engine: EngineName, *, runtime: str = "auto", engine_patience_s: float = 10.0
    ) -> None:
        """`runtime`: `runc`, `crun`, or `auto` for one that works here. `engine_patience_s`: how long the engine may
        take to see that a container has ended."""
        self._engine_patience_s = engine_patience_s
        self._runtime_dir = runtime_dir
        self._name = engine
        self._runtime = runtime
        self._tag = hashlib.sha256(os.fsencode(runtime_dir.absolute())).hexdigest()[:8]
        self._run = secrets.token_hex(8)
        self._numbers = itertools.count(1)
        self._image = ""
        self._keeper: Keeper | None = None
        self._preparing = asyncio.Lock()

    @functools.cached_property
    def engine(self) -> Engine:
        """The engine that will be used. Blocks when first asked. Raises SandboxError when there is none that can be."""
        command = find(self._name)
        found = command.facts()
        runtime = engine_facts.choose_runtime(self._runtime, found, installed_runtimes(command))
        if runtime is not None and found.name is EngineName.PODMAN:
            command = command._replace(words=(*command.words, "--runtime", runtime))
        return Engine(command, found, runtime, _user(found), int(_PID_MAX.read_text()))

    @property
    def machine(self) -> Machine:
        """What limits rest on here. Blocks when first asked. Raises SandboxError."""
        found = self.engine.facts
        return Machine(
            cgroup_version=found.cgroup_version,
            controllers=found.controllers,
            kernel=host.kernel_version(platform.release()),
            threads=len(os.sched_getaffinity(0)),
        )

    def reap_orphans(self) -> int:
        """Remove what an earlier run of this agent left behind; returns how many containers. Blocks. Call before
        `start`. Without a usable engine nothing is removed; the probe says why there is none."""
        try:
            command = self.engine.command
            left = command.ids(f"{words.LABEL}={self._tag}")
            command.remove(*left)
        except SandboxError:
            return 0
        return len(left)

    async def probe(self) -> SandboxFacts:
        """Really runs a program and a few escapes; says what is enforced here and what is not. Never raises."""
        try:
            engine = await asyncio.to_thread(lambda: self.engine)
            said = await probing.tried(self.start)
        except SandboxError as error:
            return SandboxFacts(backend=str(self._name), usable=False, detail=str(error))
        return probing.verdict(said, _enforcements(engine), engine.facts.backend, _waived(engine))

    async def start(self, spec: SandboxSpec) -> RunningSandbox:
        """Raises SandboxError when it cannot be built or a limit of `spec` cannot be enforced."""
        check(spec)
        engine = await asyncio.to_thread(lambda: self.engine)
        engine_facts.require(spec.limits, engine.facts)
        _require_gpus(spec, engine.facts)
        container = await self._container(spec, engine)
        confinement = ContainerConfinement(engine.command, container.name, spec, self._engine_patience_s)
        order = Order(
            words=(*engine.command.words, *words.run(spec, container, engine.facts)),
            environment=engine.command.environment,
            mark=container.mark,
            stderr_bytes=spec.limits.stderr_bytes,
            stdout=container.stdout,
            places=tuple(scratch(spec.limits)),
            who=functools.partial(first.ask, engine.command, container),
            accounted=not engine.facts.rootless,
        )
        try:
            launched = await launch(order, confinement.admit)
        except BaseException:  # cancelled too: the engine must not remember it
            self._image = ""  # somebody may have removed it
            await asyncio.shield(asyncio.to_thread(confinement.release))
            raise
        finally:
            for path in (container.id_file, container.pid_file):
                path.unlink(missing_ok=True)
        confinement.follow(launched.monitor)
        return RunningSandbox(launched, spec, confinement)

    async def _container(self, spec: SandboxSpec, engine: Engine) -> words.Container:
        mounts = await asyncio.to_thread(_mounts, spec, engine.facts)
        async with self._preparing:
            if not self._image:
                self._image = await asyncio.to_thread(image.ensure, engine.command)
            try:
                await asyncio.to_thread(self._prepare)
                await asyncio.to_thread(self._keep, engine.command)
            except OSError as error:
                raise SandboxError(f"the sandbox could not be prepared: {error}") from error
        name = f"gpu-agent-{self._tag}-{_UNSAFE.sub('_', spec.name)[:64]}-{self._run[:6]}-{next(self._numbers)}"
        return words.Container(
            name=name,
            labels={words.LABEL: self._tag, words.PROCESS_LABEL: self._run},
            image=self._image,
            seccomp=self._runtime_dir / "seccomp-oci.json",
            empty=self._runtime_dir / "empty",
            mark=secrets.token_hex(16),
            id_file=self._runtime_dir / f"{name}.id",
            pid_file=self._runtime_dir / f"{name}.pid",
            mounts=mounts,
            most_pids=engine.most_pids,
            stdout=self._runtime_dir / f"{name}.stdout" if spec.limits.stdout_bytes else None,
            runtime=engine.runtime,
            user=engine.user,
        )

    def _prepare(self) -> None:
        """The files that the engine reads at each start, among them our system call policy."""
        make_private_directory(self._runtime_dir)
        policy = json.dumps(for_libseccomp(seccomp.load_policy()))
        for name, content in (("seccomp-oci.json", policy), ("empty", "")):
            path = self._runtime_dir / name
            if not path.is_file() or path.read_text() != content:
                fresh = path.with_suffix(f".{self._run}")
                fresh.write_text(content)
                fresh.chmod(0o644)  # whatever our umask is: its reader may be another user
                fresh.replace(path)

    def _keep(self, command: Command) -> None:
        if self._keeper is None or not self._keeper.alive:
            self._keeper = Keeper(command, f"{words.PROCESS_LABEL}={self._run}")


def _user(found: Facts) -> int | None:
    """Raises SandboxError where nothing but root would be left for the containers' processes."""
    if found.name is EngineName.DOCKER:
        if os.geteuid() != 0 or found.rootless:
            raise SandboxError(
                "docker is used only by an agent that is root, with a daemon that is root's",
                remedy='Set sandbox.backend = "podman" or "bubblewrap"',
            )
        return None if found.remapped else host.sandbox_user(Path("/proc/self/uid_map").read_text())
    if not found.rootless and not host.has_ids(Path("/proc/self/uid_map").read_text(), words.IDS):
        raise SandboxError(
            "the container that the agent runs in has too few user ids for containers of its own",
            remedy="Run the agent on the host",
        )
    return None


def _mounts(spec: SandboxSpec, found: Facts) -> Sequence[tuple[Path, str]]:
    # Without root, containers run as the agent's own user, who can read what the agent can.
    place = existing if found.rootless else shareable
    return [(place(source), inside) for source, inside in spec.ro_mounts]


def _require_gpus(spec: SandboxSpec, found: Facts) -> None:
    if spec.gpus and not found.cdi:
        oldest = ".".join(map(str, engine_facts.OLDEST_DOCKER_CDI))
        raise SandboxError(
            f"{found.backend} takes no devices by CDI names, so a GPU cannot be used in a sandbox",
            remedy=f"Docker {oldest} or newer does, with its feature `cdi`; so do podman and bubblewrap",
        )


def _enforcements(engine: Engine) -> tuple[Enforcement, ...]:
    found = engine.facts
    if engine.user is None:
        how = "a user namespace: root inside is nobody here"
        return (*engine_facts.enforcements(found), Enforcement(limit="users", enforced=True, how=how))
    how = f"no user namespace: programs run as user {engine.user} of the host (`userns-remap` of dockerd gives one)"
    return (*engine_facts.enforcements(found), Enforcement(limit="users", enforced=False, how=how))


def _waived(engine: Engine) -> frozenset[str]:
    """What the test program finds and we tell as a limit instead."""
    return frozenset() if engine.user is None else frozenset({"user-namespace"})
