"""Validators in the pure core: they pull checks, seal what they say, and reveal it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from agent.core import wire
from agent.core.fingerprint import Pool
from agent.core.model import Outcome, Reason, TaskKind, VerifyInput
from agent.core.payloads import RecomputedLeaf, VerdictBody
from agent.core.proof.commitment import commit
from agent.core.proof.opening import open_leaves
from agent.core.proof.sealing import output_of, sealed
from agent.core.proof.transcript import Transcript
from agent.core.proof.verdict import verdict_header
from agent.devnet.core.proofs import opening
from agent.devnet.core.proofs.level_two import Found
from agent.devnet.core.rules import ProofRules
from tests import builders
from tests.devnet.proofs.challenged import Court, Opener, blob_of
from tests.devnet.world import Actor, sha256

F, X = "F-0011223344556677", "X-8899aabbccddeeff"
EVIDENCE = blob_of(b"evidence")
RULES = ProofRules(
    rate_micros=1_000_000, epoch_s=60.0, answer_s=600.0, verify_s=100.0, validators=2, canary_micros=0, escalations=2
)


def pools(determinism: str = F, slots: int = 4) -> tuple[Pool, ...]:
    kinds = (TaskKind.CHAT, TaskKind.COMPLETION, TaskKind.VERIFY)
    return (builders.pool(slots=slots, determinism=determinism, kinds=kinds),)


def own_figures(who: str, leaf: int) -> str:
    """What somebody computes of a leaf: those of one class the same."""
    return hashlib.sha256(f"{who}/{leaf}".encode()).hexdigest()


class Sealed(NamedTuple):
    """A verdict, and the transcript that it is in."""

    offer: wire.OfferBody
    transcript: Transcript


class Validator(Actor):
    """Checks, and says what it is told to say: honest by default."""

    def __init__(self, seed: int, determinism: str = F) -> None:
        super().__init__(seed)
        self.determinism = determinism
        self.sealed: dict[str, Sealed] = {}

    def verdict(self, offer: wire.OfferBody, **changes: Any) -> VerdictBody:
        asked = offer.task.input
        assert isinstance(asked, VerifyInput)
        who = self.determinism if self.determinism.startswith("X-") else self.node_id
        fields: dict[str, Any] = {
            "evidence": asked.evidence.sha256,
            "verdict": "pass",
            "certain": False,
            "reasons": (),
            "thresholds": "1",
            "determinism": self.determinism,
            "exact": False,
            "recomputed": tuple(RecomputedLeaf(leaf=leaf, sha256=own_figures(who, leaf)) for leaf in asked.leaves),
            "copied": 0,
            "salt": sha256(offer.task.task_id + self.node_id),
        }
        return VerdictBody(**{**fields, **changes})

    def seal(self, offer: wire.OfferBody, body: VerdictBody) -> wire.Delivery:
        transcript = sealed(body)
        self.sealed[offer.task.task_id] = Sealed(offer, transcript)
        output = output_of(transcript.root)
        pool = builders.pool(determinism=self.determinism)
        header = verdict_header(offer, pool, node_key=self.keys.public, output_sha256=sha256(output))
        signed = self.signed(
            offer,
            outcome=Outcome.SUCCEEDED,
            reason=Reason.COMPLETED,
            output_sha256=sha256(output),
            output_bytes=len(output),
            commitment=commit(header, transcript),
        )
        return wire.Delivery(signed=signed, output=output)

    def leaf(self, task_id: str) -> bytes:
        return open_leaves(self.sealed[task_id].transcript.leaves)


Says = Callable[[Validator, wire.OfferBody], VerdictBody]


class Bench(Court):
    """A court with validators."""

    def __init__(self, proofs: ProofRules = RULES, **rules: Any) -> None:
        super().__init__(proofs, **rules)

    def validator(self, seed: int, determinism: str = F) -> Validator:
        actor = self.enrolled(seed)
        validator = Validator(seed, determinism)
        assert validator.node_id == actor.node_id
        slots = 1 if determinism.startswith("X-") else 4
        self.hello(actor, fingerprint=builders.fingerprint(pools=pools(determinism, slots)))
        return validator

    def hear_all(self) -> None:
        """Everybody beats."""
        for node in self.book.nodes.values():
            node.heard = self.now

    def checking(
        self,
        node: Opener,
        determinism: str = F,
        figures: tuple[RecomputedLeaf, ...] = (),
        known: tuple[int, ...] = (),
        imprints: int = 0,
    ) -> str:
        """A case of this node's whose leaves are opened and good: validators are asked."""
        challenge = self.challenged(node)
        self.open(node, challenge)
        case_id = self.case_of(challenge).case_id
        found = Found(repeatable=True, figures=figures, determinism=determinism, known=known, imprints=imprints)
        self.take(opening.examined(self.book, self.when, case_id, found, EVIDENCE))
        return case_id

    def check(self, validator: Validator, says: Says = Validator.verdict) -> list[wire.ReceiptBody]:
        """Whatever it may check now, it does."""
        receipts = []
        for offer in self.pull(validator, count=4):
            assert offer.task.kind is TaskKind.VERIFY
            receipts.append(self.deliver(validator, validator.seal(offer, says(validator, offer))))
        return receipts

    def reveal(self, validator: Validator, content: bytes | None = None) -> int:
        """What it is asked to reveal; returns how much that was."""
        asked = [it for it in self.beat(validator).challenges if it.kind is wire.ChallengeKind.REVEAL]
        for challenge in asked:
            shown = validator.leaf(challenge.key.task_id) if content is None else content
            message = wire.Opening(challenge_id=challenge.challenge_id, blob=blob_of(shown))
            self.take(opening.take(self.book, self.when, validator.node_id, message, shown))
        return len(asked)

    def judgements(self, node: Actor) -> list[wire.JudgementBody]:
        return [
            msgspec.json.decode(it.signed.payload, type=wire.JudgementBody)
            for it in sorted(self.judged(node), key=lambda it: it.serial)
        ]


def says(**changes: Any) -> Says:
    """The same verdict whatever was shown."""
    return lambda validator, offer: validator.verdict(offer, **changes)
