"""Peers for the conformance suite: one fixture, a link of each kind, and the coordinator behind it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable

import pytest

from agent.core import wire
from agent.edges.clock import SystemClock
from agent.edges.link.http import HttpLink
from agent.edges.link.limits import LinkLimits
from agent.edges.link.ws import WebSocketLink
from agent.ports import Link
from tests.fakes.coordinator import FakeCoordinator
from tests.fakes.link import MemoryLink
from tests.fakes.mind import Mind, TestNode

PATIENT = LinkLimits()
HASTY = LinkLimits(reply_s=0.1)
"""For peers that never answer a beat; honest answers are asked for by pulls, which have all the time."""
HASTY_PULLS = LinkLimits(pull_margin_s=0.1)
"""The other way round."""


class Peer:
    """One coordinator and the links of one node to it."""

    def __init__(self, kind: str, mind: Mind, make: Callable[[TestNode, LinkLimits], Link]) -> None:
        self.kind = kind
        self.mind = mind
        self.node = TestNode()
        self.server: FakeCoordinator | None = None
        self.links: list[Link] = []
        self._make = make
        mind.enlist(self.node)

    def link(self, limits: LinkLimits = PATIENT) -> Link:
        link = self._make(self.node, limits)
        self.links.append(link)
        return link

    async def hang_up(self) -> None:
        """Break every connection, but go on listening."""
        if self.server is None:
            for link in self.links:
                assert isinstance(link, MemoryLink)
                link.hang_up()
        else:
            await self.server.stop()
            await self.server.start()

    async def push(self, message: wire.Push) -> None:
        if self.server is not None:
            await self.server.push(message)
        else:
            link = self.links[-1]
            assert isinstance(link, MemoryLink)
            link.push(message)


@contextlib.asynccontextmanager
async def memory() -> AsyncIterator[Peer]:
    mind = Mind()
    yield Peer("memory", mind, lambda node, limits: MemoryLink(mind, node, SystemClock(), limits))


@contextlib.asynccontextmanager
async def websocket() -> AsyncIterator[Peer]:
    async with FakeCoordinator() as server:
        peer = Peer(
            "websocket",
            server.mind,
            lambda node, limits: WebSocketLink(server.url, node, SystemClock(), limits=limits),
        )
        peer.server = server
        yield peer


@contextlib.asynccontextmanager
async def poll() -> AsyncIterator[Peer]:
    async with FakeCoordinator() as server:
        peer = Peer("poll", server.mind, lambda node, limits: HttpLink(server.url, node, SystemClock(), limits=limits))
        peer.server = server
        yield peer


PEERS = {"memory": memory, "websocket": websocket, "poll": poll}


@pytest.fixture(params=PEERS)
async def peer(request: pytest.FixtureRequest) -> AsyncIterator[Peer]:
    async with PEERS[request.param]() as made:
        try:
            yield made
        finally:
            for link in made.links:
                await link.close()
