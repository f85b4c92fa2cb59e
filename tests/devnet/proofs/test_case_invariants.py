"""Whatever nodes open, say and hold back, in any order, with crashes in between: these hold of cases and judgements."""

from __future__ import annotations

from collections import Counter, defaultdict

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agent.core import wire
from agent.core.model import Blob
from agent.core.payloads import JudgementBody, Subject
from agent.core.proof.drawing import is_drawn
from agent.core.proof.signed import open_signed
from agent.devnet.core import effects
from agent.devnet.core.proofs.docket import SLASHING
from agent.devnet.core.proofs.records import CaseState
from agent.devnet.core.rules import ProofRules, Refused
from agent.devnet.keys import verify
from tests.devnet.proofs.challenged import DOUBTFUL, FORGED, GOOD, WRONG_DRAW, Court, blob_of

NODES = st.integers(0, 2)
RULES = ProofRules(
    rate_micros=600_000,
    epoch_s=30.0,
    answer_s=100.0,
    validators=0,
    forgiven_after=2,
    keep_s=60.0,
    stake_micros=5_000_000,
)


class CourtMachine(RuleBasedStateMachine):
    """Three nodes; every result may be drawn."""

    @initialize()
    def begin(self) -> None:
        self.court = Court(RULES)
        self.nodes = [self.court.enrolled(seed) for seed in range(3)]
        self.promised: list[tuple[wire.ReceiptBody, int]] = []
        self.ended: dict[str, object] = {}
        self.evidence: dict[str, Blob] = {}
        self.old: list[tuple[int, wire.Opening]] = []

    @rule(node=NODES)
    def settle(self, node: int) -> None:
        actor = self.nodes[node]
        task_id = self.court.submit()
        offers = self.court.pull(actor)
        if not offers:
            assert self.court.standing(actor).stake_micros == 0
            self.court.cancel(task_id)
            return
        receipt = self.court.deliver(actor, actor.success(offers[0]))
        assert receipt.beacon is not None
        self.promised.append((receipt, node))

    @rule(node=NODES)
    def an_epoch_with_work(self, node: int) -> None:
        self.settle(node)
        self.settle(node)
        self.court.turn(31.0)

    @rule(seconds=st.sampled_from([1.0, 20.0, 31.0, 101.0, 500.0]))
    def time_passes(self, seconds: float) -> None:
        self.court.turn(seconds)

    @rule(node=NODES, at=st.integers(0, 3), content=st.sampled_from([b"leaves", b"other leaves"]))
    def opens(self, node: int, at: int, content: bytes) -> None:
        self._say(node, at, blob=blob_of(content))

    @rule(node=NODES, at=st.integers(0, 3), refusal=st.sampled_from(list(wire.OpeningRefusal)))
    def refuses(self, node: int, at: int, refusal: wire.OpeningRefusal) -> None:
        self._say(node, at, refusal=refusal)

    def _say(self, node: int, at: int, **what: object) -> None:
        asked = [(each, it) for each in range(3) for it in self._owed((node + each) % 3)]
        if asked:
            offset, challenge = asked[at % len(asked)]
            node = (node + offset) % 3
            message = wire.Opening(challenge_id=challenge.challenge_id, **what)
            self.court.say(self.nodes[node], message)
            self.old.append((node, message))
            assert message.challenge_id not in {it.challenge_id for it in self._owed(node)}

    @precondition(lambda self: self.old)
    @rule(at=st.integers(0, 20), thief=NODES)
    def says_again(self, at: int, thief: int) -> None:
        node, message = self.old[at % len(self.old)]
        before = dict(self.court.cases)
        assert self.court.say(self.nodes[node], message) == wire.Ack()
        if thief != node:
            with pytest.raises(Refused, match="not asked"):
                self.court.say(self.nodes[thief], message)
        assert self.court.cases == before

    @precondition(lambda self: self.court.examine)
    @rule(found=st.sampled_from([GOOD, GOOD, DOUBTFUL, WRONG_DRAW, FORGED]), again=st.booleans())
    def examine(self, found, again: bool) -> None:
        case_id = self.court.examine.pop(0)
        case = self.court.found(case_id, found)
        assert case.state is CaseState.JUDGED
        if case.judgement in SLASHING:
            assert case.opening is not None
            self.evidence[case_id] = case.opening
        if again:
            assert self.court.found(case_id, WRONG_DRAW) == case

    @rule()
    def crash(self) -> None:
        self.court = self.court.restarted()

    def _owed(self, node: int) -> list[wire.Challenge]:
        return list(self.court.beat(self.nodes[node]).challenges)

    def _bodies(self) -> dict[str, list[JudgementBody]]:
        found: dict[str, list[JudgementBody]] = defaultdict(list)
        for it in self.court.writes:
            if isinstance(it, effects.SaveJudged):
                raw = open_signed(wire.Role.JUDGEMENT, it.judged.signed, self.court.keys.public, verify)
                found[it.judged.node_id].append(msgspec.json.decode(raw, type=JudgementBody))
        return found

    @invariant()
    def serials_have_no_gap_and_every_judgement_reaches_its_node(self) -> None:
        bodies = self._bodies()
        for node in self.nodes:
            judged = bodies[node.node_id]
            assert [it.serial for it in judged] == list(range(1, len(judged) + 1))
            assert self.court.standing(node).serial == len(judged)
            kept = self.court.docket.judged.get(node.node_id, [])
            assert [msgspec.json.decode(it.payload, type=JudgementBody) for it in kept] == judged

    @invariant()
    def a_case_ends_in_exactly_one_judgement_and_stays_ended(self) -> None:
        count = Counter((it.task_id, it.subject) for bodies in self._bodies().values() for it in bodies)
        ended = {it.task_id: it for it in self.court.cases.values() if it.state is CaseState.JUDGED}
        assert count == Counter(dict.fromkeys(((task_id, Subject.ANSWER) for task_id in ended), 1))
        for task_id, case in ended.items():
            assert self.ended.setdefault(task_id, (case.judgement, case.detail)) == (case.judgement, case.detail)

    @invariant()
    def nobody_is_slashed_without_a_signed_judgement_whose_evidence_is_kept(self) -> None:
        taken: Counter[str] = Counter()
        for it in self.court.writes:
            if isinstance(it, effects.SaveLedgerLine) and it.line.amount_micros < 0:
                taken[it.line.node_id] -= it.line.amount_micros
        bodies = self._bodies()
        for node in self.nodes:
            judged = bodies[node.node_id]
            lost = RULES.stake_micros - self.court.standing(node).stake_micros
            assert taken[node.node_id] == lost == sum(it.slashed_micros for it in judged)
            for it in judged:
                assert (it.judgement in SLASHING) or not it.slashed_micros
        for case_id, opening in self.evidence.items():
            assert self.court.case(case_id).opening == opening

    @invariant()
    def the_told_secret_alone_decides_who_is_challenged(self) -> None:
        secrets = {it.epoch.number: it.epoch.secret for it in self.court.writes if isinstance(it, effects.SaveEpoch)}
        told = {it.epoch.number for it in self.court.writes if isinstance(it, effects.SaveEpoch) and it.epoch.told}
        for receipt, _ in self.promised:
            promise = receipt.beacon
            drawn = is_drawn(
                bytes.fromhex(secrets[promise.round]), receipt.commitment_root, receipt.task_id, promise.rate_micros
            )
            state = self.court.state(receipt.task_id)
            assert (state is not None) is drawn
            assert not drawn or (state is CaseState.WAITING) is (promise.round not in told)

    @invariant()
    def what_is_owed_is_what_was_challenged(self) -> None:
        docket = self.court.docket
        for node in self.nodes:
            open_ = {
                it.drawn_id()
                for it in docket.cases.values()
                if it.state is CaseState.CHALLENGED and it.node_id == node.node_id
            }
            assert {name for name, _ in docket.owed(node.node_id)} == open_
        assert sorted(docket.unexamined()) == sorted(self.court.examine)

    @invariant()
    def judged_cases_are_not_in_memory(self) -> None:
        docket = self.court.docket
        assert {it.case_id for it in self.court.cases.values() if it.state is not CaseState.JUDGED} == set(docket.cases)
        assert {*docket.of_task.values(), *docket.of_check.values(), *docket.canary_of.values()} <= set(docket.cases)

    @invariant()
    def what_is_written_is_what_is_known(self) -> None:
        again, now = self.court.restarted().docket, self.court.docket
        timeless = {it: msgspec.structs.replace(case, due_at=0) for it, case in now.cases.items()}
        assert {it: msgspec.structs.replace(case, due_at=0) for it, case in again.cases.items()} == timeless
        assert again.standings == now.standings
        assert again.judged == now.judged


TestCourt = CourtMachine.TestCase
TestCourt.settings = settings(
    max_examples=25,
    stateful_step_count=35,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
