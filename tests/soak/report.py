"""The result of a soak as a page."""

from __future__ import annotations

from tests.bench.table import machine
from tests.soak.soak import Line, Result

WORDS = {True: "**grows**", False: "flat", None: "not judged: too few readings in one life"}


def page(result: Result) -> str:
    """Markdown."""
    plan = result.plan
    tasks = sum(sum(counts.values()) for counts in result.ends.values())
    lines = [
        "# Soak",
        "",
        f"{plan.seconds / 60:g} minutes, seed {plan.seed}; the first {plan.warm_s / 60:.1f} of them are not judged.",
        "`grew` is the Theil–Sen slope of one life's readings times their time; `may` is what the rule allows.",
        "",
        *machine(),
        f"- {tasks:,} tasks; faults: {_counts(result.weather)}; starts: {_counts(result.lives)}",
        "",
        "| tasks | ended as |",
        "|---|---|",
        *(f"| {name} | {_counts(counts)} |" for name, counts in result.ends.items()),
        "",
        "| of | gauge | readings | first third → last third | an hour | grew | may | |",
        "|---|---|---|---|---|---|---|---|",
        *map(_row, result.lines),
        "",
    ]
    lines += [f"- **{fault}**" for fault in result.faults] or [
        "Every task ended once, every settled one was paid once."
    ]
    lines += ["", "Nothing grows." if result.holds else "**It does not hold.**", ""]
    return "\n".join(lines)


def _row(line: Line) -> str:
    verdict, unit = line.verdict, line.rule.unit
    spread = f"{verdict.first:,.1f} → {verdict.last:,.1f} {unit}".rstrip()
    return (
        f"| {line.subject} | {line.gauge} | {verdict.points} | {spread} | {verdict.an_hour:+,.2f} "
        f"| {verdict.grew:+,.2f} | {verdict.allowed:,.2f} | {WORDS[verdict.grows]} |"
    )


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())
