"""Judgements of `gpu-agent doctor` about the machine's memory, and about who is at it."""

from __future__ import annotations

from collections.abc import Mapping

from agent.core.doctor import Finding, Severity
from agent.core.judgements import judged, unless
from agent.core.model_memory import Need
from agent.core.placement import describe

_GIB = 1 << 30


def engine_memory(
    needs: Mapping[str, Need],
    *,
    available_bytes: int,
    held_bytes: int,
    limit_bytes: int | None,
    engine_bytes: int | None,
) -> list[Finding]:
    """Whether engines on the processor fit: all together into what is free, each into the limit of one.

    `held_bytes`: what they hold already, if they run; `limit_bytes`: of the cgroup that the doctor runs in;
    `engine_bytes`: sandbox.engine_memory_mib. Weights are mapped files: an engine starts without room for them, and
    then reads them from the disk again and again.
    """
    if not needs:
        return []
    total = sum(need.total_bytes for need in needs.values())
    free = min(available_bytes + held_bytes, total if limit_bytes is None else limit_bytes)
    above = {name: need for name, need in needs.items() if engine_bytes is not None and need.total_bytes > engine_bytes}
    short = [f"{name} needs {describe(need)}" for name, need in (needs if total > free else above).items()]
    room = f"{_gib(min(available_bytes + held_bytes, limit_bytes or available_bytes + held_bytes))} free"
    each = "" if engine_bytes is None else f", {_gib(engine_bytes)} for each (sandbox.engine_memory_mib)"
    return [
        judged(
            "engine.memory",
            unless(not short, Severity.WARN),
            actual="; ".join(short) or f"engines on the processor need {_gib(total)} in all",
            required=f"at most what there is: {room}{each}",
            purpose="engines on the processor; with less they crawl or are ended by the kernel",
            remedy="Free memory, raise the limit, set fewer slots or context_tokens, or take a smaller model",
        )
    ]


def presence(unknown: str, away_s: float | None) -> Finding:
    """Whether it can be told that nobody is at the machine, for owner.idle_only; `unknown` is why not."""
    told = "somebody is at the machine now" if away_s == 0 else f"nobody for {away_s or 0:,.0f} s"
    return judged(
        "owner.presence",
        unless(not unknown, Severity.WARN),
        actual=unknown or told,
        required="systemd-logind answers over D-Bus",
        purpose="owner.idle_only: without an answer no work comes",
        remedy="Install and start systemd-logind and D-Bus, or set owner.idle_only = false",
    )


def _gib(size: int) -> str:
    return f"{size / _GIB:,.1f} GiB"
