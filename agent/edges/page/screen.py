"""The whole page from one `Status`: what `gpu-agent status --json` tells at that moment, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Iterable

from agent.core.status import Status
from agent.core.text import span
from agent.edges.page.cards import gpus
from agent.edges.page.markup import Html, join, tag
from agent.edges.page.parts import SPACE, facts, prose, section
from agent.edges.page.top import figures, headline, top, why
from agent.edges.page.work import lately, pools, proofs, running

_READ_ONLY = (
    "This page shows and changes nothing: any program of this machine could press a button on it, so it has none. "
)
_VERBS = "`gpu-agent pause`, `resume`, `drain` and `proofs` are for its owner."
_WITHOUT_SCRIPT_S = 5


def document(status: Status, at: float) -> str:
    """HTML; `at` is when the status was taken, Unix seconds."""
    reasons = ", ".join(gate.reason.value for gate in status.why_idle)
    said = f"{headline(status)}: {reasons}" if reasons else headline(status)
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("title", f"{said} · {status.node.name}"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("link", rel="icon", href="/icon.svg", type="image/svg+xml"),
        tag("link", rel="stylesheet", href="/page.css"),
        tag("noscript", tag("meta", http_equiv="refresh", content=str(_WITHOUT_SCRIPT_S))),
        tag("script", src="/page.js", defer=True),
    )
    parts = (top, why, figures, gpus, pools, running, lately, proofs, _node)
    body = tag("body", tag("main", [part(status) for part in parts]), _foot(at))
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _node(status: Status) -> Html:
    return section("node", "Node", facts(_about(status)))


def _about(status: Status) -> Iterable[tuple[str, str]]:
    link, sandbox, storage = status.link, status.sandbox, status.storage
    yield "node", status.node.id or "not enrolled"
    answered = "" if link.last_answer_s is None else f"answered {span(link.last_answer_s)} ago"
    offset = "" if link.clock_offset_s is None else f"clock {link.clock_offset_s:+.3f} s"
    yield "coordinator", _joined(link.state, link.url, link.transport, answered, offset, link.detail)
    unenforced = f"not enforced here: {' '.join(sandbox.unenforced)}" if sandbox.unenforced else ""
    yield "sandbox", _joined(sandbox.backend if sandbox.usable else "not usable", unenforced, sandbox.detail)
    if status.schedule:
        yield "schedule", status.schedule
    if quota := storage.transcripts_quota_bytes:
        yield "transcripts", f"{storage.transcripts_bytes / 2**20:,.0f} of {quota / 2**20:,.0f} MiB"
    yield "started", time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(status.node.started_at))


def _joined(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def _foot(at: float) -> Html:
    taken = tag("span", time.strftime("as of %H:%M:%S", time.localtime(at)), id="at")
    gone = tag("p", "The agent does not answer: what stands here is old.", id="gone", role="alert", hidden=True)
    words = tag("p", taken, Html(" · "), join(_READ_ONLY), SPACE, prose(_VERBS))
    return tag("footer", gone, words)
