"""A card for each GPU: what it reads, whether it is well, and what to do when it is not."""

from __future__ import annotations

import time
from collections.abc import Iterable

from agent.core.attest.messages import Attestation, Standing
from agent.core.health import HealthState
from agent.core.status import GpuReadings, GpuStatus, Status
from agent.core.text import span
from agent.edges.page.markup import Html, join, tag
from agent.edges.page.parts import GIB, NOTHING, SPACE, badge, bar, code, facts, gib, prose, section

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
    if gpu.paused:
        left = "until" if gpu.paused_s is None else f"for another {span(gpu.paused_s)}, or until"
        yield prose(f"Paused {left} `gpu-agent resume --gpu {gpu.uuid}`")
    for finding in gpu.findings:
        advice = f"advice: {finding.advice.value}, since {_moment(finding.since_at)}"
        yield join(code(finding.code), SPACE, finding.evidence, tag("span", advice, class_="remedy"))
    if gpu.detail and not gpu.findings:
        yield join(gpu.detail)
    for doubt in gpu.doubts:
        yield join(code(doubt.code), SPACE, doubt.evidence, tag("span", prose(doubt.advice), class_="remedy"))
    if gpu.attestation:
        yield join(_attestation(gpu.attestation))


def _attestation(said: Attestation) -> str:
    """What the coordinator says of whether it is a GPU."""
    shown = f"{said.gops / 1000:,.0f} TOPS and {said.memory_bytes / GIB:,.0f} GiB shown"
    told = shown if said.standing is Standing.ATTESTED else said.detail
    return f"Is it a GPU: {said.standing.value.replace('_', ' ')}: {told}, {_moment(said.judged_at)}"


def _moment(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))
