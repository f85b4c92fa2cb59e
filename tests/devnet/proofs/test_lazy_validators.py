"""Dishonest validators among honest ones: 20 trials, each until it has done 50 checks, a fifth of them canaries."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import pytest

from agent.core import wire
from agent.core.model import LeaseKey, VerifyInput
from agent.core.payloads import Beacon, BeaconPromise, BeaconSource, RecomputedLeaf, VerdictBody
from agent.devnet.core.proofs import cases, validating
from agent.devnet.core.proofs.records import Case, CaseState, CheckState
from tests import builders
from tests.devnet.proofs.challenged import Opener, blob_of
from tests.devnet.proofs.validators import RULES, Bench, F, Validator, X, own_figures
from tests.devnet.world import OTHER_MODEL

TRIALS, FEW, CHECKS, EVERY = 20, 5, 50, 5
LEAVES = 6


class Hall(Bench):
    """Cases without nodes that computed them: only validators are looked at."""

    def __init__(self, trial: int) -> None:
        super().__init__(RULES)
        self.chance = random.Random(trial)
        self.wrong: dict[str, bool] = {}
        """Digest of the evidence → whether what it claims is wrong."""
        self.claims: dict[str, tuple[RecomputedLeaf, ...]] = {}

    def given(self, node: Opener, number: int, *, canary: bool) -> str:
        task_id = self.submit(model=OTHER_MODEL)  # nobody here has that model: it stays where it is
        evidence = blob_of(f"{number} {canary}".encode())
        claimed = tuple(RecomputedLeaf(leaf=it, sha256=own_figures(task_id, it)) for it in range(LEAVES - 1))
        self.wrong[evidence.sha256], self.claims[evidence.sha256] = canary, claimed
        case = Case(
            case_id=f"c-{number}",
            task_id=task_id,
            node_id=f"n-nobody{number}" if canary else node.node_id,
            key=LeaseKey(task_id=task_id, attempt=1, fence=number + 1),
            idem_key=f"{task_id}/1",
            root=f"{number:064x}",
            leaves=LEAVES,
            model_digest=builders.MODEL,
            promise=BeaconPromise(source=BeaconSource.EPOCH, round=1, commitment="", rate_micros=1_000_000, leaves=4),
            state=CaseState.CHECKING,
            beacon=Beacon(source=BeaconSource.EPOCH, round=1, value="5a" * 32),
            evidence=evidence,
            canary=canary,
        )
        cases.add(self.book, case)
        validating.begin(self.book, self.when, case, claimed, F)
        return case.case_id

    def decided(self, case_id: str, everybody: dict[Validator, Policy]) -> None:
        for _ in range(40):
            before = self.case(case_id)
            for validator in self.chance.sample(list(everybody), len(everybody)):
                self.check(validator, lambda it, offer: everybody[it](self, it, offer))
            sealed = {check.node_id for check in self.case(case_id).checks if check.state is CheckState.SEALED}
            for validator in everybody:
                if validator.node_id in sealed:
                    self.reveal(validator)
            if self.case(case_id).judgement is not None:
                return
            if self.case(case_id) is before:
                self.turn(101.0)  # nobody else is there
        raise AssertionError(self.case(case_id))


Policy = Callable[[Hall, Validator, wire.OfferBody], VerdictBody]


def evidence_of(offer: wire.OfferBody) -> str:
    assert isinstance(offer.task.input, VerifyInput)
    return offer.task.input.evidence.sha256


def honest(hall: Hall, it: Validator, offer: wire.OfferBody) -> VerdictBody:
    if hall.wrong[evidence_of(offer)]:
        return it.verdict(offer, verdict="fail", reasons=("chunk 0: 2.10 off",))
    return it.verdict(offer)


def copier(hall: Hall, it: Validator, offer: wire.OfferBody) -> VerdictBody:
    return it.verdict(offer, recomputed=hall.claims[evidence_of(offer)])


def always_pass(hall: Hall, it: Validator, offer: wire.OfferBody) -> VerdictBody:
    return it.verdict(offer)


def always_fail(hall: Hall, it: Validator, offer: wire.OfferBody) -> VerdictBody:
    return it.verdict(offer, verdict="fail", certain=True, reasons=("no",))


def always_doubt(hall: Hall, it: Validator, offer: wire.OfferBody) -> VerdictBody:
    return it.verdict(offer, verdict="suspect", reasons=("hm",))


def anything(hall: Hall, it: Validator, offer: wire.OfferBody) -> VerdictBody:
    verdict = hall.chance.choice(("pass", "suspect", "fail"))
    return it.verdict(offer, verdict=verdict, certain=hall.chance.random() < 0.5, reasons=("?",))


@pytest.mark.parametrize(
    ("lazy", "trials"),
    [((copier, always_pass), TRIALS), ((always_fail,), FEW), ((always_doubt,), FEW), ((anything,), FEW)],
    ids=lambda it: "-".join(one.__name__ for one in it) if isinstance(it, tuple) else str(it),
)
def test_every_one_is_found_out_and_no_honest_one_is_marked(lazy: tuple[Policy, ...], trials: int) -> None:
    for trial in range(trials):
        hall = Hall(trial)
        node = hall.opener(1)
        honest_ones = [hall.validator(seed, kind) for seed, kind in ((2, F), (3, F), (4, X), (5, X))]
        cheats = {hall.validator(6 + number): policy for number, policy in enumerate(lazy)}
        everybody: dict[Validator, Policy] = {**dict.fromkeys(honest_ones, honest), **cheats}
        numbers = itertools.count()
        while any(not hall.standing(it).barred and hall.standing(it).verdicts < CHECKS for it in cheats):
            number = next(numbers)
            hall.decided(hall.given(node, number, canary=number % EVERY == 2), everybody)
        for cheat, policy in cheats.items():
            assert hall.standing(cheat).barred, (trial, policy, hall.standing(cheat))
        assert [hall.standing(it).verdicts_wrong for it in honest_ones] == [0] * len(honest_ones), trial
        assert hall.standing(node).passed == hall.standing(node).challenged > 0, trial
