"""Looks at what nodes opened, one opening after the other, in a thread: it takes seconds of CPU for a long one."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from typing import NamedTuple

from agent.core.model import Blob
from agent.core.wire import MAX_BLOB_BYTES, ReceiptBundle
from agent.devnet.bundles import bundle_of
from agent.devnet.core.proofs import canaries, cases, opening
from agent.devnet.core.proofs.disguise import Cast, Keys, disguised
from agent.devnet.core.proofs.level_two import Found, evidence_of, look
from agent.devnet.core.proofs.records import Case
from agent.devnet.core.records import Settlement
from agent.devnet.core.rules import ProofRules, Refused
from agent.devnet.desk import Desk
from agent.devnet.keys import KeyPair
from agent.devnet.store import settlement_of

logger = logging.getLogger(__name__)


class _Looked(NamedTuple):
    bundle: ReceiptBundle
    found: Found
    evidence: bytes | None
    """What validators are to read; None when none is needed."""


def made_up() -> Keys:
    """Of a node that does not exist."""
    pair = KeyPair(secrets.token_bytes(32))
    return Keys(pair.public, pair.sign)


class Examiner:
    """Runs beside the desk. What it had not finished when the coordinator stopped, the next one looks at again."""

    def __init__(self, desk: Desk, made_up: Callable[[], Keys] = made_up) -> None:
        """`made_up`: keys of the nodes that evidence is told by, each time fresh ones."""
        self._desk = desk
        self._made_up = made_up

    @property
    def _rules(self) -> ProofRules:
        return self._desk.book.rules.proofs

    async def run(self) -> None:
        """Until it is cancelled, or nothing may be decided any more."""
        while True:
            case = self._desk.book.docket.cases.get(await self._desk.unexamined.get())
            try:
                if case is not None:
                    await self._examine(case)
            except Refused:
                return  # it stops, or its store failed

    async def _examine(self, case: Case) -> None:
        desk = self._desk
        settlement = await desk.store.read(settlement_of(case.idem_key))
        assert settlement is not None
        try:
            looked = await asyncio.to_thread(self._look, case, settlement)
            evidence = await self._kept(looked)
        except Exception as error:  # a bug that a stranger's bytes wake must not stop every other case
            logger.exception("case.unexaminable %s", case.case_id)
            why = f"it could not be examined here: {type(error).__name__}"
            await desk.carry_out(opening.unexaminable(desk.book, desk.when(), case.case_id, why))
            return
        if looked.evidence is not None and canaries.wanted(secrets.token_bytes(32), self._rules.canary_micros):
            canaries.begin(desk.book, case)
        await desk.carry_out(opening.examined(desk.book, desk.when(), case.case_id, looked.found, evidence))
        logger.info("case.examined %s node=%s %s", case.case_id, case.node_id, looked.found.said() or "in order")
        if case.case_id in desk.book.docket.copied:
            await self._give_out_canary(case, looked.bundle)

    def _look(self, case: Case, settlement: Settlement) -> _Looked:
        bundle = bundle_of(self._desk, settlement, case)
        found = look(bundle, self._desk.book.verify, cases.asked_leaves(case))
        wanted = opening.goes_on(found, self._rules)
        evidence = evidence_of(disguised(bundle, self._desk.book.verify, self._cast())) if wanted else b""
        if not 0 < len(evidence) <= MAX_BLOB_BYTES:  # nobody could fetch it
            return _Looked(bundle, found, None)
        return _Looked(bundle, found, evidence)

    def _cast(self) -> Cast:
        book = self._desk.book
        return Cast(Keys(book.key, book.sign), self._made_up(), secrets.token_bytes(32))

    async def _give_out_canary(self, case: Case, bundle: ReceiptBundle) -> None:
        """Now and then: a wrong answer that is made of this one, for other validators."""
        desk, canary = self._desk, None
        try:
            canary = await asyncio.to_thread(canaries.made_of, case, bundle, desk.book.verify, self._cast())
            evidence = await desk.exhibits.write(evidence_of(canary.bundle)) if canary else None
        except Exception:  # as above: what was examined stands without it
            logger.exception("case.no_canary %s", case.case_id)
            canary = evidence = None
        if canary is None or evidence is None:
            await desk.carry_out(canaries.give_up(desk.book, desk.when(), case.case_id))
        else:
            await desk.carry_out(canaries.give_out(desk.book, desk.when(), case.case_id, canary, evidence))

    async def _kept(self, looked: _Looked) -> Blob | None:
        return None if looked.evidence is None else await self._desk.exhibits.write(looked.evidence)
