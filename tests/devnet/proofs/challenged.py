"""Nodes whose transcripts can be opened, in a world in which every result is challenged."""

from __future__ import annotations

import hashlib
import random
from typing import Any

from agent.core import wire
from agent.core.checks.claims import Sampler
from agent.core.checks.verdict import Verdict
from agent.core.model import Blob, FinishReason, Usage
from agent.core.proof.commitment import commit
from agent.core.proof.header import header_of
from agent.core.proof.opening import open_leaves
from agent.core.proof.transcript import Transcript, TranscriptBuilder
from agent.devnet.core.effects import Examine, SaveJudged, SaveSettlement
from agent.devnet.core.proofs import opening, sweeping
from agent.devnet.core.proofs.level_two import Found
from agent.devnet.core.proofs.records import Case, CaseState, Judged, Standing
from agent.devnet.core.proofs.standing import standing_of
from agent.devnet.core.records import Settlement
from agent.devnet.core.rules import ProofRules
from agent.ports import Piece
from tests import builders
from tests.core.checks.engine import generate
from tests.devnet.world import Actor, World, sha256

N_PROBS = 40
ALWAYS = ProofRules(rate_micros=1_000_000, epoch_s=60.0, answer_s=600.0, validators=0)
"""Every result is challenged, and judged without a model."""
GOOD = Found(repeatable=True)
NO_CLASS = Found(repeatable=False)
WRONG_DRAW = Found(verdict=Verdict.FAIL, reasons=("3 tokens are not what the seed draws, the first is token 0",))
DOUBTFUL = Found(verdict=Verdict.SUSPECT, reasons=("only 3 candidates a token are committed to, 20 are wanted",))
FORGED = Found(fault="these leaves are not those that were committed to")


def honest_transcript(offer: wire.OfferBody, tokens: int = 40, *, seed: int | None = None) -> Transcript:
    """What an honest engine would say: drawn from a made-up model by the offer's seed, or by another one."""
    asked = offer.task.sampling
    sampler = Sampler(
        seed=asked.seed if seed is None else seed,
        temperature=asked.temperature_micros / 1e6,
        top_k=asked.top_k,
        top_p=asked.top_p_micros / 1e6,
        min_p=asked.min_p_micros / 1e6,
        min_keep=2,
    )
    builder = TranscriptBuilder(N_PROBS)
    chance = random.Random(offer.task.task_id)
    for position in generate(chance, sampler, tokens=tokens, vocabulary=60, n_probs=N_PROBS):
        piece = Piece(text="t", token_id=position.token, top_ids=position.ids, top_logprobs=position.logprobs)
        builder.add(piece)
    return builder.finish()


class Opener(Actor):
    """Keeps the transcripts of what it delivered."""

    def __init__(self, seed: int = 1) -> None:
        super().__init__(seed)
        self.transcripts: dict[str, Transcript] = {}

    def answer(
        self,
        offer: wire.OfferBody,
        transcript: Transcript | None = None,
        *,
        blob: bytes = b"",
        usage: Usage | None = None,
        **pool: Any,
    ) -> wire.Delivery:
        """A result whose commitment is to `transcript`, an honest one unless told otherwise. `blob`: delivered as its
        output.
        """
        transcript = transcript or honest_transcript(offer, offer.task.max_tokens)
        self.transcripts[offer.task.task_id] = transcript
        tokens = offer.task.max_tokens
        usage = usage or Usage(prompt_tokens=10, completion_tokens=tokens)
        output = '{"text":"' + "t" * usage.completion_tokens + '"}'
        header = header_of(
            offer,
            builders.pool(**{"determinism": "F-0011223344556677", **pool}),
            node_key=self.keys.public,
            n_probs=N_PROBS,
            finish=FinishReason.LENGTH,
            usage=usage,
            request_sha256="11" * 32,
            prompt_sha256="",
            proof_kind=transcript.proof_kind,
            output_sha256=blob_of(blob).sha256 if blob else sha256(output),
        )
        made = commit(header, transcript)
        if not blob:
            return self.success(offer, output, usage=usage, commitment=made)
        sizes = {"output_sha256": blob_of(blob).sha256, "output_bytes": len(blob)}
        done = self.success(offer, usage=usage, commitment=made, **sizes)
        return wire.Delivery(signed=done.signed, blob=blob_of(blob).sha256)

    def opened(self, task_id: str) -> bytes:
        """All leaves."""
        return open_leaves(self.transcripts[task_id].leaves)


def blob_of(content: bytes) -> Blob:
    return Blob(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))


class Court(World):
    """A world with challenges."""

    def __init__(self, proofs: ProofRules = ALWAYS, **rules: Any) -> None:
        super().__init__(proofs=proofs, **rules)
        self.examine: list[str] = []
        self.turn()

    @property
    def docket(self):
        return self.book.docket

    def take(self, decision):
        self.examine += [it.case_id for it in decision.notices if isinstance(it, Examine)]
        return super().take(decision)

    def turn(self, seconds: float = 0.0) -> None:
        """Time passes, for leases and for cases."""
        self.now += seconds
        self.sweep()
        self.take(sweeping.sweep(self.book, self.when, f"{next(self._chance):064x}"))

    def opener(self, seed: int = 1) -> Opener:
        actor = self.enrolled(seed)
        opener = Opener(seed)
        assert opener.node_id == actor.node_id
        return opener

    def settled(self, node: Opener, **changes: Any) -> wire.ReceiptBody:
        """A task that this node did."""
        self.submit(**{"max_tokens": 40, **changes})
        (offer,) = self.pull(node)
        return self.deliver(node, node.answer(offer))

    def challenged(self, node: Opener) -> wire.Challenge:
        """A task of this node, and the challenge that it leads to."""
        receipt = self.settled(node)
        self.turn(61.0)
        (challenge,) = [it for it in self.beat(node).challenges if it.key.task_id == receipt.task_id]
        return challenge

    def open(self, node: Opener, challenge: wire.Challenge, content: bytes | None = None) -> wire.Ack:
        """What the node uploads and says."""
        content = node.opened(challenge.key.task_id) if content is None else content
        return self.say(node, wire.Opening(challenge_id=challenge.challenge_id, blob=blob_of(content)))

    def say(self, node: Actor, message: wire.Opening) -> wire.Ack:
        return self.take(opening.take(self.book, self.when, node.node_id, message))

    def found(self, case_id: str, found: Found = GOOD) -> Case:
        """The examiner is done."""
        decision = opening.examined(self.book, self.when, case_id, found, None)
        self.take(decision)
        return self.case(case_id)

    def case(self, case_id: str) -> Case:
        """As it is, or was written last: judged ones are not in memory."""
        return self.docket.cases.get(case_id) or self.cases[case_id]

    def settlement(self, case_id: str) -> Settlement:
        key = self.case(case_id).idem_key
        return next(
            it.settlement for it in self.writes if isinstance(it, SaveSettlement) and it.settlement.idem_key == key
        )

    def case_of(self, challenge: wire.Challenge) -> Case:
        return self._of_task(challenge.key.task_id)[0]

    def state(self, task_id: str) -> CaseState | None:  # type: ignore[override]
        return next((it.state for it in self._of_task(task_id)), None)

    def _of_task(self, task_id: str) -> list[Case]:
        return [it for it in self.cases.values() if it.task_id == task_id and not it.canary]

    def standing(self, node: Actor) -> Standing:
        return standing_of(self.book, node.node_id)

    def judged(self, node: Actor) -> list[Judged]:
        return [it.judged for it in self.writes if isinstance(it, SaveJudged) and it.judged.node_id == node.node_id]

    def restarted(self) -> Court:
        """A new process, as in `World`; its first sweep comes before anybody is served."""
        again = super().restarted()
        court = Court.__new__(Court)
        court.__dict__.update(again.__dict__)
        court.examine = []
        court.turn()
        return court
