"""The trunk: what every stage hangs on."""

from __future__ import annotations

import contextlib
import random
from typing import NamedTuple

from agent.compose.edges import Edges
from agent.config import Config
from agent.core.node import Node
from agent.core.watchdog import Pulse
from agent.edges.host import Host
from agent.edges.link.baton import link_to
from agent.ports import Clock, Link
from agent.stages.calls import Caller
from agent.stages.herald import Herald
from agent.stages.probe import fingerprint
from agent.stages.spine import Spine
from agent.stages.storage import StorageGate


class Trunk(NamedTuple):
    """One of each."""

    host: Host
    spine: Spine
    herald: Herald
    link: Link
    caller: Caller
    pulse: Pulse
    storage: StorageGate
    rng: random.Random


def trunk_of(config: Config, edges: Edges, clock: Clock, pulse: Pulse, stack: contextlib.AsyncExitStack) -> Trunk:
    """Its link is closed with `stack`. Raises LinkError for an address that is not safe."""
    host, rng = Host(), random.SystemRandom()
    spine = Spine(Node(edges.identity.node_id, breaker_failures=config.node.breaker_failures), clock)
    first = fingerprint(host, edges.seen, edges.pools.values(), edges.models, edges.sandbox)
    herald = Herald(spine, edges.identity, first)
    link = link_to(
        edges.identity.enrolment.url,
        herald,
        clock,
        transport=config.coordinator.transport.value,
        ca_file=config.coordinator.ca_file,
    )
    stack.push_async_callback(link.close)
    return Trunk(host, spine, herald, link, Caller(link, clock, pulse, rng), pulse, StorageGate(spine), rng)
