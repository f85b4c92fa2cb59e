"""After a pause: wait until engines on GPUs have ended and the driver shows their memory free, and say how much."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from agent.cli import local
from agent.cli.intake import Told
from agent.core.text import plain
from agent.edges.gpu.telling import released

LIMIT_S = 60.0
"""Above the daemon's own limit, after which it says what is still held."""
_EVERY_S = 0.2
UNRELEASED = 75
"""EX_TEMPFAIL: paused, but the memory is not free."""


def release(socket: Path, told: Told) -> int:
    """Exit status: 0 once all is free, also when nothing was held."""
    deadline = time.monotonic() + LIMIT_S
    while not all(map(_settled, pools := list(_leaving(told)))) and time.monotonic() < deadline:
        time.sleep(_EVERY_S)
        told = local.ask(socket, "GET", "/v1/status")
    for pool in pools:
        click.echo(plain(_sentence(pool), 1000))
    for name in _staying(told):
        click.echo(
            plain(f"{name}: its engine keeps its GPU memory: it is yours to stop, or owner.unload is false.", 1000)
        )
    return 0 if all((pool.get("released") or {}).get("done") for pool in pools) else UNRELEASED


def _leaving(told: Told) -> Iterator[dict[str, Any]]:
    """Pools that are paused and whose engines end for it."""
    return (pool for pool in _paused(told) if pool.get("unloads"))


def _staying(told: Told) -> Iterator[str]:
    """Pools that are paused and whose engines stay on their GPUs."""
    stays = (pool for pool in _paused(told) if not pool.get("unloads"))
    return (pool["name"] for pool in stays if pool["device"].startswith(("GPU-", "MIG-")))


def _paused(told: Told) -> Iterator[dict[str, Any]]:
    everywhere = told["node"].get("paused")
    for pool in told.get("pools", ()):
        if everywhere or any(gate["reason"] == "paused" for gate in pool.get("gates", ())):
            yield pool


def _settled(pool: dict[str, Any]) -> bool:
    it = pool.get("released") or {}
    return bool(it.get("done") or it.get("detail"))


def _sentence(pool: dict[str, Any]) -> str:
    if not _settled(pool):
        return f"{pool['name']}: the engine has not ended within {LIMIT_S:.0f} s; `gpu-agent status` says more."
    return f"{pool['name']}: {released(pool['released']) or 'its engine held no GPU memory'}."
