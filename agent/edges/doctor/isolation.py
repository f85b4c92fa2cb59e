"""Reads what the sandbox is made with, and then really runs it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

from agent.config import ExecConfig
from agent.core import judgements as judge
from agent.core.doctor import Finding
from agent.core.errors import SandboxError
from agent.edges.programs.build import most
from agent.edges.programs.pool import why_not
from agent.edges.sandbox import host
from agent.edges.sandbox.bubblewrap import Bubblewrap
from agent.edges.sandbox.oci.backend import Oci
from agent.edges.sandbox.remedies import remedy_by_settings
from agent.ports import Sandbox


async def bwrap(wanted: str) -> Sequence[Finding]:
    """Which bubblewrap will be used, and whether the kernel's settings let it work."""
    try:
        found = await asyncio.to_thread(host.find_bwrap, wanted)
    except SandboxError as fault:
        return [judge.bwrap("", fault.message, fault.remedy)]
    remedy = remedy_by_settings(host.userns_settings(), str(found.path)) if os.geteuid() else ""
    return [judge.bwrap(f"{found.path} ({found.version})", "", ""), judge.user_namespaces(remedy)]


async def sandbox(made: Bubblewrap) -> Sequence[Finding]:
    """Runs programs inside, which is the last word on everything above; and what limits rest on here."""
    facts = await made.probe()
    return [*judge.sandbox(facts), judge.cgroup(made.machine.cgroup_version, made.machine.controllers)]


async def programs(made: Sandbox, asked: ExecConfig) -> Sequence[Finding]:
    """Runs a program with all limits that one may ask for; its GPU is another check's business."""
    return [judge.programs(len(asked.trusted_keys), await why_not(made, most(asked)))]


def engine(made: Oci) -> Finding:
    """Which container engine and runtime will be used, and whether they can be."""
    try:
        found = made.engine
    except SandboxError as fault:
        return judge.container_engine("", fault.message, fault.remedy)
    rights = "without root" if found.facts.rootless else "as root"
    runtime = found.runtime or found.facts.runtime
    return judge.container_engine(
        f"{found.facts.backend} {rights} with {runtime}, cgroup v{found.facts.cgroup_version}", "", ""
    )


async def containers(made: Oci) -> Sequence[Finding]:
    """Runs programs inside, which is the last word."""
    return judge.sandbox(await made.probe())
