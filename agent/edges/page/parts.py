"""Pieces that the page is made of: sections, tables, bars, badges."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from agent.core.text import span
from agent.edges.page.markup import Child, Html, join, tag

NOTHING = "–"
GIB = 1 << 30
SPACE = Html(" ")


def section(name: str, title: str, *children: Child) -> Html:
    """A part of the page with its heading; the script replaces what is in it, by its id."""
    return tag("section", tag("h2", title, id=f"{name}-title"), *children, id=name, aria_labelledby=f"{name}-title")


def badge(word: str, tone: str) -> Html:
    """A word of a closed list. The tone (`good`, `calm`, `watch`, `bad`) only repeats in colour what the word says."""
    return tag("span", word, class_=f"badge {tone}")


def table(label: str, head: Sequence[str], rows: Iterable[Sequence[Child]]) -> Html:
    """Columns; on a narrow screen each row becomes a block whose cells carry their column's name. The roles say again
    what the elements are, since browsers forget it when their display changes."""
    top = tag("tr", [tag("th", name, scope="col", role="columnheader") for name in head], role="row")
    body = [
        tag(
            "tr",
            [tag("td", cell, role="cell", data_label=name) for name, cell in zip(head, row, strict=True)],
            role="row",
        )
        for row in rows
    ]
    return tag(
        "table",
        tag("thead", top, role="rowgroup"),
        tag("tbody", body, role="rowgroup"),
        role="table",
        aria_label=label,
    )


def facts(pairs: Iterable[tuple[str, Child]]) -> Html:
    """Names and what they are."""
    return tag("dl", [tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs])


def bar(label: str, shares: Sequence[tuple[str, float]]) -> Html:
    """Shares of a whole, one after the other: class and fraction. SVG, since the page allows no inline style."""
    drawn, x = [], 0.0
    for name, share in shares:
        width = max(0.0, min(share, 1.0 - x))
        drawn.append(tag("rect", class_=name, x=f"{100 * x:.2f}", y="0", width=f"{100 * width:.2f}", height="8"))
        x += width
    return tag(
        "svg",
        tag("rect", class_="rest", x="0", y="0", width="100", height="8"),
        drawn,
        class_="bar",
        viewBox="0 0 100 8",
        preserveAspectRatio="none",
        role="img",
        aria_label=label,
    )


def code(word: str) -> Html:
    """A word that stands in logs, metrics and the configuration just so."""
    return tag("code", word)


def prose(text: str) -> Html:
    """A sentence; what stands between backticks is to be typed."""
    parts = text.split("`")
    spaced = (Html(f"{_pad(part, 0)}{join(part)}{_pad(part, -1)}") for part in parts)
    return join(tag("code", part) if place % 2 else part for place, part in enumerate(spaced))


def _pad(text: str, end: int) -> str:
    return " " if text and text[end].isspace() else ""


def gib(size_bytes: int | None) -> str:
    """`4.3`."""
    return NOTHING if size_bytes is None else f"{size_bytes / GIB:,.1f}"


def lasting(seconds: float | None) -> str:
    """How long something still is."""
    return NOTHING if seconds is None else span(seconds) if seconds > 0 else "over"
