"""Programs: what they need is fetched, what they leave is spooled until the coordinator has it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from agent.core.errors import EngineError, StorageError
from agent.core.fingerprint import ProgramTerms
from agent.core.model import Blob, ExecInput, ExecLimits, LeaseKey, Reason, TaskKind, TaskSpec
from agent.core.program import RUNTIME, blobs_of, sign_bundle
from agent.core.proof.files import FileLeaf
from agent.ports import Artifact, EngineOutput, ExitKind, Printed, Ran, SandboxExit
from tests import builders
from tests.sim.disk import NodeDisk, room_on
from tests.sim.files import sha256_of
from tests.sim.keys import key_of, sign
from tests.sim.model import SimReplayer
from tests.sim.plan import TaskPlan

if TYPE_CHECKING:
    from tests.sim.world import World

PUBLISHER = key_of("publisher")
BUNDLES = tuple(f"program {number}".encode() for number in range(3))


def program(task: TaskPlan) -> ExecInput:
    """What is asked for."""
    content = BUNDLES[task.number % len(BUNDLES)]
    bundle = sign_bundle(sha256_of(content), len(content), PUBLISHER, lambda digest: sign(PUBLISHER, digest))
    return ExecInput(bundle=bundle, argv=("/bundle/run", str(task.number)))


class SimDraft:
    """Implements ports.Artifact."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.blob = Blob(sha256=sha256_of(content), bytes=len(content))
        self.path = Path("nowhere")


class SimPrograms:
    """Implements ports.EnginePool for tasks of the kind exec."""

    def __init__(self, world: World, node: int, disk: NodeDisk, chance: random.Random) -> None:
        self._world, self._node, self._disk, self._chance = world, node, disk, chance
        self.facts = builders.pool(
            "programs",
            slots=1,
            engine="sim",
            model="exec/v1",
            model_digest=RUNTIME,
            kinds=(TaskKind.EXEC,),
            programs=ProgramTerms(publishers=(PUBLISHER,), most=ExecLimits()),
        )

    async def run(self, changed: Callable[[], None]) -> None:
        changed()
        await asyncio.Event().wait()

    async def check(self, task: TaskSpec) -> None:
        await asyncio.sleep(self._chance.random() * 0.01)

    async def generate(self, task: TaskSpec) -> AsyncGenerator[EngineOutput, None]:
        truth, plan = self._world.truth, self._world.task_of(task)
        assert isinstance(task.input, ExecInput)
        if missing := blobs_of(task.input).keys() - self._disk.stock:
            truth.violated("started without its bundle", f"n{self._node} {task.task_id}: {missing}")
        truth.computes(self._node, task.task_id)
        try:
            await asyncio.sleep(plan.tokens * plan.token_s)
            yield Printed(data=f"{plan.number}\n".encode())
            if self._disk.full:
                raise EngineError(Reason.STORAGE_FULL, "what it left does not fit")
            yield self._ran(plan)
        finally:
            truth.rests(self._node, task.task_id)

    def _ran(self, plan: TaskPlan) -> Ran:
        """Of every third program all runs leave the same, of others each its own; some fail."""
        who = "" if plan.number % 3 == 0 else f" on {self._node} {self._chance.random()}"
        left = f"what {plan.number % 5} made{who}".encode()
        stdout = f"{plan.number}\n".encode()
        members = [FileLeaf(path, len(it), sha256_of(it)) for path, it in ((b"out/a", left), (b"stdout", stdout))]
        return Ran(
            end=SandboxExit(kind=ExitKind.EXITED, code=plan.number % 7 == 6),
            members=(*members, FileLeaf(b"stderr", 0, sha256_of(b""))),
            artifact=SimDraft(left + stdout),
            stdout_tail=stdout.decode(),
            stderr_tail="",
        )

    @asynccontextmanager
    async def replayer(self) -> AsyncIterator[SimReplayer]:
        raise EngineError(Reason.UNSUPPORTED_KIND, "programs are not repeated")
        yield


class SimArtifacts:
    """Implements ports.Artifacts over a NodeDisk, for one life of the node."""

    def __init__(self, disk: NodeDisk, chance: random.Random) -> None:
        self._disk, self._chance = disk, chance

    async def keep(self, key: LeaseKey, artifact: Artifact) -> None:
        assert isinstance(artifact, SimDraft)
        await asyncio.sleep(self._disk.write_s * self._chance.random())
        room_on(self._disk)
        self._disk.spool[key] = artifact.blob, artifact.content
        await asyncio.sleep(self._disk.write_s * self._chance.random())

    def of(self, key: LeaseKey) -> Blob | None:
        return self._disk.spool[key][0] if key in self._disk.spool else None

    async def read(self, key: LeaseKey) -> bytes | None:
        await asyncio.sleep(self._disk.write_s * self._chance.random())
        return self._disk.spool[key][1] if key in self._disk.spool else None

    def drop(self, key: LeaseKey) -> None:
        self._disk.spool.pop(key, None)

    def retain(self, keys: Collection[LeaseKey]) -> None:
        for key in self._disk.spool.keys() - set(keys):
            del self._disk.spool[key]


class SimIncoming:
    """Implements ports.Incoming."""

    def __init__(self, disk: NodeDisk, sha256: str, chance: random.Random) -> None:
        self._disk, self.sha256, self._chance = disk, sha256, chance
        self._content = b""

    def write(self, piece: bytes) -> None:
        self._content += piece

    def restart(self) -> None:
        self._content = b""

    async def settle(self) -> None:
        await asyncio.sleep(self._disk.write_s * self._chance.random())
        room_on(self._disk)
        if sha256_of(self._content) != self.sha256:
            raise EngineError(Reason.BLOB_UNAVAILABLE, "other bytes came than were announced")
        self._disk.stock.add(self.sha256)

    def __enter__(self) -> SimIncoming:
        return self

    def __exit__(self, *_exc: object) -> None:
        return None


class SimStock:
    """Implements ports.Stock over a NodeDisk."""

    def __init__(self, disk: NodeDisk, chance: random.Random) -> None:
        self._disk, self._chance = disk, chance

    def lacking(self, task: ExecInput) -> Mapping[str, int]:
        return {sha256: size for sha256, size in blobs_of(task).items() if sha256 not in self._disk.stock}

    async def incoming(self, name: str, size: int) -> SimIncoming:
        if self._disk.full:
            raise StorageError("no space left", full=True)
        return SimIncoming(self._disk, name, self._chance)
