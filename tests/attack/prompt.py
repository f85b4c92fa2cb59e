"""Another prompt than the asked one: one word differs."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator

import msgspec

from agent.core.model import TaskSpec
from agent.ports import EngineOutput, EnginePool, Finished
from tests.attack.field import Field
from tests.attack.honest import sampled
from tests.attack.outcome import Counts, count
from tests.attack.pools import Warm
from tests.attack.prompts import other_word
from tests.attack.rows import Wanted, row


class OtherPrompt(Warm):
    """Answers a slightly different question. `lies`: it commits to the digest of the one that was asked."""

    def __init__(self, inner: EnginePool, *, lies: bool) -> None:
        super().__init__(inner)
        self._lies = lies

    async def generate(self, task: TaskSpec) -> AsyncGenerator[EngineOutput, None]:
        told = await self._asked(task) if self._lies else None
        other = msgspec.structs.replace(task, input=other_word(task.input, task.sampling.seed))
        async with contextlib.aclosing(self.inner.generate(other)) as outputs:
            async for output in outputs:
                if isinstance(output, Finished) and told is not None:
                    usage = msgspec.structs.replace(output.usage, prompt_tokens=told.usage.prompt_tokens)
                    yield msgspec.structs.replace(output, usage=usage, prompt_sha256=told.prompt_sha256)
                else:
                    yield output

    async def _asked(self, task: TaskSpec) -> Finished:
        """What its engine says of the true prompt: one token is cheap."""
        async with contextlib.aclosing(self.inner.generate(msgspec.structs.replace(task, max_tokens=1))) as outputs:
            finished = [output async for output in outputs if isinstance(output, Finished)]
        return finished[0]


@row("prompt-told", "one word of the prompt changed, and so its digest", 50)
async def told(field: Field, runs: int) -> Counts:
    async with field.engine() as pool:
        return count(await field.tried(OtherPrompt(pool, lies=False), map(sampled, field.numbers(runs)), leaves=4))


@row("prompt-forged", "one word of the prompt changed, its digest forged; m=4", 100, Wanted(caught=0.6))
async def forged(field: Field, runs: int) -> Counts:
    async with field.engine(slots=4) as pool:
        asked = (sampled(one, max_tokens=128) for one in field.numbers(runs))
        found = await field.tried(OtherPrompt(pool, lies=True), asked, leaves=4)
        return count(found)
