"""The top of the page: what the node does, and every reason why no new work comes."""

from __future__ import annotations

from collections.abc import Iterable

from agent.core.meanings import MEANINGS
from agent.core.model import Reason
from agent.core.status import Gate, Status
from agent.core.text import counted, span
from agent.edges.page.markup import Html, join, tag
from agent.edges.page.parts import SPACE, badge, facts, prose

_NEEDS_YOU = frozenset(
    {
        Reason.COORDINATOR_UNREACHABLE,
        Reason.STORAGE_FULL,
        Reason.NO_POOL,
        Reason.GPU_LOST,
        Reason.GPU_DEGRADED,
        Reason.TOO_MANY_FAILURES,
    }
)
"""Reasons that do not pass by themselves, and that nobody wished for."""


def top(status: Status) -> Html:
    """Whose machine it is, and the headline, which a screen reader tells whenever it changes."""
    node = status.node
    about = f"{node.state} for {span(node.since_s)} · gpu-agent {node.version}"
    return join(
        tag("p", tag("span", node.name, class_="name"), SPACE, tag("span", about, class_="faint"), id="about"),
        tag("h1", tag("span", headline(status), class_=_tone(status)), role="status", id="headline"),
    )


def figures(status: Status) -> Html:
    """What was done since the start."""
    return tag("section", facts(_figures(status)), id="figures", aria_label="Since the start")


def headline(status: Status) -> str:
    """In a few words what the node does now."""
    running, reasons = len(status.attempts), {gate.reason for gate in status.why_idle}
    if running:
        return f"Working on {counted(running, 'task')}" + (", taking nothing new" if reasons else "")
    if not reasons:
        return "Ready for work"
    return "Ready, and nobody asks" if reasons == {Reason.NO_DEMAND} else "No new work"


def _tone(status: Status) -> str:
    reasons = {gate.reason for gate in status.why_idle}
    if status.attempts or not reasons:
        return "good"
    return "bad" if reasons & _NEEDS_YOU else "calm"


def _figures(status: Status) -> Iterable[tuple[str, str]]:
    totals = status.totals
    yield "running", str(len(status.attempts))
    yield "done", f"{totals.done:,}"
    yield "failed", f"{totals.failed:,}"
    yield "handed back", f"{totals.handed_back:,}"
    yield "wait for a receipt", f"{status.outbox_waiting:,}"
    yield "earned since the start", f"{totals.earned_micros / 1e6:,.6f} {totals.currency}".rstrip()


def why(status: Status) -> Html:
    """Every gate that is shut, the most telling first; and what needs the owner besides. Empty while there is none."""
    shut = [_gate(gate) for gate in status.why_idle]
    needs = list(_needs(status))
    if not shut and not needs:
        return tag("section", id="why")
    return tag(
        "section",
        (tag("h2", "No new work, because"), tag("ul", shut, class_="gates")) if shut else (),
        (tag("h2", "Needs you"), tag("ul", needs, class_="gates")) if needs else (),
        id="why",
    )


def _gate(gate: Gate) -> Html:
    sentence, remedy = MEANINGS[gate.reason]
    return tag(
        "li",
        badge(gate.reason.value, "bad" if gate.reason in _NEEDS_YOU else "calm"),
        tag(
            "div",
            tag("p", prose(sentence)),
            tag("p", prose(gate.detail), class_="detail") if gate.detail else "",
            tag("p", prose(remedy), class_="remedy"),
        ),
    )


def _needs(status: Status) -> Iterable[Html]:
    if status.reboot:
        when = "Once its tasks have ended, reboot this machine." if status.attempts else "Reboot this machine."
        yield _need("reboot", status.reboot, when)
    for what in status.storage.damage:
        yield _need("damaged", what, "`gpu-agent resume` says that you have seen it.")


def _need(word: str, what: str, remedy: str) -> Html:
    return tag("li", badge(word, "bad"), tag("div", join(tag("p", what), tag("p", prose(remedy), class_="remedy"))))
