"""Validators that copy what was claimed, or pass everything: among honest ones, with every fifth check a canary.

Their nodes are actors in the coordinator's core: what is looked at is how verdicts are compared, not how they are made.
"""

from __future__ import annotations

import itertools

from agent.core.checks.verdict import Verdict
from tests.attack.field import Field
from tests.attack.outcome import Counts, Found, count
from tests.attack.rows import row
from tests.devnet.proofs.test_lazy_validators import (
    CHECKS,
    EVERY,
    F,
    Hall,
    Policy,
    Validator,
    X,
    always_pass,
    copier,
    honest,
)


@row("validator", "a validator that copies, and one that always passes, until 50 checks", 20)
async def validator(field: Field, runs: int) -> Counts:
    return count([_trial(number) for number in field.numbers(runs)])


def _trial(number: int) -> Found:
    """Caught is when both are barred and no honest one is marked."""
    hall = Hall(number)
    node = hall.opener(1)
    sound = [hall.validator(seed, kind) for seed, kind in ((2, F), (3, F), (4, X), (5, X))]
    lazy = [hall.validator(seed, kind) for seed, kind in ((6, F), (7, F))]
    everybody: dict[Validator, Policy] = {
        **dict.fromkeys(sound, honest),
        **dict(zip(lazy, (copier, always_pass), strict=True)),
    }
    for check in itertools.count():
        hall.decided(hall.given(node, check, canary=check % EVERY == 2), everybody)
        if all(hall.standing(it).barred or hall.standing(it).verdicts >= CHECKS for it in lazy):
            break
    barred = all(hall.standing(it).barred for it in lazy)
    marked = any(hall.standing(it).verdicts_wrong for it in sound)
    return Found(Verdict.FAIL, ("canaries and copies",)) if barred and not marked else Found(Verdict.PASS)
