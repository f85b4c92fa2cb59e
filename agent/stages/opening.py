"""Open: answer challenges with the leaves that were committed to, where the promised beacon really drew them."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Collection, Sequence
from typing import TypeVar

import msgspec
import structlog

from agent.core import wire
from agent.core.challenges import ChallengeLine, ChallengeOutcome
from agent.core.errors import AgentError, LinkError, LinkFault, ProofError, StorageError
from agent.core.model import Blob, Signed
from agent.core.proof.challenged import Kept, Papers, objection
from agent.core.proof.leaves import split_leaves
from agent.core.proof.merkle import leaf_hash, root
from agent.core.proof.opening import open_leaves
from agent.core.text import line, span
from agent.ports import Clock, Delivered, Ledger, Transcripts
from agent.stages.calls import Caller, passes
from agent.stages.docket import Docket
from agent.stages.lifetime import Lifetime

UPLOADS_AT_ONCE = 2
"""Each holds a transcript and its opening in memory, 64 MiB at most, and shares the line with results."""
OPEN_MAX = 256
"""Challenges that are answered at a time; others come again with the next beat."""
ANSWERED_MAX = 1024
AGAIN_S = 30.0
"""A challenge that still comes after its answer was taken is answered again, but not at once: the answer to a beat that
was under way meanwhile brings it, too."""
ID_CHARS = 200
HOLD_S = 3600.0
"""The longest that a challenge holds up the deletion of transcripts: one that nobody lets us answer must not fill the
disk."""
READS = 3
"""Times that a transcript is read before it is called damaged: some faults of a disk pass."""
UPLOADS = 2
"""Times that an opening goes up: the coordinator may have lost it, but not again and again."""
_DETAIL = 300

T = TypeVar("T", wire.OfferBody, wire.ResultBody, wire.ReceiptBody)


class _Case:
    """One challenge while it is answered."""

    def __init__(self, challenge: wire.Challenge, asked_at: float) -> None:
        self.challenge = challenge
        self.asked_at = asked_at
        """Unix seconds, of a clock that nobody sets."""
        self.due = 0.0
        """Monotonic."""
        self.drawn = False
        self.answer: wire.Opening | None = None
        """Ready to be sent; its leaves are with the coordinator."""
        self.uploads = 0
        self.reads = 0


class _Answered:
    """What the coordinator took, for a while."""

    def __init__(self, answer: wire.Opening, at: float) -> None:
        self.answer = answer
        self.at = at


class _NotYet(AgentError):
    """Cannot be answered now; it may be later."""


class Opener:
    """One task for each open challenge, however often it comes."""

    def __init__(
        self, clock: Clock, caller: Caller, ledger: Ledger, transcripts: Transcripts, docket: Docket, kept: Kept
    ) -> None:
        """`kept`: raises ProofError for a beacon that was not promised; it is asked in a thread."""
        self._clock = clock
        self._lifetime = Lifetime(clock)
        self._caller = caller
        self._ledger = ledger
        self._transcripts = transcripts
        self._docket = docket
        self._kept = kept
        self._room = asyncio.Semaphore(UPLOADS_AT_ONCE)
        self._new: asyncio.Queue[_Case] = asyncio.Queue()
        self._open: dict[str, _Case] = {}
        self._answered: dict[str, _Answered] = {}
        """Oldest first."""
        self._recalled: Sequence[ChallengeLine] = ()
        self._log = structlog.get_logger("proof")

    async def recall(self) -> None:
        """Learn what an earlier life was asked for; the coordinator asks again, and until then nothing is deleted."""
        self._recalled = await self._docket.recall()
        for asked in self._recalled:
            self._log.info("challenge.recalled", challenge=asked.challenge_id, task=asked.task_id)

    def take(self, challenges: Sequence[wire.Challenge]) -> None:
        """From the answer to a beat, or pushed; mostly not for the first time. Returns at once."""
        for challenge in challenges:
            if len(challenge.challenge_id) > ID_CHARS:
                self._log.warning("challenge.ignored", detail=f"its id is longer than {ID_CHARS} characters")
            elif (case := self._open.get(challenge.challenge_id)) is not None:
                case.due = self._clock.monotonic() + challenge.answer_s
            elif self._is_news(challenge.challenge_id):
                self._begin(challenge)

    def swept_until(self, now: float) -> float:
        """The moment (Unix seconds) by which transcripts must have passed their time to be deleted at `now`: what a
        challenge asks for stays, if it was there when the challenge came.
        """
        waiting = (asked for asked in self._recalled if asked.due_at > now)
        since = [*(case.asked_at for case in self._open.values()), *(asked.asked_at for asked in waiting)]
        return max(min([now, *since]), now - HOLD_S)

    async def run(self) -> None:
        """Run until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                case = await self._new.get()
                group.create_task(self._see_to(case), name=f"challenge {case.challenge.challenge_id}")

    # ------------------------------------------------------------------ which challenges

    def _is_news(self, challenge_id: str) -> bool:
        answered = self._answered.get(challenge_id)
        if answered is not None and self._clock.monotonic() - answered.at < AGAIN_S:
            return False
        if len(self._open) >= OPEN_MAX:
            self._log.warning("challenge.postponed", challenge=challenge_id, open=len(self._open))
            return False
        return True

    def _begin(self, challenge: wire.Challenge) -> None:
        case = _Case(challenge, self._lifetime.now())
        case.due = self._clock.monotonic() + challenge.answer_s
        if (answered := self._answered.get(challenge.challenge_id)) is not None:
            case.answer = answered.answer
        self._open[challenge.challenge_id] = case
        self._recalled = [it for it in self._recalled if it.challenge_id != challenge.challenge_id]
        self._note(case, ChallengeOutcome.ASKED)
        self._new.put_nowait(case)

    # ------------------------------------------------------------------ one challenge

    async def _see_to(self, case: _Case) -> None:
        challenge = case.challenge
        try:
            outcome, detail = await self._answer(case)
        except Exception as error:  # noqa: BLE001  (a bug here must not end the owner's tasks; it is told in full)
            self._log.exception("challenge.fault", challenge=challenge.challenge_id)
            outcome, detail = ChallengeOutcome.MISSED, f"{type(error).__name__} in the agent; see its log"
        del self._open[challenge.challenge_id]
        self._note(case, outcome, detail)
        answer = case.answer
        say = self._log.info if outcome is ChallengeOutcome.OPENED else self._log.warning
        say(
            f"challenge.{outcome.value}",
            challenge=challenge.challenge_id,
            task=challenge.key.task_id,
            kind=challenge.kind.value,
            refusal=answer.refusal.value if answer and answer.refusal else None,
            bytes=answer.blob.bytes if answer and answer.blob else None,
            detail=detail or None,
        )

    async def _answer(self, case: _Case) -> tuple[ChallengeOutcome, str]:
        """Until the coordinator takes the answer, or the time is over."""
        failures = 0
        while True:
            try:
                answer = case.answer = case.answer or await self._made(case)
                await self._caller.ask(answer, wire.Ack)
            except (_NotYet, StorageError) as error:
                fault = LinkError(LinkFault.UNREACHABLE, str(error))
            except LinkError as error:
                if not self._may_pass(case, error):
                    return ChallengeOutcome.MISSED, f"the coordinator does not take the answer: {error}"
                fault = error
            else:
                self._remember(answer)
                refused = answer.refusal is not None
                return (ChallengeOutcome.REFUSED if refused else ChallengeOutcome.OPENED), answer.detail
            pause_s = self._caller.pause_s(failures, fault)
            failures += 1
            if self._clock.monotonic() + pause_s >= case.due:
                return ChallengeOutcome.MISSED, f"not in time: {fault.message}"
            self._log.info("challenge.waits", challenge=case.challenge.challenge_id, detail=fault.message)
            await self._clock.sleep(pause_s)

    def _may_pass(self, case: _Case, error: LinkError) -> bool:
        """A coordinator that lost the leaves gets them once more."""
        if error.code is wire.RefusalCode.NOT_FOUND and case.answer is not None and case.answer.blob is not None:
            case.answer = None
            return case.uploads < UPLOADS
        return passes(error)

    def _remember(self, answer: wire.Opening) -> None:
        self._answered.pop(answer.challenge_id, None)
        self._answered[answer.challenge_id] = _Answered(answer, self._clock.monotonic())
        while len(self._answered) > ANSWERED_MAX:
            del self._answered[next(iter(self._answered))]

    # ------------------------------------------------------------------ the answer

    async def _made(self, case: _Case) -> wire.Opening:
        """Leaves that are with the coordinator, or why there are none. Raises LinkError, StorageError, _NotYet."""
        challenge = case.challenge
        delivered = await self._ledger.delivered(challenge.key)
        if delivered is None:
            return _refusal(challenge, wire.OpeningRefusal.UNKNOWN, "no such attempt ended here")
        if delivered.offer is None or delivered.result is None:
            words = "its papers were dropped to save space, so that it cannot be seen what was promised"
            return _refusal(challenge, wire.OpeningRefusal.GONE, words)
        if delivered.receipt is None:
            raise _NotYet("the receipt of this result has not come yet")
        papers = _papers(delivered)
        if words := await asyncio.to_thread(objection, challenge, papers, self._kept):
            return _refusal(challenge, wire.OpeningRefusal.NOT_DRAWN, words)
        self._tell_drawn(case)
        async with self._room:
            return await self._opened(case, papers)

    def _tell_drawn(self, case: _Case) -> None:
        challenge = case.challenge
        if not case.drawn and challenge.kind is wire.ChallengeKind.DRAWN:
            self._log.info(
                "challenge.drawn",
                challenge=challenge.challenge_id,
                task=challenge.key.task_id,
                leaves=challenge.leaves or "all",
                detail=f"the promised beacon draws this task; to be opened within {span(challenge.answer_s)}",
            )
        case.drawn = True

    async def _opened(self, case: _Case, papers: Papers) -> wire.Opening:
        challenge, commitment = case.challenge, papers.result.commitment
        assert commitment is not None
        case.reads += 1
        try:
            raw = await self._transcripts.read(challenge.key)
            if raw is None:
                return _refusal(challenge, wire.OpeningRefusal.GONE, "the transcript was deleted: its time was over")
            drawn = challenge.kind is wire.ChallengeKind.DRAWN
            chosen = challenge.leaves if drawn else ()
            blob, opening = await asyncio.to_thread(_opening, raw, commitment.root, chosen)
        except ProofError as error:
            return _refusal(challenge, wire.OpeningRefusal.DAMAGED, error.message)
        except StorageError as error:
            if case.reads < READS:
                raise
            return _refusal(challenge, wire.OpeningRefusal.DAMAGED, error.message)
        await self._caller.link.put_blob(blob.sha256, opening)
        case.uploads += 1
        return wire.Opening(challenge_id=challenge.challenge_id, blob=blob)

    # ------------------------------------------------------------------ what is remembered

    def _note(self, case: _Case, outcome: ChallengeOutcome, detail: str = "") -> None:
        challenge, now, answer = case.challenge, self._clock.wall(), case.answer
        open_ = outcome is ChallengeOutcome.ASKED
        self._docket.note(
            ChallengeLine(
                challenge_id=challenge.challenge_id,
                task_id=line(challenge.key.task_id, ID_CHARS),
                attempt=challenge.key.attempt,
                fence=challenge.key.fence,
                kind=challenge.kind,
                asked_at=case.asked_at,
                due_at=now + max(0.0, case.due - self._clock.monotonic()),
                outcome=outcome,
                leaves=len(challenge.leaves),
                level=challenge.level,
                refusal=None if open_ or answer is None else answer.refusal,
                detail=line(detail, _DETAIL),
                opened_bytes=answer.blob.bytes if answer and answer.blob and not open_ else 0,
                answered_at=None if open_ else now,
            )
        )


def _refusal(challenge: wire.Challenge, refusal: wire.OpeningRefusal, words: str) -> wire.Opening:
    return wire.Opening(challenge_id=challenge.challenge_id, refusal=refusal, detail=words)


def _papers(delivered: Delivered) -> Papers:
    """Both sides' signatures were verified before these were kept."""
    assert delivered.offer is not None
    assert delivered.result is not None
    assert delivered.receipt is not None
    return Papers(
        _body(delivered.offer, wire.OfferBody),
        _body(delivered.result, wire.ResultBody),
        _body(delivered.receipt, wire.ReceiptBody),
    )


def _body(signed: Signed, kind: type[T]) -> T:
    """Raises StorageError: what is kept was read before, by this version or an older one."""
    try:
        return msgspec.json.decode(signed.payload, type=kind)
    except msgspec.DecodeError as error:
        raise StorageError(f"papers of this attempt cannot be read: {error}") from error


def _opening(raw: bytes, committed: str, chosen: Collection[int]) -> tuple[Blob, bytes]:
    """The opening, with its name. Seconds of work for 64 MiB. Raises ProofError when the transcript is not what was
    committed to.
    """
    leaves = split_leaves(raw)
    if root([leaf_hash(leaf) for leaf in leaves]).hex() != committed:
        raise ProofError("transcript_root", "what is kept is not the transcript that was committed to")
    opening = open_leaves(leaves, frozenset(chosen))
    return Blob(sha256=hashlib.sha256(opening).hexdigest(), bytes=len(opening)), opening
