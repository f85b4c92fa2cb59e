"""The coordinator's core with real keys and a hand-set clock, and nodes that sign for themselves."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable
from typing import Any

import msgspec

from agent.core import wire
from agent.core.enrolment import request_digest
from agent.core.model import (
    ChatInput,
    Commitment,
    FinishReason,
    LeaseKey,
    Message,
    Outcome,
    Reason,
    Signed,
    TaskInput,
    Usage,
)
from agent.core.proof.commitment import commit
from agent.core.proof.header import header_of
from agent.core.proof.signed import open_signed, seal, session_digest
from agent.core.proof.transcript import Transcript, TranscriptBuilder
from agent.devnet.core import asking, leasing, presence, settling
from agent.devnet.core.book import Book
from agent.devnet.core.delivery import Sizes
from agent.devnet.core.effects import Decision, DropCase, Granted, PushTo, SaveCase, Write
from agent.devnet.core.proofs.records import Case, CaseState
from agent.devnet.core.records import TaskState
from agent.devnet.core.restoring import Remembered, restore
from agent.devnet.core.rules import Instant, Rules
from agent.devnet.keys import KeyPair, verify
from agent.ports import Piece
from tests import builders

OTHER_MODEL = "sha256:" + "cd" * 32
POOLS = (builders.pool(slots=4), builders.pool("other", slots=4, model_digest=OTHER_MODEL))


def asked(text: str = "Name a colour.", *, model: str = builders.MODEL, **changes: Any) -> asking.TaskAsked:
    """A small chat task as a requester asks for it."""
    task_input: TaskInput = ChatInput(messages=(Message(role="user", content=text),))
    return asking.TaskAsked(**{"model_digest": model, "input": task_input, "max_tokens": 16, **changes})


class Actor:
    """A node's key, and all that it signs."""

    def __init__(self, seed: int = 1) -> None:
        self.keys = KeyPair(hashlib.sha256(f"node {seed}".encode()).digest())
        self.node_id = presence.node_id_of(self.keys.public)

    def enrolment(self, token: str) -> wire.EnrolRequest:
        signature = self.keys.sign(request_digest(token, self.keys.public))
        return wire.EnrolRequest(token=token, node_key=self.keys.public, signature=signature, name="box")

    def hello(self, nonce: str, coordinator_key: str, **changes: Any) -> wire.Hello:
        signature = self.keys.sign(session_digest(nonce, self.node_id, coordinator_key))
        fields: dict[str, Any] = {
            "node_id": self.node_id,
            "nonce": nonce,
            "signature": signature,
            "fingerprint": builders.fingerprint(pools=POOLS),
        }
        return wire.Hello(**{**fields, **changes})

    def commitment(
        self, offer: wire.OfferBody, output: str, usage: Usage, transcript: Transcript | None = None
    ) -> Commitment:
        transcript = transcript or transcript_of(usage.completion_tokens)
        header = header_of(
            offer,
            builders.pool(),
            node_key=self.keys.public,
            n_probs=40,
            finish=FinishReason.STOP,
            usage=usage,
            request_sha256="11" * 32,
            prompt_sha256="",
            proof_kind=transcript.proof_kind,
            output_sha256=sha256(output),
        )
        return commit(header, transcript)

    def success(
        self, offer: wire.OfferBody, output: str = "Blue.", *, blob: bool = False, **changes: Any
    ) -> wire.Delivery:
        """A result that everything agrees with, but for `changes` of its body."""
        usage = changes.pop("usage", Usage(prompt_tokens=10, completion_tokens=3))
        fields: dict[str, Any] = {
            "outcome": Outcome.SUCCEEDED,
            "reason": Reason.COMPLETED,
            "output_sha256": sha256(output),
            "output_bytes": len(output.encode()),
            "usage": usage,
            "commitment": self.commitment(offer, output, usage),
        }
        signed = self.signed(offer, **{**fields, **changes})
        return wire.Delivery(signed=signed, output=None if blob else output, blob=sha256(output) if blob else None)

    def ending(self, offer: wire.OfferBody, outcome: Outcome, reason: Reason, **changes: Any) -> wire.Delivery:
        """A result without an output."""
        return wire.Delivery(signed=self.signed(offer, outcome=outcome, reason=reason, **changes))

    def signed(self, offer: wire.OfferBody, **changes: Any) -> Signed:
        fields: dict[str, Any] = {
            "node_id": self.node_id,
            "task_id": offer.task.task_id,
            "attempt": offer.attempt,
            "fence": offer.fence,
            "idem_key": offer.idem_key,
        }
        body = wire.ResultBody(**{**fields, **changes})
        return seal(wire.Role.RESULT, wire.encode(body), self.keys.public, self.keys.sign)


class World:
    """A book, the time, and everything that was decided."""

    def __init__(self, **rules: Any) -> None:
        self.keys = KeyPair(b"\x07" * 32)
        self.book = Book(Rules(**rules), self.keys.public, self.keys.sign, verify)
        self.now = 1000.0
        self.wall = 1_700_000_000
        """Unix seconds at which `now` would be 0."""
        self.writes: list[Write] = []
        self.cases: dict[str, Case] = {}
        """As the store has them, judged ones, too."""
        self.granted: dict[int, wire.Offers] = {}
        self.pushed: list[PushTo] = []
        self._chance = itertools.count(1)

    @property
    def when(self) -> Instant:
        return Instant(self.now, self.wall + int(self.now))

    def take(self, decision: Decision[Any]) -> Any:
        self.writes += decision.writes
        keep_cases(self.cases, decision.writes)
        for notice in decision.notices:
            if isinstance(notice, Granted):
                assert notice.pull_id not in self.granted
                self.granted[notice.pull_id] = notice.offers
            elif isinstance(notice, PushTo):
                self.pushed.append(notice)
        return decision.reply

    def enrolled(self, seed: int = 1) -> Actor:
        """A node that has enrolled and said hello."""
        actor = Actor(seed)
        token = f"ga1.{'s' * 20}{next(self._chance)}.{self.keys.public}"
        self.take(presence.issue_token(self.book, token))
        self.take(presence.enrol(self.book, self.when, actor.enrolment(token)))
        self.hello(actor)
        return actor

    def hello(self, actor: Actor, **changes: Any) -> tuple[LeaseKey, ...]:
        nonce = f"{next(self._chance):064x}"
        return self.take(presence.hello(self.book, self.when, nonce, actor.hello(nonce, self.keys.public, **changes)))

    def submit(self, **changes: Any) -> str:
        number = next(self._chance)
        return self.take(asking.submit(self.book, self.when, asked(**changes), f"t-{number}", f"{number:064x}"))

    def pull(
        self, actor: Actor, count: int = 1, *, model: str = builders.MODEL, wait_s: float = 0.0
    ) -> list[wire.OfferBody]:
        return self.opened(self.ask(actor, (wire.Credit(pool="main", model_digest=model, count=count),), wait_s)[1])

    def ask(
        self, actor: Actor, credits: tuple[wire.Credit, ...], wait_s: float = 0.0
    ) -> tuple[int, wire.Offers | None]:
        pull_id = next(self._chance)
        message = wire.Pull(credits=credits, wait_s=wait_s)
        return pull_id, self.take(leasing.pull(self.book, self.when, actor.node_id, pull_id, message))

    def park(self, actor: Actor, count: int = 1, wait_s: float = 25.0) -> int:
        """A pull that finds nothing."""
        pull_id, offers = self.ask(actor, (wire.Credit(pool="main", model_digest=builders.MODEL, count=count),), wait_s)
        assert offers is None
        return pull_id

    def opened(self, offers: wire.Offers | None) -> list[wire.OfferBody]:
        """What a node reads of a reply."""
        payloads = [
            open_signed(wire.Role.OFFER, it, self.keys.public, verify) for it in (offers or wire.Offers()).offers
        ]
        return [msgspec.json.decode(payload, type=wire.OfferBody) for payload in payloads]

    def start(self, actor: Actor, key: LeaseKey) -> wire.Confirmed:
        (lease,) = self.take(leasing.start(self.book, self.when, actor.node_id, (key,))).leases
        return lease

    def decline(self, actor: Actor, key: LeaseKey, reason: Reason = Reason.UNKNOWN_MODEL) -> None:
        self.take(leasing.decline(self.book, self.when, actor.node_id, wire.Decline(key=key, reason=reason)))

    def beat(self, actor: Actor, *held: LeaseKey, **changes: Any) -> wire.BeatAck:
        return self.take(presence.beat(self.book, self.when, actor.node_id, wire.Beat(held=held, **changes)))

    def deliver(self, actor: Actor, delivery: wire.Delivery, blob_bytes: int | None = None) -> wire.ReceiptBody:
        (answer,) = self.deliver_all(actor, (delivery,), Sizes(blob_bytes))
        assert isinstance(answer, wire.ReceiptBody), answer
        return answer

    def deliver_all(
        self, actor: Actor, deliveries: tuple[wire.Delivery, ...], *sizes: Sizes
    ) -> list[wire.ReceiptBody | wire.Refusal]:
        """What one message brings, an answer each."""
        message = wire.Result(deliveries=deliveries)
        sizes = sizes or (Sizes(),) * len(deliveries)
        receipt = self.take(settling.deliver(self.book, self.when, actor.node_id, message, sizes))
        return [self._read(answer) for answer in receipt.answers]

    def _read(self, answer: wire.Answer) -> wire.ReceiptBody | wire.Refusal:
        if answer.signed is None:
            assert answer.refusal is not None
            return answer.refusal
        payload = open_signed(wire.Role.RECEIPT, answer.signed, self.keys.public, verify)
        return msgspec.json.decode(payload, type=wire.ReceiptBody)

    def cancel(self, task_id: str) -> TaskState:
        return self.take(asking.cancel(self.book, self.when, task_id))

    def sweep(self, seconds: float = 0.0) -> None:
        self.now += seconds
        self.take(leasing.sweep(self.book, self.when))

    def state(self, task_id: str) -> TaskState:
        return self.book.tasks[task_id].progress.state

    def restarted(self) -> World:
        """A new process that has nothing but what was written, with a monotonic clock of its own.

        Its nodes have told again what they are; what they hold, each test's own hello tells.
        """
        world = World()
        world.book.rules = self.book.rules
        world.now = 5.0
        world.wall = self.wall + int(self.now) - 5
        world._chance = self._chance
        restore(world.book, world.when, remembered(self.writes))
        world.writes, world.cases = list(self.writes), dict(self.cases)
        for node in world.book.nodes.values():
            node.show(builders.fingerprint(pools=POOLS))
        return world


def remembered(writes: list[Write]) -> Remembered:
    """What a store gives back after these writes."""
    from agent.devnet.core import effects as e

    demands = tuple(it.demand for it in writes if isinstance(it, e.SaveDemand))
    nodes = {it.record.node_id: it.record for it in writes if isinstance(it, e.SaveNode)}
    tokens = {it.token.sha256: it.token for it in writes if isinstance(it, e.SaveToken)}
    moves = [it for it in writes if isinstance(it, e.SaveProgress)]
    return Remembered(
        fence=moves[-1].fence if moves else 0,
        demands=demands,
        progress={it.task_id: it.progress for it in moves},
        receipts=tuple(it.settlement.receipt_body for it in writes if isinstance(it, e.SaveSettlement)),
        nodes=tuple(nodes.values()),
        tokens=tuple(tokens.values()),
        **_docket(writes),
    )


def _docket(writes: list[Write]) -> dict[str, Any]:
    from agent.devnet.core import effects as e

    cases: dict[str, Case] = {}
    keep_cases(cases, writes)
    epochs = [it.epoch for it in writes if isinstance(it, e.SaveEpoch)]
    standings = {it.standing.node_id: it.standing for it in writes if isinstance(it, e.SaveStanding)}
    judged = [it.judged for it in writes if isinstance(it, e.SaveJudged)]
    return {
        "epoch": epochs[-1] if epochs else None,
        "cases": tuple(it for it in cases.values() if it.state is not CaseState.JUDGED),
        "standings": tuple(standings.values()),
        "judged": tuple(sorted(judged, key=lambda it: (it.node_id, it.serial))),
    }


def keep_cases(cases: dict[str, Case], writes: Iterable[Write]) -> None:
    """What a store has of cases after these writes."""
    for it in writes:
        if isinstance(it, SaveCase):
            cases[it.case.case_id] = it.case
        elif isinstance(it, DropCase):
            del cases[it.case_id]


def transcript_of(tokens: int) -> Transcript:
    """So many tokens with ids."""
    builder = TranscriptBuilder(0)
    for number in range(tokens):
        builder.add(Piece(text="t", token_id=number))
    return builder.finish()


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
