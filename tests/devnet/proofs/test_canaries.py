"""Wrong answers that only the model tells from right ones."""

from __future__ import annotations

import hashlib
import random
from itertools import islice
from typing import Any

import msgspec
import pytest
from hypothesis import given as every
from hypothesis import strategies as st

from agent.core import wire
from agent.core.checks.claim import Claim, claim_with, without_model
from agent.core.checks.claims import Sampler, chunks, sampler
from agent.core.checks.draw import uniforms
from agent.core.checks.forward import check_closeness, check_plausibility
from agent.core.checks.verdict import Metrics, Replayed, Thresholds, Verdict, judge
from agent.core.model import Signed
from agent.core.payloads import Judgement
from agent.core.proof.opening import open_leaves
from agent.core.proof.receipt import examine
from agent.core.proof.signed import seal_all
from agent.devnet.core.asking import SamplingAsked
from agent.devnet.core.proofs import canaries, cases
from agent.devnet.core.proofs.canaries import Canary, made_of, tries, wanted
from agent.devnet.core.proofs.disguise import Cast, Keys, disguised
from agent.devnet.core.proofs.level_two import look
from agent.devnet.core.proofs.records import Case, CaseState
from agent.devnet.keys import KeyPair, verify
from tests import builders
from tests.core.checks.engine import generate
from tests.devnet.proofs.challenged import N_PROBS, blob_of, honest_transcript
from tests.devnet.proofs.validators import RULES, Bench, Validator, pools, says

NODE = KeyPair(b"\x09" * 32)
TOKENS = 100


class Source:
    """A case of an honest node's, opened."""

    def __init__(self, rate_micros: int = 1_000_000, **sampling: Any) -> None:
        rules = msgspec.structs.replace(RULES, rate_micros=rate_micros)
        self.bench = Bench(rules)
        self.node = self.bench.opener(1)
        while not self.bench.docket.cases:
            self.bench.submit(max_tokens=TOKENS, **sampling)
            (offer,) = self.bench.pull(self.node)
            self.transcript = honest_transcript(offer, TOKENS)
            self.bench.deliver(self.node, self.node.answer(offer, self.transcript))
        self.offer = offer
        self.bench.turn(61.0)
        (self.case,) = self.bench.docket.cases.values()

    def bundle(self) -> wire.ReceiptBundle:
        settlement = self.bench.settlement(self.case.case_id)
        return wire.ReceiptBundle(
            coordinator_key=self.bench.keys.public,
            offer=settlement.offer,
            result=settlement.result,
            receipt=settlement.receipt,
            output=settlement.output,
            opening=open_leaves(self.transcript.leaves),
            beacon=self.case.beacon,
        )

    def canary(self, chance: int = 1, bundle: wire.ReceiptBundle | None = None) -> Canary:
        made = self.made(chance, bundle)
        assert made is not None
        return made

    def made(self, chance: int = 1, bundle: wire.ReceiptBundle | None = None) -> Canary | None:
        keys, random_bytes = self.bench.keys, random.Random(chance).randbytes(56)
        ours, its = Keys(keys.public, keys.sign), Keys(NODE.public, NODE.sign)
        return made_of(self.case, bundle or self.bundle(), verify, Cast(ours, its, random_bytes))


def claim_in(bundle: wire.ReceiptBundle, key: str) -> Claim:
    """Through all checks of a receipt, as a validator reads it."""
    found = examine(bundle, verify, coordinator_key=key)
    assert found.error is None, found.error
    assert found.case is not None
    assert {check.name for check in found.passed} >= {"opening", "draw", "commitment"}
    claim = claim_with(found.case, found.case.leaves)
    assert claim is not None
    return claim


def recomputed(claim: Claim, offer: wire.OfferBody) -> Metrics:
    """What the true (made-up) model says of a claim."""
    true = generate(
        random.Random(offer.task.task_id),
        Sampler(*sampler(claim.header)),
        tokens=TOKENS,
        vocabulary=60,
        n_probs=N_PROBS,
    )
    numbers = list(islice(uniforms(claim.header.seed), TOKENS))
    replayed = []
    for chunk in chunks(claim.leaves):
        place = slice(chunk.start, chunk.start + len(chunk.positions))
        own = [one._replace(token=said.token) for one, said in zip(true[place], chunk.positions, strict=True)]
        plausible = check_plausibility(chunk.positions, own, sampler(claim.header), numbers[place])
        replayed.append(Replayed(chunk.leaf, check_closeness(chunk.positions, own), plausible))
    return Metrics(chunks=tuple(replayed))


@pytest.mark.parametrize("rate_micros", [1_000_000, 250_000])
@pytest.mark.parametrize("chance", [1, 2])
def test_without_the_model_a_canary_is_as_good_as_an_answer(rate_micros: int, chance: int) -> None:
    source = Source(rate_micros)
    canary = source.canary(chance)
    honest, claim = (claim_in(it, source.bench.keys.public) for it in (source.bundle(), canary.bundle))
    before, after = without_model(honest), without_model(claim)
    assert judge(after, Thresholds()).verdict is Verdict.PASS
    assert after.sampled.checked == before.sampled.checked == TOKENS
    assert look(canary.bundle, verify).repeatable
    assert set(msgspec.json.decode(msgspec.json.encode(canary.bundle))) == set(
        msgspec.json.decode(msgspec.json.encode(source.bundle()))
    )


def shape(value: Any) -> Any:
    """What a value looks like where its bits are not read: keys in their order, lengths, and the sizes of texts."""
    if isinstance(value, str) and value.startswith("{"):
        value = msgspec.json.decode(value)
    if isinstance(value, dict):
        return [(key, shape(it)) for key, it in value.items()]
    if isinstance(value, list):
        return [shape(it) for it in value]
    return len(value) if isinstance(value, str) else type(value)


def test_neither_a_right_answer_nor_a_wrong_one_tells_whose_it_is() -> None:
    """Were right ones told under their nodes' names, a name that was never heard before would mean a canary."""
    source = Source()
    keys = source.bench.keys
    its, ours = KeyPair(b"\x0a" * 32), Keys(keys.public, keys.sign)
    told = [disguised(source.bundle(), verify, Cast(ours, Keys(its.public, its.sign), b"\x01" * 32))]
    told.append(source.canary().bundle)
    right, wrong = (msgspec.json.encode(it) for it in told)
    assert shape(msgspec.json.decode(right)) == shape(msgspec.json.decode(wrong))
    before, after = (claim_in(it, keys.public) for it in (source.bundle(), told[0]))
    assert after.header == msgspec.structs.replace(before.header, node_key=its.public)
    assert after.leaves == before.leaves
    for raw in (right, wrong):
        for name in (source.node.node_id, source.node.keys.public, source.case.case_id.removeprefix("c-")):
            assert name.encode() not in raw
    for case in (source.case, source.canary().case):  # nor the name under which it is examined
        assert not any(case.case_id.removeprefix("c-").encode() in raw for raw in (right, wrong))


def test_some_are_to_be_looked_at_as_closely_as_a_claim_that_was_doubted() -> None:
    source = Source()
    levels = [source.canary(chance).case.level for chance in range(16)]
    assert set(levels) == {0, 1, 2}
    for escalations in (0, 2):
        bench = Bench(msgspec.structs.replace(RULES, escalations=escalations))
        validator = bench.validator(2)
        case_id = given(bench, 0, level=2)
        (offer,) = bench.pull(validator)
        assert bench.case(case_id).level == escalations
        assert offer.task.input.leaves == cases.leaves_at(bench.case(case_id), escalations)  # type: ignore[union-attr]
        bench.deliver(validator, validator.seal(offer, validator.verdict(offer)))
        bench.turn(101.0)
        bench.reveal(validator)
        assert bench.standing(validator).verdicts_wrong == 1


@pytest.mark.parametrize("temperature", [0, 300_000, 800_000, 1_500_000])
def test_the_model_tells_at_once(temperature: int) -> None:
    source = Source(sampling=SamplingAsked(temperature_micros=temperature))
    canary = source.canary()
    limits = Thresholds(closeness=0.60, far=4, unlisted=4)  # the widest that a calibration may have
    assert (
        judge(recomputed(claim_in(source.bundle(), source.bench.keys.public), source.offer), limits).verdict == "pass"
    )
    found = recomputed(claim_in(canary.bundle, source.bench.keys.public), source.offer)
    wrong = [one.leaf for one in found.chunks if one.close.mean > 0.60]
    assert len(wrong) >= (2 if temperature < 1_000_000 else 1)  # hot draws leave less room
    assert judge(found, limits).verdict is not Verdict.PASS


@every(rate=st.integers(1, 1_000_000), leaves=st.integers(3, 1 << 14))
def test_the_search_for_a_root_that_is_drawn_is_bounded_however_small_the_rate(rate: int, leaves: int) -> None:
    most = tries(rate, leaves)
    assert 1 <= most <= 10_000
    assert most * leaves <= 2_000_000
    if rate >= 29_000 and leaves <= 64:  # what is usual: enough that one of a thousand million finds none
        assert (1 - rate / 1_000_000) ** most < 1e-9


def test_where_hardly_any_root_is_drawn_none_is_looked_for_without_end() -> None:
    source = Source()
    rare = msgspec.structs.replace(source.case.promise, rate_micros=1)
    source.case = msgspec.structs.replace(source.case, promise=rare)
    assert source.made() is None


def test_how_many_are_made_follows_the_rate() -> None:
    chances = [hashlib.sha256(bytes([one % 256, one // 256])).digest() for one in range(2000)]
    made = sum(wanted(one, 20_000) for one in chances)
    assert 20 <= made <= 60
    assert not any(wanted(one, 0) for one in chances)


def test_who_passes_a_canary_loses_stake_and_at_the_second_time_its_checks() -> None:
    bench = Bench()
    lazy, honest = bench.validator(2), bench.validator(3)
    for number in range(2):
        given(bench, number)
        bench.check(lazy)
        bench.check(honest, says(verdict="fail", reasons=("chunk 0: 2.1 off",)))
        bench.reveal(lazy)
        bench.reveal(honest)
        standing = bench.standing(lazy)
        assert standing.verdicts_wrong == number + 1
        assert standing.stake_micros == RULES.stake_micros - (number + 1) * RULES.verdict_slash_micros
        assert standing.barred is (number == 1)
    assert bench.standing(honest).verdicts_wrong == 0
    given(bench, 2)
    assert bench.pull(lazy, count=4) == []


def test_nobody_is_judged_for_a_canary_but_its_validators_and_nobody_sees_both() -> None:
    bench = Bench()
    node, one = bench.opener(1), bench.validator(2)
    source = bench.case(bench.checking(node))
    (receipt,) = bench.check(one)
    assert receipt.status is wire.ReceiptStatus.ACCEPTED
    other = bench.validator(3)
    canary = given(bench, 0, source)
    assert [offer.task.task_id for offer in bench.pull(one, count=4)] == []
    (offer,) = bench.pull(other, count=4)  # one of the two, never both
    assert bench.pull(other, count=4) == []
    assert offer.task.task_id in {it.task_id for it in (*source.checks, *bench.case(canary).checks)}
    assert bench.judgements(node) == []


@pytest.mark.parametrize("restarted", [False, True])
def test_who_saw_the_right_answer_gets_no_wrong_one_after_it_is_judged(restarted: bool) -> None:
    bench = Bench()
    node, one, other = bench.opener(1), bench.validator(2), bench.validator(3)
    source = bench.case(bench.checking(node))
    canaries.begin(bench.book, source)
    for validator in (one, other):
        bench.check(validator)
    for validator in (one, other):
        bench.reveal(validator)
    assert bench.case(source.case_id).judgement is Judgement.PASSED
    assert list(bench.docket.cases) == [source.case_id]
    third = bench.validator(4)
    canary = given(bench, 0, source)
    assert list(bench.docket.cases) == [canary]
    if restarted:
        bench = _restarted(bench, one, other, third)
    assert [bench.pull(it, count=4) for it in (one, other)] == [[], []]
    assert len(bench.pull(third, count=4)) == 1


def _restarted(bench: Bench, *validators: Validator) -> Bench:
    again = bench.restarted()
    again.__class__ = Bench
    for validator in validators:
        again.hello(validator, fingerprint=builders.fingerprint(pools=pools()))
    assert isinstance(again, Bench)
    return again


def test_a_case_of_which_no_canary_can_be_made_leaves_all_the_same() -> None:
    bench = Bench()
    node, one, other = bench.opener(1), bench.validator(2), bench.validator(3)
    source = bench.case(bench.checking(node))
    canaries.begin(bench.book, source)
    for validator in (one, other):
        bench.check(validator)
    for validator in (one, other):
        bench.reveal(validator)
    bench.take(canaries.give_up(bench.book, bench.when, source.case_id))
    assert (bench.docket.cases, bench.docket.copied) == ({}, set())


def test_where_everybody_saw_the_right_answer_no_wrong_one_is_given_out() -> None:
    bench = Bench()
    node, one = bench.opener(1), bench.validator(2)
    source = bench.case(bench.checking(node))
    bench.check(one)
    assert given(bench, 0, source) not in bench.docket.cases


def given(bench: Bench, number: int, source: Case | None = None, level: int = 0) -> str:
    """A canary that validators are asked about."""
    if source is None:
        task_id = bench.submit(model="sha256:" + "cd" * 32)
        maker = bench.opener(90)
        if not any(case.node_id == maker.node_id for case in bench.cases.values()):
            bench.checking(maker)
            for _ in range(8):
                bench.turn(101.0)  # nobody checks the first, which gives the shape
            bench.hear_all()
        shape = next(case for case in bench.cases.values() if case.node_id == maker.node_id)
        source = msgspec.structs.replace(shape, task_id=task_id, evidence=None, opening=None, checks=(), level=0)
    case = msgspec.structs.replace(
        source,
        case_id=f"c-canary{number}",
        node_id=f"n-nobody{number}",
        state=CaseState.CHECKING,
        level=level,
        judgement=None,
        checks=(),
        canary=True,
    )
    evidence = blob_of(f"canary {number}".encode())
    canary = Canary(None, case, ())  # type: ignore[arg-type]
    bench.take(canaries.give_out(bench.book, bench.when, source.case_id, canary, evidence))
    return case.case_id


def test_what_it_is_made_of_was_signed_in_batches_and_so_is_it() -> None:
    """Else whoever checks only what was signed alone would be found out by none of them."""
    source = Source()
    bundle, keys = source.bundle(), source.bench.keys

    def batched(role: wire.Role, signed: Signed, by: KeyPair, index: int, count: int) -> Signed:
        payloads = [b"another"] * count
        payloads[index] = signed.payload.encode()
        return seal_all(role, payloads, by.public, by.sign)[index]

    bundle = msgspec.structs.replace(
        bundle,
        offer=batched(wire.Role.OFFER, bundle.offer, keys, 1, 2),
        result=batched(wire.Role.RESULT, bundle.result, source.node.keys, 2, 5),
        receipt=batched(wire.Role.RECEIPT, bundle.receipt, keys, 0, 3),
    )
    made = [source.canary(chance, bundle).bundle for chance in (1, 2)]
    for one in made:
        claim_in(one, keys.public)
        places = [(it.batch.index, it.batch.count) for it in (one.offer, one.result, one.receipt) if it.batch]
        assert places == [(1, 2), (2, 5), (0, 3)]
    assert made[0].offer.batch != made[1].offer.batch  # nobody can make the others again
