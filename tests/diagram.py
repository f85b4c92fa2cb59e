"""Writes the state diagram, made from the attempt's table, into docs/architecture.md. `make docs` runs it."""

from __future__ import annotations

import re
from pathlib import Path

from agent.core.attempt import explain

PAGE = Path(__file__).parent.parent / "docs/architecture.md"


def main() -> None:
    """Replace the page's Mermaid block."""
    page = PAGE.read_text()
    PAGE.write_text(re.sub(r"```mermaid\n.*?\n```", lambda _: f"```mermaid\n{explain()}\n```", page, flags=re.DOTALL))


if __name__ == "__main__":
    main()
