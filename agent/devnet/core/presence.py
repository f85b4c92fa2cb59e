"""Nodes: how they join, come back, stay in touch and leave."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

import msgspec

from agent.core.enrolment import parse_token, reply_digest, request_digest
from agent.core.errors import IdentityError
from agent.core.intake import NodeState
from agent.core.model import LeaseKey, Outcome, Reason
from agent.core.proof.signed import session_digest, verifies
from agent.core.text import plain
from agent.core.wire import (
    PROTO_MAX,
    PROTO_MIN,
    Ack,
    Beat,
    BeatAck,
    Bye,
    Directed,
    Directive,
    EnrolReply,
    EnrolRequest,
    Hello,
    Offers,
    RefusalCode,
)
from agent.devnet.core.book import Book
from agent.devnet.core.effects import Decision, Granted, PushTo, SaveNode, SaveToken
from agent.devnet.core.granting import conclude
from agent.devnet.core.leasing import avoid_after_return, renew
from agent.devnet.core.proofs.cases import challenges_for
from agent.devnet.core.proofs.judging import judged_since
from agent.devnet.core.records import Node, NodeRecord, Task, TaskState, UsedToken
from agent.devnet.core.rules import Instant, Refused, bad_message

_KEY = re.compile(r"[0-9a-f]{64}")
REFINGERPRINT = "refingerprint"
DIRECTIVES = frozenset({"drain", "pause", "resume", REFINGERPRINT})
TELLS = 8
"""Beats whose answers repeat a directive: not all of them get lost, and who has not heeded it by then cannot."""
TAKES_NOTHING = frozenset({NodeState.PAUSED.value, NodeState.DRAINING.value, NodeState.DRAINED.value})
"""States of a node, as its beats tell them, in which a pull that is still parked asks for nothing."""


def token_sha256(token: str) -> str:
    """All that is kept of a token. 256 random bits need no slow hash."""
    return hashlib.sha256(token.encode()).hexdigest()


def issue_token(book: Book, token: str) -> Decision[None]:
    """A new one-time enrolment token, made by the caller from enough chance."""
    _keep_token(book, UsedToken(sha256=token_sha256(token)))
    return book.decide(None)


def enrol(book: Book, when: Instant, request: EnrolRequest) -> Decision[EnrolReply]:
    """Trade a token for a node id, once; the same key may ask again when it did not hear the reply. Raises Refused."""
    _check_token_is_ours(book, request.token)
    if not _KEY.fullmatch(request.node_key):
        raise bad_message("node_key is not an Ed25519 public key of 64 lower-case hex digits")
    claim = request_digest(request.token, request.node_key)
    if not verifies(book.verify, request.node_key, request.signature, claim):
        raise Refused(RefusalCode.BAD_SIGNATURE, "the enrolment is not signed by node_key over token and node_key")
    # The lookup is by digest: what its timing could tell of a guess helps nobody to find the 256 bits before it.
    token = book.tokens.get(token_sha256(request.token))
    if token is None:
        raise Refused(RefusalCode.BAD_TOKEN, "this token was never issued here; ask for a new one")
    node_id = node_id_of(request.node_key)
    if token.node_id not in ("", node_id):
        raise Refused(RefusalCode.BAD_TOKEN, "this token has enrolled another node; every node needs its own")
    if not token.node_id:
        _keep_token(book, UsedToken(sha256=token.sha256, node_id=node_id))
    if node_id not in book.nodes:
        record = NodeRecord(
            node_id=node_id, node_key=request.node_key, name=plain(request.name, 100), enrolled_at=when.at
        )
        book.nodes[node_id] = Node(record)
        book.write(SaveNode(record=record))
    vouched = book.sign(reply_digest(request.token, request.node_key, node_id))
    return book.decide(EnrolReply(node_id=node_id, coordinator_key=book.key, signature=vouched))


def node_id_of(node_key: str) -> str:
    """A node's id follows from its key, so that a key has one id whichever token enrolled it."""
    return "n-" + hashlib.sha256(bytes.fromhex(node_key)).hexdigest()[:20]


def hello(book: Book, when: Instant, nonce: str, message: Hello) -> Decision[tuple[LeaseKey, ...]]:
    """Check who speaks, then settle what it holds: the reply is what is still wanted of `running`. Raises Refused.

    `nonce` is the one that this connection was given. Leases in neither `running` nor `unsent` are free at once.
    """
    node = book.node(message.node_id)
    signed = session_digest(nonce, message.node_id, book.key)
    if message.nonce != nonce or not verifies(book.verify, node.record.node_key, message.signature, signed):
        raise Refused(
            RefusalCode.BAD_SIGNATURE,
            "the hello is not signed by the enrolled key over this nonce, this node id and this coordinator's key",
        )
    low, high = message.proto
    if low > PROTO_MAX or high < PROTO_MIN:
        spoken = f"{PROTO_MIN} to {PROTO_MAX}"
        raise Refused(RefusalCode.UNSUPPORTED_VERSION, f"the node speaks protocol {low} to {high}; here it is {spoken}")
    _answer_parked(book, message.node_id)
    node.heard = when.now
    node.show(message.fingerprint)
    kept = {*message.running, *message.unsent}
    for task in _leased_to(book, node):
        if task.progress.lease is None or task.progress.lease.key not in kept:
            _give_back(book, when, task, node, Reason.LEASE_LOST, "the node came back without it")
    _renew_all(book, when, message.node_id, message.unsent)
    return conclude(book, when, _renew_all(book, when, message.node_id, message.running))


def beat(book: Book, when: Instant, node_id: str, message: Beat) -> Decision[BeatAck]:
    """Renew what is held; say what is lost or cancelled; hand over directives."""
    node = book.node(node_id)
    node.heard, node.state, node.reason, node.load = (
        when.now,
        plain(message.state, 50),
        plain(message.reason, 200),
        message.load,
    )
    if message.fingerprint is not None:
        node.show(message.fingerprint)
        book.stirred.add(node_id)
    if message.state in TAKES_NOTHING:
        _answer_parked(book, node_id)  # so that a node that drains need not wait for it
    renewed = _renew_all(book, when, node_id, message.held)
    gone = [key for key in message.held if key not in renewed]
    cancelled = tuple(key for key in gone if _was_cancelled(book, node_id, key))
    directives = _directives_for(book, node, message)
    reply = BeatAck(
        lease_ms=int(book.rules.lease_s * 1000),
        beat_s=book.rules.beat_s,
        renewed=renewed,
        lost=tuple(key for key in gone if key not in cancelled),
        cancelled=cancelled,
        directives=directives,
        challenges=challenges_for(book, when, node_id),
        judged=tuple(it.signed for it in judged_since(book, node_id, message.judged)),
    )
    return conclude(book, when, reply)


def bye(book: Book, when: Instant, node_id: str, message: Bye) -> Decision[Ack]:
    """The node leaves: what it holds may be given out again."""
    node = book.node(node_id)
    _answer_parked(book, node_id)
    for task in _leased_to(book, node):
        detail = f"the node left: {message.reason}" if message.reason else "the node left"
        _give_back(book, when, task, node, Reason.ABORTED, detail)
    if node.told:
        _keep_directives(book, node, ())  # not for whoever comes back: it has drained, and left
        node.told = 0
    node.heard, node.state = None, "gone"
    return conclude(book, when, Ack())


def direct(book: Book, node_id: str, directive: Directive, *, streaming: bool) -> Decision[None]:
    """Ask something of a node: with the next beats, until one shows that it heeds it, and pushed when it has a stream.

    Of drain, pause and resume the latest counts. Raises Refused.
    """
    node = book.node(node_id)
    if directive.kind not in DIRECTIVES:
        raise bad_message(f"directive {directive.kind!r}; expected one of {', '.join(sorted(DIRECTIVES))}")
    if streaming:
        book.tell(PushTo(node_id=node_id, push=Directed(directive=directive)))
    refingerprints = directive.kind == REFINGERPRINT
    others = tuple(it for it in node.record.directives if (it.kind == REFINGERPRINT) is not refingerprints)
    _keep_directives(book, node, (*others, directive))
    node.told = 0
    return book.decide(None)


def _check_token_is_ours(book: Book, text: str) -> None:
    try:
        token = parse_token(text)
    except IdentityError as error:
        raise Refused(RefusalCode.BAD_TOKEN, error.message) from error
    if token.coordinator_key != book.key:
        raise Refused(RefusalCode.BAD_TOKEN, "this token is for a coordinator with another key")


def _keep_token(book: Book, token: UsedToken) -> None:
    book.tokens[token.sha256] = token
    book.write(SaveToken(token=token))


def _keep_directives(book: Book, node: Node, directives: tuple[Directive, ...]) -> None:
    node.record = msgspec.structs.replace(node.record, directives=directives)
    book.write(SaveNode(record=node.record))


def _directives_for(book: Book, node: Node, message: Beat) -> tuple[Directive, ...]:
    """What the answer to a beat asks for: all that this beat does not show to be heeded."""
    known = node.record.directives
    open_ = tuple(it for it in known if not _heeded(it, node, message)) if node.told < TELLS else ()
    if open_ != known:
        _keep_directives(book, node, open_)
    node.told = node.told + 1 if open_ else 0
    return open_


def _heeded(directive: Directive, node: Node, message: Beat) -> bool:
    """A node that its owner has paused shows the state before it was asked: so it is asked once at least."""
    match directive.kind:
        case "drain":
            return node.told > 0 and message.state in (NodeState.DRAINING, NodeState.DRAINED)
        case "pause":
            return node.told > 0 and message.state in TAKES_NOTHING
        case "resume":
            return message.state not in TAKES_NOTHING | {""}
        case _:
            return node.told > 0 and message.fingerprint is not None


def _answer_parked(book: Book, node_id: str) -> None:
    for parked in book.waiting.of(node_id):
        book.waiting.remove(parked.pull_id)
        book.tell(Granted(pull_id=parked.pull_id, offers=Offers()))


def _leased_to(book: Book, node: Node) -> list[Task]:
    return [book.tasks[task_id] for task_id in node.leases]


def _give_back(book: Book, when: Instant, task: Task, node: Node, reason: Reason, detail: str) -> None:
    avoid_after_return(book, when, task, node.record.node_id, passing=True)
    book.end_lease(task, when, Outcome.HANDED_BACK, reason, detail, counts=False)


def _renew_all(book: Book, when: Instant, node_id: str, keys: Iterable[LeaseKey]) -> tuple[LeaseKey, ...]:
    renewed = []
    for key in keys:
        if task := book.held_by(node_id, key):
            renew(book, when, task)
            renewed.append(key)
    return tuple(renewed)


def _was_cancelled(book: Book, node_id: str, key: LeaseKey) -> bool:
    task = book.tasks.get(key.task_id)
    lease = task.progress.lease if task else None
    return bool(
        task and task.progress.state is TaskState.CANCELLED and lease and lease.key == key and lease.node_id == node_id
    )
