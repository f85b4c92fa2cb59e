"""What a challenged node answers: taken in, looked at, and what follows."""

from __future__ import annotations

from typing import Final

from agent.core.checks.verdict import Verdict
from agent.core.model import Blob
from agent.core.payloads import Judgement
from agent.core.text import plain
from agent.core.wire import Ack, Opening, OpeningRefusal, RefusalCode
from agent.devnet.core.book import Book
from agent.devnet.core.effects import Decision, Examine
from agent.devnet.core.granting import conclude
from agent.devnet.core.proofs import cases, validating
from agent.devnet.core.proofs.docket import is_unexamined
from agent.devnet.core.proofs.judging import judge
from agent.devnet.core.proofs.level_two import Found
from agent.devnet.core.proofs.records import Case, CaseState
from agent.devnet.core.proofs.standing import learn
from agent.devnet.core.rules import Instant, ProofRules, Refused, bad_message

_WHY: Final = {
    OpeningRefusal.NOT_DRAWN: "the node says that it was not drawn; the promise and the beacon say that it was",
    OpeningRefusal.UNKNOWN: "the node says that it knows no such result",
    OpeningRefusal.GONE: "the node has deleted its transcript",
    OpeningRefusal.DAMAGED: "the node cannot read its transcript",
}


def owed(book: Book, node_id: str, message: Opening) -> Case | None:
    """The case that the message answers; None when the node has answered it before. Raises Refused."""
    if (message.blob is None) is (message.refusal is None):
        raise bad_message("an opening has either leaves or a refusal")
    if case := book.docket.owed_by(node_id, message.challenge_id):
        return case
    if _answered(book, node_id, message.challenge_id):
        return None
    raise Refused(RefusalCode.NOT_FOUND, "this node was not asked to open anything by this name")


def take(book: Book, when: Instant, node_id: str, message: Opening, content: bytes = b"") -> Decision[Ack]:
    """The node opened, or says why it does not. What it opened lies here as an exhibit already; of a verdict that is
    revealed it is `content`. Raises Refused.
    """
    case = owed(book, node_id, message)
    if case is not None and case.state is CaseState.REVEALING:
        validating.revealed(book, when, case, message, content)
        return conclude(book, when, Ack())
    if case is None or case.state is not CaseState.CHALLENGED:
        return conclude(book, when, Ack())
    if message.blob is None:
        assert message.refusal is not None
        detail = f"{_WHY[message.refusal]}: {message.detail}" if message.detail else _WHY[message.refusal]
        judge(book, when, case, Judgement.UNOPENED, plain(detail, 500))
    elif message.blob.bytes > cases.MAX_OPENING_BYTES:
        detail = f"the opening has {message.blob.bytes} bytes; at most {cases.MAX_OPENING_BYTES}"
        judge(book, when, case, Judgement.UNOPENED, detail)
    else:
        cases.move(book, when, case, CaseState.CHECKING, opening=message.blob)
        book.tell(Examine(case_id=case.case_id))
    return conclude(book, when, Ack())


def goes_on(found: Found, rules: ProofRules) -> bool:
    """Whether validators are to look at it, too."""
    return not found.fault and found.verdict is not Verdict.FAIL and found.repeatable and rules.validators > 0


def examined(book: Book, when: Instant, case_id: str, found: Found, evidence: Blob | None) -> Decision[None]:
    """Somebody looked at what was opened. `evidence` is what validators would read, where it was written."""
    case = book.docket.cases.get(case_id)
    if case is None or not is_unexamined(case):
        return book.decide(None)
    if found.fault:
        judge(book, when, case, Judgement.UNOPENED, f"not the leaves that were committed to: {found.fault}")
    elif found.verdict is Verdict.FAIL:
        judge(book, when, case, Judgement.FAILED, found.said())
    elif evidence is not None:
        case = cases.keep(book, when, case, evidence=evidence, imprints=found.imprints)
        validating.begin(book, when, case, found.figures, found.determinism, found.known)
    elif goes_on(found, book.rules.proofs):
        # Else whoever makes its answers long would be paid for what nobody checks.
        learn(book, case.node_id, case.work, checked=False)
        judge(book, when, case, Judgement.VOID, "answer and opening together are more than a validator can fetch")
    elif case.level:
        judge(book, when, case, Judgement.VOID, "validators doubted it, and nobody could look at more of it")
    else:
        judgement = Judgement.PASSED if found.verdict is Verdict.PASS else Judgement.SUSPECT
        detail = "; ".join(filter(None, (found.said(), "no model was run")))
        # Where no validators are asked at all, the draws are all that there is, of an engine that has any.
        shown = found.repeatable and not book.rules.proofs.validators
        judge(book, when, case, judgement, detail, shown=shown)
    return conclude(book, when, None)


def unexaminable(book: Book, when: Instant, case_id: str, why: str) -> Decision[None]:
    """Nobody could look at it, by no fault of the node's."""
    case = book.docket.cases.get(case_id)
    if case and is_unexamined(case):
        judge(book, when, case, Judgement.VOID, why)
    return conclude(book, when, None)


def overdue(book: Book, when: Instant, case_id: str, level: int) -> None:
    """The time to open is over."""
    case = book.docket.cases.get(case_id)
    if case and case.state is CaseState.CHALLENGED and case.level == level:
        if case.drawn_id() in book.docket.arriving:
            book.docket.alarms.set(when.now + 1, case_id, level)
            return
        if case_id in book.docket.hindered:
            judge(book, when, case, Judgement.VOID, "what it opened could not be kept here")
            return
        detail = f"it did not open its leaves within {book.rules.proofs.answer_s:g} s"
        judge(book, when, case, Judgement.UNOPENED, detail)


def hindered(book: Book, node_id: str) -> None:
    """Something that this node sent could not be kept: it may have been what it was asked to open."""
    book.docket.hindered.update(case.case_id for _, case in book.docket.owed(node_id))


def _answered(book: Book, node_id: str, challenge_id: str) -> bool:
    """Whether a challenge by this name was this node's and is closed. Before its beacon is known none has been."""
    task = book.tasks.get(challenge_id.partition("/")[0])
    receipts = task.receipts.values() if task else ()
    return any(it.node_id == node_id and not (it.beacon and book.docket.is_open(it.beacon)) for it in receipts)
