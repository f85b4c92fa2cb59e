"""The Sandbox port by bubblewrap."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from agent.core.errors import SandboxError
from agent.core.fingerprint import SandboxFacts
from agent.core.gpu import GpuPlace
from agent.edges.sandbox import cgroups, gpus, host, probing, profile, seccomp
from agent.edges.sandbox.asked import check
from agent.edges.sandbox.confine import Confinement
from agent.edges.sandbox.handle import RunningSandbox
from agent.edges.sandbox.launch import Recipe, launch
from agent.edges.sandbox.mechanisms import Machine, Means, choose
from agent.edges.sandbox.processes import end_named
from agent.edges.sandbox.sources import existing, give, shareable
from agent.ports import SandboxSpec

_Placed = tuple[list[str], list[tuple[Path, str]], Path | None]
"""The command up to bubblewrap, and where it will find the mounts and the socket directory."""


def no_gpus(_uuid: str) -> GpuPlace | None:
    """Knows no GPU."""
    return None


class Bubblewrap:
    """Makes sandboxes. One per agent; `runtime_dir` tells this agent's sandboxes from another's.

    An ordinary user's sandboxes run under that user's id in a user namespace; root's under an id without an account.
    Start sandboxes from the main thread: the kernel ends them when the thread that started them ends.
    """

    def __init__(
        self,
        runtime_dir: Path,
        *,
        bwrap: str = "auto",
        place_of: gpus.PlaceOf = no_gpus,
        cgroup_root: Path = cgroups.ROOT,
    ) -> None:
        """`place_of` tells where a GPU or slice is among the device nodes."""
        self._wanted = bwrap
        self._place_of = place_of
        self._cgroup_root = cgroup_root
        self._tag = "gpu-agent-" + hashlib.sha256(os.fsencode(runtime_dir.absolute())).hexdigest()[:8]

    @functools.cached_property
    def _bwrap(self) -> host.Bwrap:
        return host.find_bwrap(self._wanted)

    @functools.cached_property
    def _cgroups(self) -> cgroups.Cgroups | None:
        return cgroups.find(self._tag, root=self._cgroup_root)

    @functools.cached_property
    def _user_id(self) -> int | None:
        """Host user of sandboxes where that is not the agent's own."""
        return host.sandbox_user(Path("/proc/self/uid_map").read_text()) if os.geteuid() == 0 else None

    @functools.cached_property
    def machine(self) -> Machine:
        """What limits rest on here."""
        found = self._cgroups
        return Machine(
            cgroup_version=found.version if found else 0,
            controllers=found.controllers if found else frozenset(),
            kernel=host.kernel_version(platform.release()),
            threads=len(os.sched_getaffinity(0)),
            reaches_inside=self._user_id is None or host.has_capability(host.CAP_SYS_PTRACE),
        )

    def reap_orphans(self) -> int:
        """Remove what an earlier run of this agent left behind: cgroups, and an ordinary user's sandboxes that were
        not yet tied to its life when it was killed; returns how many. Call before `start`."""
        return end_named(self._tag) + (self._cgroups.reap() if self._cgroups else 0)

    async def probe(self) -> SandboxFacts:
        """Really runs a program and a few escapes; says what is enforced here and what is not. Never raises."""
        try:
            backend = f"bubblewrap {self._bwrap.version}"
        except SandboxError as error:
            return SandboxFacts(backend="none", usable=False, detail=str(error))
        return await probing.probe(self.start, self.machine, backend, self._bwrap.path)

    async def start(self, spec: SandboxSpec) -> RunningSandbox:
        """Raises SandboxError when it cannot be built or a limit of `spec` cannot be enforced."""
        check(spec)
        means = choose(spec.limits, self.machine)
        recipe = self.recipe(spec, means)
        group = self._cgroups.create(spec.name, means) if self._cgroups and means.needs_group else None
        confinement = Confinement(spec.limits, means, group, self._user_id)
        try:
            launched = await launch(recipe, confinement.admit)
        except BaseException:  # cancelled too: the cgroup must not stay
            confinement.release()
            raise
        return RunningSandbox(launched, spec, confinement)

    def recipe(self, spec: SandboxSpec, means: Means) -> Recipe:
        """What `start` launches. Raises SandboxError for what cannot be mounted or is not there."""
        parts = gpus.gpu_parts(spec.gpus, self._place_of)
        spec = parts.equip(spec)
        command, mounts, socket_dir = (
            self._in_place(spec) if self._user_id is None else self._staged(spec, self._user_id)
        )

        def options(fds: Mapping[str, int]) -> Sequence[str]:
            return profile.options(spec, mounts=mounts, socket_dir=socket_dir, devices=parts.devices, fds=fds)

        return Recipe(
            command=command,
            options=options,
            argv=spec.argv,
            tag=self._tag,
            seccomp=_filter(means.pinned_threads is not None, means.watched_memory_bytes is not None),
            stderr_bytes=spec.limits.stderr_bytes,
            stdout=spec.limits.stdout_bytes > 0,
            places=tuple(profile.scratch(spec.limits)) if self.machine.reaches_inside else (),
        )

    def _in_place(self, spec: SandboxSpec) -> _Placed:
        """As an ordinary user: everything is bound from where it lies."""
        return (
            [str(self._bwrap.path)],
            [(existing(source), inside) for source, inside in spec.ro_mounts],
            spec.socket_dir,
        )

    def _staged(self, spec: SandboxSpec, user_id: int) -> _Placed:
        """As root: `user_id` runs bubblewrap, and what it cannot reach is brought to it."""
        stage, bwrap = profile.Stage(), self._bwrap
        mounts = [(stage.place(shareable(source)), inside) for source, inside in spec.ro_mounts]
        socket_dir = None
        if spec.socket_dir is not None:
            give(spec.socket_dir, user_id, user_id)
            socket_dir = stage.place(spec.socket_dir, writable=True)
        inner = bwrap.path
        hidden = bwrap.path.is_relative_to(profile.TMP)  # below the stage's own tmpfs
        if hidden or not host.open_to_all(bwrap.path):
            inner = stage.place(bwrap.tree) / bwrap.path.relative_to(bwrap.tree)
        return [*stage.command(bwrap.path, _tools(), user_id), str(inner)], mounts, socket_dir


@functools.cache
def _filter(pinned: bool, watched: bool) -> bytes:
    # A program pinned to some cpus in place of a quota may not choose others. One whose memory is measured process by
    # process may have no System V segments, which stay when nobody has them attached.
    deny = [name for name, wanted in (("sched_setaffinity", pinned), ("shmget", watched)) if wanted]
    return seccomp.compile_policy(seccomp.load_policy(), deny=deny)


def _tools() -> profile.Tools:
    found = [shutil.which(name, path="/usr/bin:/bin") for name in profile.Tools._fields]
    if None in found:
        missing = ", ".join(name for name, path in zip(profile.Tools._fields, found, strict=True) if path is None)
        raise SandboxError(
            f"{missing} of util-linux is missing",
            remedy="`apt-get install util-linux`, or run the agent as an ordinary user",
        )
    return profile.Tools(*map(Path, filter(None, found)))
