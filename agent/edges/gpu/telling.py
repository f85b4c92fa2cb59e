"""What there is to say of a GPU and of memory that was given back: the same words in `status`, after `pause` and on the
page. It takes what `status --json` has, which may come from a newer daemon."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from agent.core.text import span


class Said(NamedTuple):
    """One thing about a GPU."""

    words: str
    """What stands between backticks is to be typed."""
    code: str = ""
    """Stable word for it, where it has one."""
    advice: str = ""


def said_of(gpu: Mapping[str, Any]) -> Iterable[Said]:
    """Why it takes no work, what does not fit, and what to do; `gpu`: `core.status.GpuStatus`."""
    if gpu.get("paused"):
        left_s = gpu.get("paused_s")
        ends = "until" if left_s is None else f"for another {span(left_s)}, or until"
        yield Said(f"paused {ends} `gpu-agent resume --gpu {gpu['uuid']}`")
    for finding in gpu.get("findings", ()):
        advice = f"advice: {finding['advice']}, since {_moment(finding.get('since_at', 0.0))}"
        yield Said(finding["evidence"], finding["code"], advice)
    if gpu.get("detail") and not gpu.get("findings"):
        yield Said(gpu["detail"])
    for doubt in gpu.get("doubts", ()):
        yield Said(f"does not fit together: {doubt['evidence']}", doubt["code"], doubt["advice"])
    if it := gpu.get("attestation"):
        yield Said(f"is it a GPU: {attested(it)}, {_moment(it.get('judged_at', 0))}")


def attested(it: Mapping[str, Any]) -> str:
    """What the coordinator says of it; `it`: `core.attest.messages.Attestation`."""
    gib = it.get("memory_bytes", 0) / (1 << 30)
    shown = f"{it.get('gops', 0) / 1000:,.0f} TOPS and {gib:,.1f} GiB shown" if gib else ""
    return f"{it['standing'].replace('_', ' ')}: {'; '.join(filter(None, (shown, it.get('detail'))))}"


def released(it: Mapping[str, Any] | None) -> str:
    """How far the memory of an engine is back that ended for its owner; `it`: `core.release.Released`. Empty where it
    had none."""
    if not it or not it["held_bytes"]:
        return ""
    size, held = it["released_bytes"] >> 20, it["held_bytes"] >> 20
    if it["done"]:
        return f"{size:,} MiB of GPU memory released in {it['seconds']:.1f} s"
    so_far = f"{size:,} of {held:,} MiB of GPU memory released"
    return f"{so_far}: {it['detail']}" if it.get("detail") else f"{so_far} so far"


def _moment(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))
