"""`python -m tests.attack [--only ROW] [--count N | --full] [--write docs/attacks.md]`: status 1 when a row misses.

Without an option: ten runs of each row.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
import time
from pathlib import Path

import msgspec
import structlog

from agent.config.places import places
from agent.core.checks.verdict import Thresholds
from agent.edges.models import demo
from agent.edges.models.store import ModelStore
from tests.attack import field, matrix, page
from tests.attack.outcome import NOTHING, Counts, together
from tests.attack.rows import Row

FEW = 10


def main() -> int:
    parser = argparse.ArgumentParser(prog="make attack", description=__doc__)
    parser.add_argument("--only", action="append", help="a row, or the beginning of its name; again for more")
    parser.add_argument("--count", type=int, default=FEW, help=f"runs of each row (default {FEW}); 0 makes none")
    parser.add_argument("--full", action="store_true", help="as many runs as docs/attacks.md was specified with")
    parser.add_argument("--write", type=Path, help="make the page")
    parser.add_argument("--json", type=Path, help="add to the counts that are there, and keep them there")
    parser.add_argument("--list", action="store_true", help="the names of the rows")
    options = parser.parse_args()
    rows = {name: row for name, row in matrix.ROWS.items() if _wanted(name, options.only)}
    if options.list:
        print("\n".join(rows))
        return 0
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    made = _read(options.json) if options.json else {}
    if options.full or options.count:
        asyncio.run(_made(rows, None if options.full else options.count, made, options.json))
    if options.write:
        options.write.write_text(page.render(made, asyncio.run(_limits())))
    missed = [name for name in rows if name in made and rows[name].wanted.met(made[name]) is False]
    print(f"missed: {', '.join(missed)}" if missed else "every row shows what it must")
    return bool(missed)


def _wanted(name: str, only: list[str] | None) -> bool:
    return not only or any(name == one or name.startswith(f"{one}-") for one in only)


def _read(file: Path) -> dict[str, Counts]:
    raw = file.read_bytes() if file.exists() else b"{}"
    return msgspec.json.decode(raw, type=dict[str, Counts])


async def _weights() -> Path:
    cache = _cache()
    return await demo.assemble_demo_model(cache / "models", ModelStore(cache), lambda *_told: None)


async def _limits() -> Thresholds:
    store, weights = ModelStore(_cache()), await _weights()
    verified = await store.verify(demo.NAME, weights, chat_template=demo.CHAT_TEMPLATE)
    return field.limits_for(verified.facts.digest)


def _cache() -> Path:
    return places(os.environ, os.geteuid()).cache_dir.path


async def _made(rows: dict[str, Row], runs: int | None, made: dict[str, Counts], keep: Path | None) -> None:
    """Fills `made` row by row."""
    async with field.opened(await _weights(), demo.NAME, demo.CHAT_TEMPLATE, _cache() / "attack") as opened:
        for name, row in rows.items():
            before, began = made.get(name, NOTHING), time.monotonic()
            opened.first = before.runs
            counts = await row.attack(opened, row.full if runs is None else min(runs, row.full))
            made[name] = together(before, counts)
            print(page.line(name, made[name]), f"({time.monotonic() - began:.0f} s)", flush=True)
            if keep:
                keep.write_bytes(msgspec.json.encode(made))


if __name__ == "__main__":
    sys.exit(main())
