"""The matrix challenge at the coordinator: answers nodes, and has their rows looked at by a process of its own."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import secrets
import sys
from asyncio.subprocess import PIPE
from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from agent.core.attest.cards import Card
from agent.core.attest.messages import MatrixCommitted, MatrixJudged, MatrixOpened, MatrixReady, MatrixReread
from agent.core.wire import BeatAck, MatrixReply, RefusalCode, encode
from agent.devnet.core.attesting import Attesting, Exhibit
from agent.devnet.core.rules import Instant, Refused
from agent.devnet.desk import Desk

logger = logging.getLogger(__name__)

LOOK_S = 60.0
"""For what takes a second of one core."""

MatrixMessage = MatrixReady | MatrixCommitted | MatrixReread | MatrixOpened


class Attester:
    """Speaks for `core.attesting`. Without numpy nobody is challenged, for nothing could be checked."""

    def __init__(self, desk: Desk, cards: Sequence[Card]) -> None:
        self._desk = desk
        self._attesting = Attesting(desk.book, cards, lambda: secrets.token_hex(32))
        self._able = importlib.util.find_spec("numpy") is not None
        self._looking = asyncio.Lock()
        """One node's rows at a time: a second of one core each."""
        self._verdicts: dict[str, tuple[str, asyncio.Task[MatrixJudged]]] = {}
        """Of each node the latest challenge, and what comes of it: an answer that took long or was lost is asked for
        again."""
        if desk.book.rules.attest_every_s > 0 and not self._able:
            logger.warning("coordinator.attest_off: numpy is not installed (gpu-agent[attest])")

    def with_question(self, ack: BeatAck, when: Instant, node_id: str) -> BeatAck:
        """The answer to a beat, with a challenge where one is due."""
        if not self._able:
            return ack
        asked, decision = self._attesting.asks(when, node_id)
        self._desk.begin(decision)
        return replace(ack, matrix=asked) if asked else ack

    async def answer(self, when: Instant, node_id: str, message: MatrixMessage) -> MatrixReply:
        """Raises Refused. `when` is when the message was there: what follows is not the node's time."""
        match message:
            case MatrixReady():
                return await self._desk.carry_out(self._attesting.ready(when, node_id, message))
            case MatrixCommitted():
                return await self._desk.carry_out(self._attesting.committed(when, node_id, message))
            case MatrixReread():
                return await self._desk.carry_out(self._attesting.reread(when, node_id, message))
            case MatrixOpened():
                return await self._opened(when, node_id, message)

    async def _opened(self, when: Instant, node_id: str, message: MatrixOpened) -> MatrixReply:
        known = self._verdicts.get(node_id)
        if known is None or known[0] != message.challenge_id:
            exhibit = self._attesting.opened(when, node_id, message)
            known = message.challenge_id, asyncio.create_task(self._judged(node_id, exhibit), name=f"attest {node_id}")
            known[1].add_done_callback(
                lambda task: task.cancelled() or task.exception()
            )  # perhaps nobody waits any more
            self._verdicts[node_id] = known
        return await asyncio.shield(known[1])

    async def _judged(self, node_id: str, exhibit: Exhibit) -> MatrixJudged:
        async with self._looking:
            faults = await looked_at(exhibit)
        decision = self._attesting.checked(self._desk.when(), node_id, exhibit.challenge_id, faults)
        judged = await self._desk.carry_out(decision)
        for it in judged.attestations:
            logger.info("coordinator.attested node=%s device=%s %s", node_id, it.device, it.standing.value)
        return judged

    async def close(self) -> None:
        """Whose rows are being looked at has no verdict."""
        open_ones = [task for _, task in self._verdicts.values() if not task.done()]
        for task in open_ones:
            task.cancel()
        await asyncio.gather(*open_ones, return_exceptions=True)

    def sweep(self) -> None:
        """Look at the time. Raises Refused."""
        self._desk.begin(self._attesting.sweep(self._desk.when()))


async def looked_at(exhibit: Exhibit) -> dict[str, str]:
    """Device → what is wrong. Raises Refused when it cannot be looked at."""
    code = os.pathsep.join(filter(None, sys.path))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-s", "-m", "agent.devnet.attest_rows"),
        stdin=PIPE,
        stdout=PIPE,
        env={**os.environ, "PYTHONPATH": code, "OPENBLAS_NUM_THREADS": "1"},
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(LOOK_S):
            told, _ = await process.communicate(encode(exhibit))
        return msgspec.json.decode(told, type=dict[str, str])
    except (TimeoutError, msgspec.DecodeError) as error:  # it was too slow, or died and has told why on stderr
        logger.exception("coordinator.attest_failed")
        raise Refused(RefusalCode.INTERNAL, "the rows could not be looked at; a new challenge will come") from error
    finally:
        if process.returncode is None:
            process.kill()
