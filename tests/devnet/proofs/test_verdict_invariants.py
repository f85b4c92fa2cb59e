"""Whatever validators say, hold back or leave undone, in any order, with crashes in between: these hold."""

from __future__ import annotations

from collections import Counter

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from agent.core import wire
from agent.core.payloads import JudgementBody
from agent.devnet.core import effects
from agent.devnet.core.proofs.docket import challenged
from agent.devnet.core.proofs.records import CaseState, CheckState
from tests import builders
from tests.devnet.proofs.validators import RULES, Bench, F, Validator, X, pools, says

VALIDATORS = st.integers(0, 3)
VERDICTS = st.sampled_from(
    [
        Validator.verdict,
        Validator.verdict,
        says(verdict="suspect", reasons=("0.41 off",)),
        says(verdict="fail", reasons=("wrong seed",), certain=True),
        says(verdict="fail", reasons=("two chunks",)),
        says(recomputed=()),
        says(evidence="00" * 32),
    ]
)


class BenchMachine(RuleBasedStateMachine):
    """One node whose results are all challenged, and four validators of two classes."""

    @initialize()
    def begin(self) -> None:
        self.bench = Bench()
        self.node = self.bench.opener(9)
        self.validators = [self.bench.validator(seed, F if seed % 2 else X) for seed in range(4)]

    @rule(determinism=st.sampled_from([F, X]))
    def a_case(self, determinism: str) -> None:
        if self.bench.standing(self.node).stake_micros:
            self.bench.checking(self.node, determinism)

    @rule(who=VALIDATORS, verdict=VERDICTS)
    def check(self, who: int, verdict) -> None:
        for receipt in self.bench.check(self.validators[who], verdict):
            assert receipt.status is wire.ReceiptStatus.ACCEPTED, receipt.detail

    @rule(who=VALIDATORS)
    def takes_work_and_does_none(self, who: int) -> None:
        self.bench.pull(self.validators[who], count=2)

    @rule(who=VALIDATORS, content=st.sampled_from([None, None, b"", b"garbage"]))
    def reveal(self, who: int, content: bytes | None) -> None:
        self.bench.reveal(self.validators[who], content)

    @rule()
    def all_reveal(self) -> None:
        for validator in self.validators:
            self.bench.reveal(validator)

    @rule(seconds=st.sampled_from([5.0, 41.0, 101.0]))
    def time_passes(self, seconds: float) -> None:
        self.bench.turn(seconds)

    @rule()
    def crash(self) -> None:
        bench = Bench.__new__(Bench)
        bench.__dict__.update(self.bench.restarted().__dict__)
        self.bench = bench
        for validator in self.validators:
            slots = 1 if validator.determinism == X else 4
            told = builders.fingerprint(pools=pools(validator.determinism, slots))
            self.bench.book.nodes[validator.node_id].show(told)

    def teardown(self) -> None:
        if not hasattr(self, "bench"):
            return
        for _ in range(30):
            self.bench.turn(101.0)
        assert self.bench.docket.cases == {}, "a case that nobody does anything about comes to an end all the same"

    @invariant()
    def serials_have_no_gap_and_nothing_is_judged_twice(self) -> None:
        for node in (self.node, *self.validators):
            bodies = [msgspec.json.decode(it.signed.payload, type=JudgementBody) for it in self.bench.judged(node)]
            assert [it.serial for it in bodies] == list(range(1, len(bodies) + 1))
            assert max(Counter((it.subject, it.task_id, it.attempt) for it in bodies).values(), default=1) == 1
            assert self.bench.standing(node).serial == len(bodies)

    @invariant()
    def what_was_taken_stands_in_judgements_and_in_the_ledger(self) -> None:
        lines = [it.line for it in self.bench.writes if isinstance(it, effects.SaveLedgerLine)]
        assert len({line.idem_key for line in lines}) == len(lines)
        for node in (self.node, *self.validators):
            bodies = [msgspec.json.decode(it.signed.payload, type=JudgementBody) for it in self.bench.judged(node)]
            taken = -sum(it.amount_micros for it in lines if it.node_id == node.node_id and it.amount_micros < 0)
            lost = RULES.stake_micros - self.bench.standing(node).stake_micros
            assert taken == lost == sum(it.slashed_micros for it in bodies)

    @invariant()
    def nobody_checks_his_own_work_or_one_claim_twice(self) -> None:
        for case in self.bench.cases.values():
            who = [check.node_id for check in case.checks if check.node_id]
            assert case.node_id not in who
            assert len(set(who)) == len(who)

    @invariant()
    def a_verdict_is_asked_for_only_when_all_are_sealed(self) -> None:
        for case in self.bench.cases.values():
            now = [check.state for check in case.checks if check.level == case.level]
            if case.state is CaseState.REVEALING:
                assert CheckState.ASKED not in now
            if case.state is CaseState.CHECKING:
                assert challenged(case) == {}

    @invariant()
    def what_is_written_is_what_is_known(self) -> None:
        again, now = self.bench.restarted().docket, self.bench.docket
        told = lambda docket: {it: _timeless(case) for it, case in docket.cases.items()}  # noqa: E731
        assert told(again) == told(now)
        assert again.standings == now.standings
        assert (again.judged, again.of_check) == (now.judged, now.of_check)


def _timeless(case):
    checks = tuple(msgspec.structs.replace(check, due_at=0) for check in case.checks)
    return msgspec.structs.replace(case, due_at=0, checks=checks)


TestBench = BenchMachine.TestCase
TestBench.settings = settings(
    max_examples=25,
    stateful_step_count=30,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
