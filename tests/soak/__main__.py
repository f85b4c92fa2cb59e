"""`make soak`: hours of mixed tasks and faults in minutes or hours; nothing grows, and every task ends once."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from pathlib import Path

from tests.soak.report import page
from tests.soak.soak import Plan, soak


def main() -> int:
    """Exit status 1 when something grows, a task is unaccounted for, or something is left behind."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=8.0, help="tasks a second")
    parser.add_argument("--every", type=float, default=6.0, help="seconds between two faults of one node, about")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the page there, too")
    options = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C: the processes of the soak end with it
        signal.signal(number, signal.default_int_handler)
    plan = Plan(options.minutes * 60, options.seed, options.rate, options.every)
    print(f"soak: {options.minutes:g} minutes …", file=sys.stderr, flush=True)
    result = asyncio.run(soak(plan))
    text = page(result)
    print(text)
    if options.write:
        options.write.write_text(text)
    return 0 if result.holds else 1


if __name__ == "__main__":
    sys.exit(main())
