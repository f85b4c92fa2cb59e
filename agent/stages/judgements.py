"""Take judgements: what the coordinator holds against the node, or in its favour, kept one after another."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
import structlog

from agent.core import wire
from agent.core.errors import ProofError, StorageError
from agent.core.model import Signed
from agent.core.proof.signed import open_signed
from agent.core.text import line
from agent.ports import Identity
from agent.stages.docket import Docket

_DETAIL = 300
_bodies = msgspec.json.Decoder(wire.JudgementBody)
WELL = frozenset({wire.Judgement.PASSED, wire.Judgement.VOID})


class Judgements:
    """None is passed over: what cannot be kept, or believed, is asked for again with every beat."""

    def __init__(self, identity: Identity, docket: Docket) -> None:
        self._identity = identity
        self._docket = docket
        self._new: asyncio.Queue[Sequence[Signed]] = asyncio.Queue()
        self._refused: tuple[str, int] = ("", 0)
        self._log = structlog.get_logger("proof")

    @property
    def serial(self) -> int:
        """Of the latest that is kept: what a beat tells."""
        return self._docket.totals.serial

    def take(self, judged: Sequence[Signed]) -> None:
        """From the answer to a beat. Returns at once; while earlier ones are being kept these come again."""
        if judged and self._new.empty():
            self._new.put_nowait(judged)

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            for signed in await self._new.get():
                if not await self._keep(signed):
                    break

    async def _keep(self, signed: Signed) -> bool:
        """False: nothing behind it is taken either."""
        try:
            body = self._verified(signed)
            if body.serial <= self.serial:  # the answer to an earlier beat
                return True
            if not await self._docket.keep(signed, body):  # the store was damaged: all of them come again
                return False
        except ProofError as error:
            self._refuse(signed, error)
            return False
        except StorageError as error:
            self._log.error("proof.unkept", full=error.full, detail=str(error))
            return False
        self._tell(body)
        return True

    def _verified(self, signed: Signed) -> wire.JudgementBody:
        payload = open_signed(wire.Role.JUDGEMENT, signed, self._identity.coordinator_key, self._identity.verify)
        try:
            body = wire.read(_bodies, payload)
        except msgspec.DecodeError as error:
            raise ProofError("format", f"the judgement cannot be read: {error}") from error
        if body.node_id != self._identity.node_id:
            raise ProofError("node", f"the judgement is about {line(body.node_id, 64)}, not about this node")
        if body.serial > self.serial + 1:
            raise ProofError("serial", f"judgement {body.serial} comes after {self.serial}: what is between is missing")
        return body

    def _refuse(self, signed: Signed, error: ProofError) -> None:
        """It comes again with each beat: said once."""
        which = (signed.signature, self.serial)
        if which != self._refused:
            self._log.error("judgement.refused", check=error.check, detail=error.message)
        self._refused = which

    def _tell(self, body: wire.JudgementBody) -> None:
        say = self._log.info if body.judgement in WELL else self._log.warning
        say(
            "proof.judged",
            serial=body.serial,
            subject=body.subject.value,
            task=body.task_id,
            judgement=body.judgement.value,
            earned_micros=body.earned_micros or None,
            slashed_micros=body.slashed_micros or None,
            stake_micros=body.stake_micros,
            detail=words(body),
        )


def words(body: wire.JudgementBody) -> str:
    """What was judged, as a sentence."""
    whose = "the answer" if body.subject is wire.Subject.ANSWER else "the verdict"
    found = {
        wire.Judgement.PASSED: "passed",
        wire.Judgement.SUSPECT: "is suspect: more of it is looked at",
        wire.Judgement.FAILED: "failed",
        wire.Judgement.UNOPENED: "was not opened in time, or not as it was committed to",
        wire.Judgement.VOID: "could not be judged; nobody is blamed",
    }[body.judgement]
    cost = f"; {body.slashed_micros / 1e6:.6f} of the stake is gone" if body.slashed_micros else ""
    detail = f" ({line(body.detail, _DETAIL)})" if body.detail else ""
    return f"{whose} {found}{detail}{cost}"
