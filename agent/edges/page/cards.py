"""A card for each GPU: what it reads, whether it is well, and what to do when it is not."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from agent.core.health import HealthState
from agent.core.status import GpuReadings, GpuStatus, Status
from agent.edges.gpu.telling import said_of
from agent.edges.page.markup import Html, join, tag
from agent.edges.page.parts import NOTHING, SPACE, badge, bar, code, facts, gib, prose, section

_TONES = {
    HealthState.HEALTHY: "good",
    HealthState.UNKNOWN: "watch",
    HealthState.DEGRADED: "bad",
    HealthState.LOST: "bad",
}


def gpus(status: Status) -> Html:
    """All of them; a word where there is none."""
    if not status.gpus:
        return section(
            "gpus", "GPUs", tag("p", "None that the driver lists: work runs on the processor.", class_="faint")
        )
    return section("gpus", "GPUs", tag("div", [_card(gpu) for gpu in status.gpus], class_="cards"))


def _card(gpu: GpuStatus) -> Html:
    head = tag(
        "header",
        tag("h3", tag("span", str(gpu.index), class_="index"), SPACE, tag("span", gpu.name)),
        badge(gpu.state.value, _TONES[gpu.state]),
        badge("paused", "calm") if gpu.paused else "",
    )
    told = [tag("li", said) for said in _said(gpu)]
    return tag(
        "article",
        head,
        _readings(gpu.readings) if gpu.readings else "",
        tag("ul", told, class_="said") if told else "",
        tag("p", gpu.uuid, class_="uuid"),
    )


def _readings(read: GpuReadings) -> Html:
    figures = facts(
        (
            ("temperature", _in(read.temperature_c, "°C")),
            ("power", _watts(read)),
            ("load", _in(read.utilisation_percent, "%")),
        )
    )
    return join(_memory(read), figures)


def _memory(read: GpuReadings) -> Html:
    """Who has how much: engines of this node, all others, and what is free."""
    total, used, engines = read.memory_total_bytes, read.memory_used_bytes, read.engines_bytes
    if not total or used is None:
        return join()
    ours = min(engines or 0, used)
    words = f"memory: {gib(used)} of {gib(total)} GiB"
    if engines is not None:
        words += f"; engines of this node {gib(ours)}, others {gib(used - ours)}"
    shares = (("ours", ours / total), ("others", (used - ours) / total))
    return join(bar(words, shares), tag("p", words, class_="caption"))


def _watts(read: GpuReadings) -> str:
    if read.power_mw is None:
        return NOTHING
    limit = "" if read.power_limit_mw is None else f" of {read.power_limit_mw / 1000:.0f}"
    return f"{read.power_mw / 1000:.0f}{limit} W"


def _in(value: int | None, unit: str) -> str:
    return NOTHING if value is None else f"{value} {unit}"


def _said(gpu: GpuStatus) -> Iterable[Html]:
    """Why it takes no work, and what to do."""
    for it in said_of(msgspec.to_builtins(gpu)):
        named = join(code(it.code), SPACE) if it.code else ""
        yield join(named, prose(it.words), tag("span", prose(it.advice), class_="remedy") if it.advice else "")
