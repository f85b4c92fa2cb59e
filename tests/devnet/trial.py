"""A world in which nodes are challenged to show that their GPUs are GPUs, on a clock that a test moves."""

from __future__ import annotations

import itertools
from typing import Any

from msgspec.structs import replace

from agent.core.attest.messages import (
    Attestation,
    MatrixAsked,
    MatrixCommitted,
    MatrixGo,
    MatrixOpened,
    MatrixReady,
    MatrixReread,
    OpenedBlock,
    OpenedRow,
)
from agent.core.attest.tree import READINGS
from agent.core.fingerprint import Fingerprint
from agent.core.gpu import Gpu
from agent.devnet.core.attesting import Attesting
from agent.edges.gpu.models import card_table
from tests import builders
from tests.devnet.world import Actor, World

GIB = 1 << 30
EVERY_S = 3600.0
ROOTS = ("00" * 32,) * READINGS
H200 = Gpu(
    uuid="GPU-0",
    name="NVIDIA H200",
    index=0,
    compute_capability="9.0",
    memory_total_bytes=150754820096,
    bar1_total_bytes=256 * GIB,
)
EIGHT = tuple(replace(H200, uuid=f"GPU-{i}", index=i) for i in range(8))
CARD = next(card for card in card_table() if card.name.startswith("NVIDIA H200("))


class Trial(World):
    """A world in which nodes are challenged."""

    def __init__(self, **rules: Any) -> None:
        super().__init__(attest_every_s=EVERY_S, **rules)
        seeds = (f"{number:064x}" for number in itertools.count(1))
        self.attesting = Attesting(self.book, card_table(), lambda: next(seeds))

    def node(self, told: Fingerprint, seed: int = 1) -> Actor:
        actor = self.enrolled(seed)
        self.hello(actor, fingerprint=told)
        return actor

    def asked(self, actor: Actor) -> MatrixAsked | None:
        asked, decision = self.attesting.asks(self.when, actor.node_id)
        self.take(decision)
        return asked

    def ready(self, actor: Actor, question: MatrixAsked, free: int = 130 * GIB, refusal: str = "") -> MatrixGo:
        free_bytes = () if refusal else (free,) * len(question.devices)
        message = MatrixReady(challenge_id=question.challenge_id, free_bytes=free_bytes, refusal=refusal)
        return self.take(self.attesting.ready(self.when, actor.node_id, message))

    def found(self, actor: Actor) -> dict[str, Attestation]:
        return {it.device: it for it in self.book.node(actor.node_id).record.attestations}

    def judged(
        self, actor: Actor, commit_s: float, reread_s: float, faults: dict[str, str] | None = None
    ) -> dict[str, Attestation]:
        """The whole way, with so much time between; the rows are looked at elsewhere."""
        question = self.asked(actor)
        assert question is not None
        count, challenge = len(question.devices), question.challenge_id
        self.ready(actor, question)
        self.now += commit_s
        committed = MatrixCommitted(challenge_id=challenge, roots=("00" * 32,) * count)
        self.take(self.attesting.committed(self.when, actor.node_id, committed))
        self.now += reread_s
        reread = MatrixReread(challenge_id=challenge, roots=(ROOTS,) * count)
        drawn = self.take(self.attesting.reread(self.when, actor.node_id, reread))
        self.now += 5.0  # which nobody counts
        row = OpenedRow(first=OpenedBlock(digests=b"", path=b""))
        opened = MatrixOpened(challenge_id=challenge, rows=tuple((row,) * len(rows) for rows in drawn.rows))
        self.attesting.opened(self.when, actor.node_id, opened)
        self.take(self.attesting.checked(self.when, actor.node_id, challenge, faults or {}))
        return self.found(actor)


def gpus(*told: Gpu, **changes: Any) -> Fingerprint:
    """With a pool on each, unless said otherwise."""
    pools = tuple(builders.pool(f"on-{gpu.index}", device=gpu.uuid) for gpu in told)
    return builders.fingerprint(gpus=told, **{"pools": pools, **changes})


class Saying:
    """A node's messages, one by one."""

    def __init__(self, world: Trial, actor: Actor) -> None:
        self._world, self._node_id = world, actor.node_id

    def ready(self, challenge: str, free: tuple[int, ...]) -> None:
        message = MatrixReady(challenge_id=challenge, free_bytes=free)
        self._world.take(self._world.attesting.ready(self._world.when, self._node_id, message))

    def committed(self, challenge: str, roots: tuple[str, ...]) -> None:
        message = MatrixCommitted(challenge_id=challenge, roots=roots)
        self._world.take(self._world.attesting.committed(self._world.when, self._node_id, message))

    def reread(self, challenge: str) -> None:
        message = MatrixReread(challenge_id=challenge, roots=(ROOTS,))
        self._world.take(self._world.attesting.reread(self._world.when, self._node_id, message))

    def opened(self, challenge: str) -> None:
        message = MatrixOpened(challenge_id=challenge, rows=((),))
        self._world.attesting.opened(self._world.when, self._node_id, message)
