"""`make bench`: every figure of docs/benchmarks.md, measured here and now."""

from __future__ import annotations

import argparse
import asyncio
import sys
import traceback
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from tests.bench import asking, beside, daemon, engine, noop, parts, proof_cost
from tests.bench.noop import Rate
from tests.bench.proportions import LLAMA_3_1B, LLAMA_3_8B, TINYLLAMA_1B
from tests.bench.redis import PEERS, measure_peer, peer_version, redis_server
from tests.bench.table import Row, at_least, at_most, page

T = TypeVar("T")
IN_FLIGHT = (1, 16, 64)
BEST_BY = 16
"""Tasks in flight at which the goals compare."""


def run(main: Coroutine[Any, Any, T]) -> T:
    """On the loop that the agent takes."""
    try:
        import uvloop
    except ImportError:
        factory = None
    else:
        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)


def noop_rows(options: argparse.Namespace) -> list[Row]:
    """Ours on both transports, then the peers, all under the same load."""
    rows, ours = [], {}
    for transport in ("websocket", "poll"):
        for in_flight in IN_FLIGHT:
            tasks = options.tasks // 4 if in_flight == 1 else options.tasks
            ours[transport, in_flight] = _best([run(noop.measure(transport, in_flight, tasks)) for _ in options.rounds])
            rows.append(_rate_row(f"gpu-agent, {transport}, {in_flight} in flight", ours[transport, in_flight]))
    peers = _peers(options, rows)
    mine = ours["websocket", BEST_BY]
    if rivals := [peers[name].per_s for name in ("Ray", "SAQ") if name in peers]:
        rows.append(at_least("rate ÷ the best of Ray and SAQ, 16 in flight", mine.per_s / max(rivals), 2.5, "×", 2))
    if "Celery" in peers:
        rows.append(at_least("rate ÷ Celery, 16 in flight", mine.per_s / peers["Celery"].per_s, 8, "×", 2))
    rows.append(at_most("worker CPU a task, websocket, 16 in flight", mine.cpu_us, 100, "µs", 0))
    return rows


def _peers(options: argparse.Namespace, rows: list[Row]) -> dict[str, Rate]:
    """Adds their rows; returns the figures at 16 in flight."""
    found = {}
    with redis_server() as url:
        for name, package in PEERS.items():
            for in_flight in IN_FLIGHT:
                tasks = options.tasks // 4 if in_flight == 1 else options.tasks
                figures = [measure_peer(package, in_flight, tasks, url) for _ in options.rounds]
                what = f"{name} {peer_version(package)}, {in_flight} in flight".replace(" ,", ",")
                if good := [one for one in figures if isinstance(one, Rate)]:
                    rows.append(_rate_row(what, _best(good)))
                    if in_flight == BEST_BY:
                        found[name] = _best(good)
                else:
                    rows.append(Row(what, f"skipped: {figures[0]}"))
    return found


def memory_rows(options: argparse.Namespace) -> list[Row]:
    """Memory of the worker over many tasks; the first tenth fills what is bounded."""
    many = options.many
    rate = run(noop.measure("websocket", 16, many, turns=10))
    grown = rate.memory_mib[-1] - rate.memory_mib[1]
    story = " → ".join(f"{mib:.1f}" for mib in rate.memory_mib)
    return [
        at_most(f"growth from {many // 5:,} to {many:,} no-op tasks", grown, 2.0, "MiB"),
        Row("resident after each tenth, MiB", story),
    ]


def asking_rows(options: argparse.Namespace) -> list[Row]:
    """Two models of 700 MB at most, one after the other; a minute on a quiet machine."""
    if options.quick:
        return [Row("models of 1 billion parameters", "skipped: not with --quick")]
    return run(asking.measure([TINYLLAMA_1B, LLAMA_3_1B], 8))


def _best(rates: list[Rate]) -> Rate:
    return max(rates, key=lambda rate: rate.per_s)


def _rate_row(what: str, rate: Rate) -> Row:
    figure = (
        f"{rate.per_s:,.0f}/s, p50 {rate.p50_ms:.1f} ms, p99 {rate.p99_ms:.1f} ms, worker CPU {rate.cpu_us:,.0f} µs"
    )
    return Row(what, figure)


SECTIONS: dict[str, tuple[str, Callable[[argparse.Namespace], list[Row]]]] = {
    "engine": ("Real engine, random 2-layer model", lambda o: run(engine.measure(len(o.rounds), "tiny"))),
    "demo": ("Real engine, gemma-3-270m Q4", lambda o: run(engine.measure(len(o.rounds), "demo"))),
    "noop": ("No-op tasks, beside others", noop_rows),
    "memory": ("Memory", memory_rows),
    "daemon": ("The daemon by itself", lambda o: run(daemon.idle(10.0 if o.quick else 60.0))),
    "proof": ("Proof and stream", lambda o: parts.proof(len(o.rounds)) + parts.signatures(len(o.rounds))),
    "proof-cost": (
        "What proofs cost, with gemma-3-270m",
        lambda o: run(proof_cost.measure(len(o.rounds), long=not o.quick)),
    ),
    "asking": ("Asking for log-probabilities, models of real proportions", asking_rows),
    "asking-8b": (
        "Asking for log-probabilities, 8 billion parameters",
        lambda o: run(asking.measure([LLAMA_3_8B], 6)),
    ),
    "probe": ("Probe", lambda o: parts.probe(len(o.rounds))),
    "outbox": ("Outbox and transcripts", lambda o: parts.outbox(len(o.rounds))),
    "sandbox": ("Sandbox", lambda o: parts.sandbox(len(o.rounds)) + run(beside.bombs())),
}
USUAL = [name for name in SECTIONS if name not in ("demo", "asking-8b")]
"""`asking-8b` writes a model of 4.5 GB."""


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.bench", description=__doc__)
    parser.add_argument("--only", action="append", choices=SECTIONS, help="a section; may be repeated")
    parser.add_argument("--model", choices=("tiny", "demo"), default="tiny", help="demo: also with gemma-3-270m")
    parser.add_argument("--quick", action="store_true", help="one short round instead of three")
    parser.add_argument("--tasks", type=int, default=0, help="no-op tasks a measurement (2,000; quick: 400)")
    parser.add_argument("--many", type=int, default=0, help="no-op tasks of the memory section (20,000; quick: 2,000)")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the page there, too, when it is whole")
    options = parser.parse_args()
    options.rounds = range(1 if options.quick else 3)
    options.tasks = options.tasks or (400 if options.quick else 2000)
    options.many = options.many or (2000 if options.quick else 20_000)
    options.only = options.only or (USUAL + ["demo"] * (options.model == "demo"))
    return options


def main() -> None:
    """Measure, print, and write where asked."""
    options = _options()
    sections = []
    for name in options.only:
        title, measure = SECTIONS[name]
        print(f"bench: {name} …", file=sys.stderr, flush=True)
        try:
            rows = measure(options)
        except Exception as error:  # noqa: BLE001  (what the others measured in many minutes is not thrown away)
            traceback.print_exc()
            rows = [Row(name, f"failed: {type(error).__name__}", "", False)]
        sections.append((title, rows))
    text = page(sections)
    print(text)
    if options.write and set(USUAL) <= set(options.only):
        options.write.write_text(text)
    elif options.write:
        print(f"bench: {options.write} has more sections than these, and is left as it is", file=sys.stderr)


if __name__ == "__main__":
    main()
