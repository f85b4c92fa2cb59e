"""Makes every attempt in sandboxes of one kind and judges each from inside and from outside."""

from __future__ import annotations

import asyncio
import concurrent.futures.thread  # noqa: F401 (a process that has dropped its privileges may be unable to import it)
import importlib.readers  # noqa: F401 (likewise)
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from enum import StrEnum
from functools import cache
from typing import NamedTuple

import msgspec

from agent.ports import ExitKind, Sandbox, SandboxExit, SandboxHandle, SandboxSpec
from tests.escape.surroundings import ATTEMPTS, LIMITS, PYTHON, Surroundings

PATIENCE_S = 90.0
OF_ITS_OWN = {"time_that_is_over": {"wall_s": 1.0}, "fill_out": {"out_bytes": 8 << 20}}
"""Limits that are tried by one attempt only."""
_AT_ONCE = 6
_PLACE = "/opt/escape"
_LIMITED = (ExitKind.OUT_OF_MEMORY, ExitKind.WALL_TIME, ExitKind.DISK_FULL, ExitKind.OUTPUT, ExitKind.SIGNALLED)


class Verdict(StrEnum):
    BLOCKED = "blocked"
    OPEN = "open"
    ABSENT = "n/a"


class Tried(NamedTuple):
    verdict: Verdict
    got: str


class About(NamedTuple):
    """What an attempt is."""

    group: str
    tries: str
    alone: bool = False


SEEN_FROM_OUTSIDE = {
    "canary_changed": "a file of the host is another afterwards",
    "input_changed": "an input is another afterwards",
    "program_changed": "a program of the host is another afterwards",
    "mounts_left": "a mount stays on the host",
    "cgroups_left": "a cgroup stays on the host",
    "hostname_changed": "the host has another name afterwards",
}
"""What no attempt does by itself, but all together might."""


@cache
def catalogue() -> Mapping[str, About]:
    """Every attempt, in the order of the table."""
    asked = [PYTHON or sys.executable, "-I", str(ATTEMPTS), "list"]
    told = json.loads(subprocess.run(asked, capture_output=True, check=True, timeout=60).stdout)
    inside = {name: About(*fields) for name, fields in told.items()}
    return inside | {name: About("Seen from outside", tries) for name, tries in SEEN_FROM_OUTSIDE.items()}


async def try_all(sandbox: Sandbox) -> dict[str, Tried]:
    """Verdict of every attempt of the catalogue. AssertionError for an attempt that itself is broken."""
    with Surroundings() as around:
        found = await _together(sandbox, around)
        alone = [name for name, about in catalogue().items() if about.alone]
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(name: str) -> Tried:
            async with gate:
                return await _alone(sandbox, around, name)

        found |= dict(zip(alone, await asyncio.gather(*map(one, alone)), strict=True))
        found |= {name: _seen(reached) for name, reached in around.seen_after().items()}
    return {name: found[name] for name in catalogue()}


async def _together(sandbox: Sandbox, around: Surroundings) -> dict[str, Tried]:
    """All that can share a sandbox."""
    handle = await sandbox.start(_spec(around, around.token))
    try:
        async with asyncio.timeout(PATIENCE_S):
            said = await _report(handle)
            seen = await asyncio.to_thread(around.seen_alive, handle.pid)
            around.let_go()
            await handle.wait()
    finally:
        handle.close()
    seen |= around.seen_after()
    broken = {name: got for name, (verdict, got) in said.items() if verdict == "broken"}
    assert not broken, broken
    return dict(_judged(said, seen))


def _judged(said: Mapping[str, tuple[str, str]], seen: Mapping[str, bool]) -> Iterator[tuple[str, Tried]]:
    for name, (verdict, got) in said.items():
        match verdict:
            case "outside":
                yield name, _seen(seen[name], got)
            case "absent":
                yield name, Tried(Verdict.ABSENT, got)
            case _:
                yield name, Tried(Verdict(verdict), got)


def _seen(reached: bool, what: str = "") -> Tried:
    told = ("seen" if reached else "not seen") + " from outside"
    return Tried(Verdict.OPEN if reached else Verdict.BLOCKED, f"{what}, {told}" if what else told)


async def _alone(sandbox: Sandbox, around: Surroundings, name: str) -> Tried:
    """One that may take its sandbox with it. In no sandbox it may also die of what another one does to the machine at
    the same time, and is tried once more: that proves nothing either way."""
    for _ in range(2):
        verdict, got, told = await _once(sandbox, around, name)
        if verdict != "broken":
            return Tried(Verdict.ABSENT if verdict == "absent" else Verdict(verdict), got)
    raise AssertionError((name, got, told))


async def _once(sandbox: Sandbox, around: Surroundings, name: str) -> tuple[str, str, str]:
    """Verdict, what was got, and all that was said."""
    handle = await sandbox.start(_spec(around, f"{around.token}-{name}", name))
    try:
        async with asyncio.timeout(PATIENCE_S):
            end = await handle.wait()
        told = handle.stderr_tail()
    finally:
        handle.close()
    verdict, got = _last_report(told).get(name, _without_report(end, told))
    return verdict, got, f"{end} {told}"


def _without_report(end: SandboxExit, stderr: str) -> tuple[str, str]:
    """A sandbox that a limit ended says nothing any more."""
    if end.kind in _LIMITED:
        return "blocked", end.detail or end.kind.value
    if "Cannot allocate memory" in stderr or "Resource temporarily unavailable" in stderr:
        return "blocked", "no room even to say so"
    return "broken", "it ended without a word"


def _spec(around: Surroundings, name: str, *wanted: str) -> SandboxSpec:
    assert PYTHON is not None
    limits = msgspec.structs.replace(LIMITS, **OF_ITS_OWN.get(name.rpartition("-")[2], {}))
    return SandboxSpec(
        name=name,
        argv=(PYTHON, "-I", _PLACE, json.dumps(around.argument(limits)), *wanted),
        ro_mounts=((around.attempts, _PLACE), (around.input, "/in")),
        socket_dir=around.fresh_sockets(),
        limits=limits,
    )


async def _report(handle: SandboxHandle) -> dict[str, tuple[str, str]]:
    """What the attempts say, while their sandbox waits for us."""
    end = asyncio.ensure_future(handle.wait())
    try:
        while not (said := _last_report(handle.stderr_tail())):
            done, _ = await asyncio.wait({end}, timeout=0.02)
            assert not done or _last_report(handle.stderr_tail()), (end.result(), handle.stderr_tail()[-2000:])
        return said
    finally:
        end.cancel()


def _last_report(stderr: str) -> dict[str, tuple[str, str]]:
    for line in reversed(stderr.splitlines()):
        if line.startswith("{"):
            try:
                return {name: (verdict, got) for name, (verdict, got) in json.loads(line).items()}
            except ValueError:
                return {}
    return {}
