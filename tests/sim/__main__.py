"""`python -m tests.sim`: many seeds, one seed, or the mutants. Exit status 1 when a promise was broken."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections import Counter
from dataclasses import fields, replace

from tests.sim.mutants import MUTANTS, broken
from tests.sim.plan import Noise, Plan, plan_for
from tests.sim.shrink import Shrinker
from tests.sim.world import Outcome, play

TRACE_LINES = 80


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seed", type=int, help="play this one and show its trace")
    parser.add_argument("--steps", type=int, default=20_000, help="about how many steps a run has")
    parser.add_argument("--first", type=int, default=1, help="first of many seeds")
    parser.add_argument("--total", type=int, default=1_000_000, help="play seeds until so many steps are done")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--mutants", action="store_true", help="break it on purpose: every variant must be caught")
    parser.add_argument("--only", default="", help="with --mutants: those whose name holds this")
    parser.add_argument("--seeds", type=int, default=500, help="with --mutants: seeds that each may live through")
    parser.add_argument("--mutant", choices=sorted(MUTANTS), help="with --seed: play it with this variant")
    parser.add_argument("--faults", type=_numbers, help="with --seed: only these faults")
    parser.add_argument("--tasks", type=_numbers, help="with --seed: only these tasks")
    parser.add_argument("--quick", action="store_true", help="with --seed: do not look for a smaller failure")
    parser.add_argument("--noise", help="with --seed: only these kinds of noise")
    args = parser.parse_args()
    if args.mutants:
        return hunt(args)
    return replay(args) if args.seed is not None else survey(args)


def _numbers(text: str) -> set[int]:
    return {int(number) for number in text.split(",") if number}


# --------------------------------------------------------------------------- one seed


def replay(args: argparse.Namespace) -> int:
    plan = _reduced(plan_for(args.seed, args.steps), args)
    with broken(*MUTANTS.get(args.mutant, ())):
        outcome = play(plan)
        print("\n".join(outcome.trace))
        print(_line(outcome))
        if outcome.violation and args.faults is None and not args.quick:
            shrink(outcome, args.steps, args.mutant)
    return 1 if outcome.violation else 0


def _reduced(plan: Plan, args: argparse.Namespace) -> Plan:
    if args.faults is not None:
        plan = plan.without_faults({f.number for f in plan.faults} - args.faults)
    if args.tasks is not None:
        plan = plan.without_tasks({t.number for t in plan.tasks} - args.tasks)
    if args.noise is not None:
        kept = args.noise.split(",")
        off = {field.name: 0.0 for field in fields(Noise) if field.name not in kept}
        plan = replace(plan, noise=replace(plan.noise, **off))
    return plan


def shrink(failed: Outcome, steps: int, mutant: str | None = None) -> None:
    """Print the smallest failure, and how to see it again."""
    small = Shrinker(failed).run()
    plan = small.plan
    print(f"\nsmallest: {len(plan.faults)} faults, {len(plan.tasks)} tasks, {plan.noise}")
    for fault in plan.faults:
        print(f"  {fault}")
    print("\n".join(["  …", *small.trace[-TRACE_LINES:]]))
    print(f"{small.violation}\nreplay: {command(small, steps, mutant)}")


def command(outcome: Outcome, steps: int, mutant: str | None = None) -> str:
    plan = outcome.plan
    noise = ",".join(field.name for field in fields(Noise) if getattr(plan.noise, field.name))
    parts = [
        f"./run tool python -m tests.sim --seed {plan.seed} --steps {steps}",
        f"--faults '{','.join(str(f.number) for f in plan.faults)}'",
        f"--tasks '{','.join(str(t.number) for t in plan.tasks)}' --noise '{noise}'",
    ]
    return " ".join([*parts, f"--mutant '{mutant}'"] if mutant else parts)


def _line(outcome: Outcome) -> str:
    verdict = str(outcome.violation) if outcome.violation else "every promise held"
    return (
        f"seed {outcome.plan.seed}: {outcome.steps} steps, {outcome.seconds:.0f} s of virtual time, "
        f"trace {outcome.digest[:16]}: {verdict}"
    )


# --------------------------------------------------------------------------- many seeds


def survey(args: argparse.Namespace) -> int:
    began, steps, seconds, counts = time.monotonic(), 0, 0.0, Counter[str]()
    margin_s = stop_margin_s = float("inf")
    failed: list[Outcome] = []
    seeds = ((seed, args.steps) for seed in range(args.first, 1 << 62))
    runs = 0
    with multiprocessing.get_context("fork").Pool(args.jobs) as pool:
        for outcome in pool.imap_unordered(_play_one, _bounded(seeds, args), chunksize=1):
            runs += 1
            steps, seconds = steps + outcome.steps, seconds + outcome.seconds
            counts.update(outcome.counts)
            margin_s = min(margin_s, outcome.margin_s)
            stop_margin_s = min(stop_margin_s, outcome.stop_margin_s)
            if outcome.violation:
                failed.append(outcome)
                print(_line(outcome), flush=True)
    took_s = time.monotonic() - began
    print(f"{runs} seeds from {args.first}, {steps} steps, {seconds / 3600:.1f} h of virtual time in {took_s:.1f} s")
    print(f"{steps / took_s:.0f} steps a second; {dict(sorted(counts.items()))}")
    print(f"smallest margin: {margin_s:.3f} s from a node's own deadline until its lease was given up,")
    print(f"                 {stop_margin_s:.3f} s from when its engine had stopped")
    for outcome in failed[:3]:
        shrink(outcome, args.steps)
    return 1 if failed else 0


def _bounded(seeds, args: argparse.Namespace):
    """About as many as have `total` steps, and some to be sure."""
    for count, seed in enumerate(seeds):
        if count * args.steps >= args.total * 1.25:
            return
        yield seed


def _play_one(what: tuple[int, int]) -> Outcome:
    seed, steps = what
    outcome = play(plan_for(seed, steps))
    if outcome.violation is None:
        outcome.trace.clear()
    return outcome


# --------------------------------------------------------------------------- broken on purpose


def hunt(args: argparse.Namespace) -> int:
    """Every variant, until a seed catches it."""
    survivors = 0
    with multiprocessing.get_context("fork").Pool(args.jobs) as pool:
        work = [(name, args.first, args.seeds, args.steps) for name in MUTANTS if args.only in name]
        for name, seed, steps, violation in pool.imap(_hunt_one, work, chunksize=1):
            survivors += violation is None
            told = f"seed {seed} after {steps} steps: {violation}" if violation else f"SURVIVED {args.seeds} seeds"
            print(f"{name:48} {told}", flush=True)
    print(f"{len(work) - survivors} of {len(work)} caught")
    return 1 if survivors else 0


def _hunt_one(what: tuple[str, int, int, int]) -> tuple[str, int, int, str | None]:
    name, first, seeds, steps = what
    done = 0
    with broken(*MUTANTS[name]):
        for seed in range(first, first + seeds):
            outcome = play(plan_for(seed, steps))
            done += outcome.steps
            if outcome.violation:
                return name, seed, done, str(outcome.violation)
    return name, 0, done, None


if __name__ == "__main__":
    sys.exit(main())
