"""Pull: ask for work for each pool that has free slots, verify what is offered, and let the core decide."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

import msgspec
import structlog

from agent.core import events as ev
from agent.core import wire
from agent.core.errors import LinkError, LinkFault, ProofError, StorageError
from agent.core.model import Signed
from agent.core.proof.signed import open_signed
from agent.core.watchdog import Tally
from agent.ports import Identity, Outbox
from agent.stages.calls import Caller
from agent.stages.spine import Spine
from agent.stages.storage import RETRY_S

EMPTY_MIN_S = 1.0
"""A pull that brings nothing takes at least this long, whatever the coordinator does."""

STRANGER = "Nothing of it was acted on. If the coordinator has a new key, enrol again; else somebody stands between"

_decoder = msgspec.json.Decoder(wire.OfferBody)


class Pull:
    """One loop a pool: a parked pull for one model never keeps another pool's free slots waiting."""

    def __init__(self, spine: Spine, caller: Caller, identity: Identity, outbox: Outbox) -> None:
        self._spine = spine
        self._caller = caller
        self._identity = identity
        self._outbox = outbox
        self._log = structlog.get_logger("pull")
        self._parked = 0
        self._asked = 0
        self.asking_since: float | None = None
        """Monotonic: since when somebody asks without being offered anything; None while nobody asks."""

    @property
    def in_flight(self) -> int:
        """Pulls that wait for the coordinator's answer now."""
        return self._parked

    def tally(self) -> Tally:
        """For the watchdog: pools with free slots for which nobody asks now, and how often anybody asked."""
        node = self._spine.node
        free = sum(node.credit(pool) is not None for pool in node.pools)
        return Tally(max(0, free - self._parked), self._asked)

    async def run(self, pools: Iterable[str]) -> None:
        """Run until cancelled."""
        async with asyncio.TaskGroup() as group:
            for pool in pools:
                group.create_task(self._pool(pool), name=f"pull {pool}")

    async def _pool(self, pool: str) -> None:
        failures = 0
        while True:
            credit = await self._credit(pool)
            try:
                await self._pull(credit)
            except LinkError as error:
                self.asking_since = None
                self._log.warning("pull.failed", pool=pool, fault=error.fault.value, detail=str(error))
                await self._caller.back_off(failures, error)
                failures += 1
            except StorageError:  # told already; asking on would only cost the coordinator leases
                await self._spine.clock.sleep(RETRY_S)
            else:
                failures = 0

    async def _credit(self, pool: str) -> wire.Credit:
        while (credit := self._spine.node.credit(pool)) is None:
            if not self._parked:
                self.asking_since = None
            await self._spine.changed()
        return credit

    async def _pull(self, credit: wire.Credit) -> None:
        asked_at = self._spine.clock.monotonic()
        self.asking_since = asked_at if self.asking_since is None else self.asking_since
        self._parked += 1
        self._asked += 1
        try:
            offered = await self._take(credit, asked_at)
        finally:
            self._parked -= 1
            self._spine.wake()  # a drain waits until no pull is parked and no offer is in hand
        if offered:
            self.asking_since = None
        else:  # an empty answer should have been waited for; one that comes at once must not become a storm
            await self._spine.clock.sleep(asked_at + EMPTY_MIN_S - self._spine.clock.monotonic())

    async def _take(self, credit: wire.Credit, asked_at: float) -> bool:
        """Pull once, and consider what is offered; returns whether anything was. Raises LinkError, StorageError."""
        reply = await self._caller.ask(wire.Pull(credits=(credit,)), wire.Offers)
        if len(reply.offers) > credit.count:
            self._log.warning("pull.too_many_offers", asked=credit.count, offered=len(reply.offers))
        taken = await self._consider(reply.offers, asked_at)
        if taken and not any(taken) and self._spine.node.credit(credit.pool) is not None:
            raise LinkError(
                LinkFault.BROKEN,
                "the coordinator offers nothing that this node can take",
                remedy="The lines before this one say why: tell those who run it. The agent goes on asking",
            )
        return bool(taken)

    async def _consider(self, offers: Sequence[Signed], asked_at: float) -> list[bool]:
        """Whether each offer became an attempt. Raises StorageError when our own store cannot tell what is a replay."""
        read = [(offer, signed) for signed in offers if (offer := self._verified(signed)) is not None]
        try:
            settled = await self._outbox.settled_many([(offer.key, offer.idem_key) for offer, _ in read])
        except StorageError as error:  # whether they are replays is unknown: none is taken, and their leases end
            self._log.error("offers.unchecked", tasks=[offer.task.task_id for offer, _ in read], detail=str(error))
            raise
        arrived = (
            ev.OfferArrived(offer=offer, signed=signed, asked_at=asked_at, settled=was_settled)
            for (offer, signed), was_settled in zip(read, settled, strict=True)
        )
        return [*map(self._arrived, arrived), *[False] * (len(offers) - len(read))]

    def _arrived(self, event: ev.OfferArrived) -> bool:
        key = event.offer.key
        known = key in self._spine.node.attempts
        self._spine.feed(event)
        return not known and key in self._spine.node.attempts

    def _verified(self, signed: Signed) -> wire.OfferBody | None:
        """The offer, if the pinned coordinator signed exactly this. Nothing of a bad one is acted on, not even to
        decline it: its key is as untrusted as the rest, and the lease it may stand for expires by itself.
        """
        try:
            payload = open_signed(wire.Role.OFFER, signed, self._identity.coordinator_key, self._identity.verify)
            return _decoder.decode(payload)
        except ProofError as error:
            self._log.error("offer.refused", reason="bad_signature", detail=f"{error.message}. {STRANGER}")
        except msgspec.MsgspecError as error:  # ValidationError and DecodeError: an unknown signed field is refused too
            self._log.error("offer.refused", reason="malformed_offer", detail=str(error))
        return None
