"""Writes the list of metrics, made from the table that serves them, into docs/metrics.md. `make docs` runs it."""

from __future__ import annotations

import re
from pathlib import Path

from agent.core.metrics import FAMILIES

PAGE = Path(__file__).parent.parent / "docs/metrics.md"
_TABLE = re.compile(r"(?<=<!-- made by tests/metrics_page.py -->\n).*?(?=\n<!-- end -->)", re.DOTALL)


def table() -> str:
    """Every family in a row."""
    rows = [f"| `{family.name}` | {family.kind} | {family.help} |" for family in FAMILIES]
    return "\n".join(["| name | kind | |", "|---|---|---|", *rows])


def written() -> str:
    """The table that stands in the page."""
    found = _TABLE.search(PAGE.read_text())
    return found.group() if found else ""


def main() -> None:
    """Replace the page's table."""
    PAGE.write_text(_TABLE.sub(lambda _: table(), PAGE.read_text()))


if __name__ == "__main__":
    main()
