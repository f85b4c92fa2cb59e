"""Validators of a case: asked, sealed, revealed, and what their verdicts come to.

A check is a task of the kind `verify`. Nobody can copy another's verdict: all of a level are sealed before one is
revealed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import msgspec

from agent.core.model import Reason, Sampling, TaskSpec, VerifyInput
from agent.core.payloads import Judgement, RecomputedLeaf
from agent.core.text import plain
from agent.core.wire import Opening, ResultBody
from agent.devnet.core.asking import live
from agent.devnet.core.book import Book
from agent.devnet.core.effects import SaveDemand
from agent.devnet.core.proofs import cases
from agent.devnet.core.proofs.assigning import available
from agent.devnet.core.proofs.judging import judge, judge_verdict
from agent.devnet.core.proofs.records import Case, CaseState, Check, CheckState
from agent.devnet.core.proofs.revealing import read_revealed
from agent.devnet.core.proofs.silence import unkept
from agent.devnet.core.proofs.standing import after_verdict, learn, standing_of
from agent.devnet.core.proofs.verdicts import Blame, Next, Opinion, Room, Ruling, decide, on_canary
from agent.devnet.core.queue import DEADLINE
from agent.devnet.core.records import ENDED, Demand, Progress, Task
from agent.devnet.core.rules import Instant, ProofRules

MAX_WHY = 300
"""Of a validator's own words."""


def begin(
    book: Book,
    when: Instant,
    case: Case,
    figures: Iterable[RecomputedLeaf],
    determinism: str,
    known: Iterable[int] = (),
) -> None:
    """The evidence of this level is written down: ask validators. `figures`: digests of what the node claims, of any
    leaves; `known`: leaves of which nobody passes the claim without figures of his own.
    """
    wanted = {leaf for level in range(book.rules.proofs.escalations + 1) for leaf in cases.leaves_at(case, level)}
    claimed, known = tuple(it for it in figures if it.leaf in wanted), tuple(it for it in known if it in wanted)
    case = cases.keep(book, when, case, claimed=claimed, determinism=determinism, known=known)
    _ask(book, when, case, _validators(book))


def sealed(book: Book, when: Instant, task: Task, body: ResultBody, determinism: str) -> None:
    """A validator has committed to its verdict."""
    case = book.docket.cases.get(book.docket.of_check.get(task.task_id, ""))
    if case is None or body.commitment is None:
        return
    check = next(it for it in case.checks if it.task_id == task.task_id)
    if case.state is not CaseState.CHECKING or check.state is not CheckState.ASKED:
        return  # too late: somebody else was asked in its place
    taken = msgspec.structs.replace(
        check,
        state=CheckState.SEALED,
        node_id=body.node_id,
        key=body.key,
        root=body.commitment.root,
        determinism=determinism if determinism in _advertised(book, body.node_id) else "",
    )
    _advance(book, when, _with(book, when, case, [taken]))


def _advertised(book: Book, node_id: str) -> set[str]:
    """The classes of a node's pools, as it told them before it knew what it would check."""
    return {pool.determinism for pool in book.node(node_id).pools.values()}


def revealed(book: Book, when: Instant, case: Case, message: Opening, content: bytes) -> None:
    """A validator shows what it had sealed; `content` is what it uploaded. Anything else is as if it were silent."""
    check = next(it for it in case.checks if it.task_id == message.challenge_id)
    verdict = (
        read_revealed(content, check, case, cases.leaves_at(case, check.level)) if message.blob is not None else None
    )
    state = CheckState.REVEALED if verdict else CheckState.GONE
    if verdict is None:
        shown = "what it shows is not that, or no answer" if message.blob else "it does not open it"
        _unrevealed(book, when, check, ": ".join(filter(None, (shown, plain(message.detail, MAX_WHY)))))
    _advance(book, when, _with(book, when, case, [msgspec.structs.replace(check, state=state, verdict=verdict)]))


def overdue(book: Book, when: Instant, case_id: str, level: int) -> None:
    """Whoever did not deliver or reveal in time is replaced."""
    case = book.docket.cases.get(case_id)
    if case is None or case.level != level or case.state not in (CaseState.CHECKING, CaseState.REVEALING):
        return
    late = [check for check in case.checks if _is_late(book, when, case, check)]
    gone = [msgspec.structs.replace(check, state=CheckState.GONE) for check in late]
    for check in late:
        if check.state is CheckState.SEALED and case_id not in book.docket.hindered:
            _unrevealed(book, when, check, f"nothing came within {book.rules.proofs.verify_s:g} s")
    if gone:
        case = _with(book, when, case, gone)
        _advance(book, when, case)
    if after := book.docket.cases.get(case_id):
        _wake(book, when, after)


def _unrevealed(book: Book, when: Instant, check: Check, why: str) -> None:
    assert check.key is not None
    unkept(book, when, check.node_id, check.key, f"the verdict was sealed and not revealed: {why}")


def _validators(book: Book) -> int:
    return book.rules.proofs.validators


def _with(book: Book, when: Instant, case: Case, changed: Sequence[Check]) -> Case:
    new = {check.task_id: check for check in changed}
    return cases.keep(book, when, case, checks=tuple(new.get(it.task_id, it) for it in case.checks))


def _of_level(case: Case) -> list[Check]:
    return [check for check in case.checks if check.level == case.level]


def _is_late(book: Book, when: Instant, case: Case, check: Check) -> bool:
    match check.state:
        case CheckState.ASKED:
            task = book.tasks[check.task_id]
            return task.progress.state in ENDED or task.due <= when.now
        case CheckState.SEALED:
            is_here = check.task_id in book.docket.arriving
            return case.state is CaseState.REVEALING and book.docket.due[case.case_id] <= when.now and not is_here
        case _:
            return False


def _wake(book: Book, when: Instant, case: Case) -> None:
    """Ring when the next one that is waited for will be late."""
    waits: list[float] = []
    for check in case.checks:
        if check.state is CheckState.ASKED:
            waits.append(max(book.tasks[check.task_id].due, when.now + 1))
        elif check.state is CheckState.SEALED and case.state is CaseState.REVEALING:
            waits.append(max(book.docket.due[case.case_id], when.now + 1))
    if waits and case.state is not CaseState.JUDGED:
        book.docket.alarms.set(min(waits), case.case_id, case.level)


# --------------------------------------------------------------------------- a case goes on


def _advance(book: Book, when: Instant, case: Case) -> None:
    """After one check of this level changed."""
    level = _of_level(case)
    alive = [check for check in level if check.state is not CheckState.GONE]
    waits_for = CheckState.SEALED if case.state is CaseState.REVEALING else CheckState.ASKED
    if any(check.state is waits_for for check in alive):
        return
    lacking = _validators(book) - len(alive)
    if lacking > 0 and _room(book, when, case).ask:
        _ask(book, when, case, min(lacking, available(book, when, case)))
    elif unrevealed := [check for check in alive if check.state is CheckState.SEALED]:
        _reveal(book, when, case, unrevealed)
    else:
        room = _room(book, when, case)
        _conclude(book, when, case, room if alive else room._replace(ask=False, escalate=False))


def _room(book: Book, when: Instant, case: Case) -> Room:
    rules, others = book.rules.proofs, available(book, when, case)
    return Room(
        ask=len(_of_level(case)) < 2 * rules.validators + 1 and others > 0,
        escalate=case.level < rules.escalations and others > 0,
        validators=rules.validators,
    )


def _reveal(book: Book, when: Instant, case: Case, checks: Sequence[Check]) -> None:
    verify_s = book.rules.proofs.verify_s
    book.docket.due[case.case_id], due_at = when.now + verify_s, when.at + int(verify_s)
    due = {check.task_id: msgspec.structs.replace(check, due_at=due_at) for check in checks}
    every = tuple(due.get(it.task_id, it) for it in case.checks)
    _wake(book, when, cases.move(book, when, case, CaseState.REVEALING, checks=every))


def _ask(book: Book, when: Instant, case: Case, count: int, level: int | None = None) -> None:
    """`count` more validators, at this level or the next."""
    level = case.level if level is None else level
    assert case.evidence is not None
    asked = VerifyInput(evidence=case.evidence, leaves=cases.leaves_at(case, level))
    names = [_name(case, number) for number in range(len(case.checks), len(case.checks) + count)]
    for name in names:
        _submit(book, when, name, asked, case.model_digest)
    every = (*case.checks, *(Check(task_id=name, level=level) for name in names))
    if case.state is CaseState.REVEALING:
        case = cases.move(book, when, case, CaseState.CHECKING, level=level, checks=every)
    else:
        case = cases.keep(book, when, case, level=level, checks=every)
    _wake(book, when, case)


def _name(case: Case, number: int) -> str:
    """Tells nothing of the case."""
    return "v-" + hashlib.sha256(f"{case.case_id}\0{case.root}\0{number}".encode()).hexdigest()[:24]


def _submit(book: Book, when: Instant, name: str, asked: VerifyInput, model_digest: str) -> None:
    spec = TaskSpec(task_id=name, model_digest=model_digest, input=asked, sampling=Sampling(seed=0), max_tokens=0)
    demand = Demand(
        number=book.number + 1,
        spec=spec,
        nonce=hashlib.sha256(name.encode()).hexdigest(),
        deadline_ms=int(book.rules.proofs.verify_s * 1000),
        submitted_at=when.at,
    )
    task = live(demand, Progress(), when)
    book.add(task)
    book.alarms.set(task.due, name, DEADLINE)
    book.write(SaveDemand(demand=demand))
    book.keep(task)


# --------------------------------------------------------------------------- a case ends


def _conclude(book: Book, when: Instant, case: Case, room: Room) -> None:
    opinions = list(_opinions(case))
    claimed = {it.leaf: it.sha256 for it in case.claimed}
    ruling = on_canary(opinions, claimed) if case.canary else decide(opinions, case.level, claimed, room)
    match ruling.next:
        case Next.ASK:
            _ask(book, when, case, 1)
        case Next.ESCALATE if case.whole:
            _ask(book, when, case, min(room.validators, available(book, when, case)), case.level + 1)
        case Next.ESCALATE:
            cases.challenge(book, when, case, level=case.level + 1, evidence=None)
        case Next.END:
            _end(book, when, case, ruling, opinions)


def _opinions(case: Case) -> Iterable[Opinion]:
    for check in case.checks:
        if check.state is CheckState.REVEALED and check.verdict is not None:
            yield Opinion(check.task_id, check.node_id, check.level, check.determinism, check.verdict)


def _end(book: Book, when: Instant, case: Case, ruling: Ruling, opinions: Iterable[Opinion]) -> None:
    assert ruling.judgement is not None
    blamed = {blame.opinion.task_id: blame for blame in ruling.blames}
    keys = {check.task_id: check.key for check in case.checks}
    for one in opinions:
        key, blame = keys[one.task_id], blamed.get(one.task_id)
        assert key is not None
        rules = book.rules.proofs
        stands = blame is None and (case.canary or one.stands(ruling.judgement))
        standing = after_verdict(standing_of(book, one.node_id), blame, rules, stands=stands)
        if stands:
            why, reward_micros = "its verdict stands", rules.verdict_reward_micros
            judge_verdict(book, when, standing, key, Judgement.PASSED, why, reward_micros=reward_micros)
        elif blame is None:
            judge_verdict(book, when, standing, key, Judgement.VOID, _UNSETTLED)
        else:
            judgement, cost = (Judgement.FAILED if blame.grave else Judgement.SUSPECT), _cost(rules, blame)
            judge_verdict(book, when, standing, key, judgement, blame.why, slash_micros=cost)
    _learn(book, case, ruling.judgement)
    judge(book, when, case, ruling.judgement, ruling.detail or _PLAIN[ruling.judgement], ruling.agreed)


def _learn(book: Book, case: Case, judgement: Judgement) -> None:
    """Whether such work of the node's can be checked at all: it is paid by that."""
    if case.canary:
        return
    if judgement is Judgement.PASSED:
        learn(book, case.node_id, case.work, checked=True)
    elif judgement is Judgement.VOID and _uncalibrated(book, case):
        learn(book, case.node_id, case.work, checked=False)


def _uncalibrated(book: Book, case: Case) -> bool:
    stories = (book.tasks[check.task_id].progress.story for check in case.checks)
    return any(episode.reason is Reason.UNCALIBRATED for story in stories for episode in story)


_PLAIN = {
    Judgement.PASSED: "validators repeated it",
    Judgement.VOID: "no validator was there in time",
    Judgement.SUSPECT: "validators doubt it",
    Judgement.FAILED: "validators proved that it is wrong",
}


_UNSETTLED = "the case did not end as it says, and nothing is held against it"


def _cost(rules: ProofRules, blame: Blame) -> int:
    return rules.verdict_slash_micros if blame.grave else 0
