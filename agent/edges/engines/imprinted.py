"""A pool that imprints the hidden states of what it says: one engine answers, a second one reads the answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable

import msgspec

from agent.core import engines
from agent.core.errors import EngineError
from agent.core.fingerprint import Pool
from agent.core.model import ChatInput, CompletionInput, Reason, TaskInput, TaskSpec
from agent.core.proof.toploc import imprint
from agent.edges.verifier.states import WithStates
from agent.ports import EngineOutput, EnginePool, Finished, Imprints, Piece, Replayer


class ImprintedPool:
    """Implements ports.EnginePool. Takes work only while both engines are ready: no answer goes out without."""

    def __init__(self, answers: EnginePool, states: EnginePool) -> None:
        """`states`: of the same weights, with `LlamaSettings.states`."""
        self._answers = answers
        self._states = states

    @property
    def facts(self) -> Pool:
        """Those of the engine that answers; `ready` when both are."""
        facts, states = self._answers.facts, self._states.facts
        if not facts.ready or states.ready:
            return facts
        return msgspec.structs.replace(facts, ready=False, detail=f"hidden states: {states.detail}")

    async def run(self, changed: Callable[[], None]) -> None:
        """See the port."""
        async with asyncio.TaskGroup() as group:
            for pool in (self._answers, self._states):
                group.create_task(pool.run(changed), name=f"run {pool.facts.name}")

    async def check(self, task: TaskSpec) -> None:
        """See the port."""
        await self._answers.check(task)

    async def generate(self, task: TaskSpec) -> AsyncGenerator[EngineOutput, None]:
        """Imprints come before Finished, when all has been said. Raises EngineError."""
        ids: list[int | None] = []
        async with contextlib.aclosing(self._answers.generate(task)) as outputs:
            async for output in outputs:
                if isinstance(output, Piece):
                    ids.append(output.token_id)
                elif isinstance(output, Finished) and (told := _told(ids)):
                    yield Imprints(of_leaves=await self._of(task.input, output.prompt_sha256, told))
                yield output

    async def _of(self, given: TaskInput, prompt_sha256: str, ids: list[int]) -> tuple[bytes, ...]:
        assert isinstance(given, ChatInput | CompletionInput)  # nothing else has tokens
        async with self.replayer() as replayer:
            prompt = await replayer.prompt_ids(given)
            if engines.prompt_digest(prompt) != prompt_sha256:
                raise EngineError(Reason.ENGINE_GARBAGE, "the engine made another prompt of this task than before")
            found = await replayer.peaks(prompt, ids)
        if found is None:
            raise EngineError(Reason.ENGINE_GARBAGE, "the engine for hidden states tells none")
        return tuple([await asyncio.to_thread(imprint, one) for one in found])

    @contextlib.asynccontextmanager
    async def replayer(self) -> AsyncIterator[Replayer]:
        """See the port; it tells hidden states, too."""
        async with self._answers.replayer() as answers, self._states.replayer() as states:
            yield WithStates(answers, states)


def _told(ids: list[int | None]) -> list[int]:
    """Up to the first that the engine withheld: what is behind it cannot be read without it."""
    told: list[int] = []
    for token in ids:
        if token is None:
            break
        told.append(token)
    return told
