"""Fetches rounds of drand from its public relays; nothing is believed before its signature was checked.

Sources: https://docs.drand.love/developer/http-api (paths, fields, relays).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import aiohttp
import msgspec

from agent.core.errors import ProofError
from agent.core.model import Count
from agent.core.payloads import Beacon, BeaconSource
from agent.core.proof.beacon import Bls, check_drand
from agent.core.proof.drand import QUICKNET, Chain

RELAYS: Final = (
    "https://api.drand.sh",
    "https://api2.drand.sh",
    "https://api3.drand.sh",
    "https://drand.cloudflare.com",
)
"""Of the League of Entropy. Whichever answers, the chain's signature decides."""
LIMIT_S = 5.0
"""For one relay's answer."""
MAX_ANSWER_BYTES = 16 << 10
"""A round has some 500 bytes."""
LONGEST_WAIT_S = 30.0
logger = logging.getLogger(__name__)


class _Round(msgspec.Struct):
    """A relay's answer."""

    round: Count
    signature: str
    randomness: str
    previous_signature: str = ""


class DrandRelays:
    """Rounds of one chain, from several relays."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        bls: Bls,
        *,
        chain: Chain = QUICKNET,
        relays: Sequence[str] = RELAYS,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._session = session
        self._bls = bls
        self._chain = chain
        self._relays = relays
        self._sleep = sleep

    async def wait_for(self, number: int) -> Beacon:
        """A round, as soon as any relay has it: one after the other, again and again, until it is there.

        Meant for a round whose time has come. Cancel it to give up.
        """
        wait_s = float(self._chain.period_s)
        while True:
            try:
                return await self.fetch(number)
            except ProofError as error:
                logger.warning("beacon.late round=%d %s", number, error.message)
            await self._sleep(wait_s)
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    async def latest(self) -> Beacon:
        """The newest round that any relay tells: all are asked, for one that is behind proves little. Raises
        ProofError("beacon") when none tells any.
        """
        told = await asyncio.gather(*(self._ask(relay, None) for relay in self._relays))
        if known := [one for one in told if isinstance(one, Beacon)]:
            return max(known, key=lambda beacon: beacon.round)
        raise ProofError("beacon", f"no relay gave the latest round of {self._chain.name}: {'; '.join(map(str, told))}")

    async def fetch(self, number: int) -> Beacon:
        """A round from the first relay that has it. Raises ProofError("beacon") with what each of them said."""
        refusals = []
        for relay in self._relays:
            told = await self._ask(relay, number)
            if isinstance(told, Beacon):
                return told
            refusals.append(told)
        raise ProofError("beacon", f"no relay gave round {number} of {self._chain.name}: {'; '.join(refusals)}")

    async def _ask(self, relay: str, number: int | None) -> Beacon | str:
        """What one relay tells, or why that is nothing."""
        try:
            return await self._from(relay, number)
        except (aiohttp.ClientError, TimeoutError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            return f"{relay}: {str(error) or type(error).__name__}"
        except ProofError as error:
            return f"{relay}: {error.message}"

    async def _from(self, relay: str, number: int | None) -> Beacon:
        which = "latest" if number is None else number
        url = f"{relay.rstrip('/')}/{self._chain.hash}/public/{which}"
        limit = aiohttp.ClientTimeout(total=LIMIT_S)
        async with self._session.get(url, timeout=limit, allow_redirects=False) as answer:
            if answer.status != 200:
                raise ProofError("beacon", f"status {answer.status}")
            told = msgspec.json.decode(await _body(answer), type=_Round)
        if number not in (None, told.round):
            raise ProofError("beacon", f"it gave round {told.round}")
        beacon = Beacon(
            source=BeaconSource.DRAND,
            round=told.round,
            value=told.randomness,
            signature=told.signature,
            previous=told.previous_signature,
        )
        check_drand(self._chain, beacon, self._bls)
        return beacon


async def _body(answer: aiohttp.ClientResponse) -> bytes:
    raw = b""
    async for part in answer.content.iter_chunked(MAX_ANSWER_BYTES):
        raw += part
        if len(raw) > MAX_ANSWER_BYTES:
            raise ProofError("beacon", f"the answer is over {MAX_ANSWER_BYTES} bytes")
    return raw
