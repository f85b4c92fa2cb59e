"""Those who ask for tasks: they ask again until they hear an id, and sometimes they change their mind."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from agent.core.program import RUNTIME
from agent.core.wire import RefusalCode
from agent.devnet.core import asking
from agent.devnet.core.effects import Decision
from agent.devnet.core.records import TaskState
from agent.devnet.core.rules import Refused
from agent.devnet.desk import Desk
from tests import builders
from tests.sim.files import sha256_of
from tests.sim.loop import Owner
from tests.sim.plan import TaskPlan
from tests.sim.programs import BUNDLES, program

if TYPE_CHECKING:
    from tests.sim.world import World

ANSWER_S = 10.0


class SimRequester:
    """All requesters, in one process."""

    def __init__(self, world: World, chance: random.Random) -> None:
        self._world, self._chance = world, chance
        self._owner = Owner(world.loop, "requester")
        self._open = 0
        self._ids: dict[int, str] = {}

    @property
    def idle(self) -> bool:
        return self._open == 0

    def plan(self, task: TaskPlan) -> None:
        self._open += 1
        self._owner.spawn(self._live(task), f"request {task.number}")

    def settled(self, number: int) -> bool:
        task_id = self._ids.get(number, "")
        progress = self._world.authority.disk.progress.get(task_id)
        return progress is not None and progress.state is TaskState.SETTLED

    async def _live(self, task: TaskPlan) -> None:
        await asyncio.sleep(task.at - self._world.loop.time())
        task_id = await self._submit(task)
        self._ids[task.number] = task_id
        self._world.truth.acknowledged(task_id)
        if task.cancel_after_s is not None:
            await asyncio.sleep(task.cancel_after_s)
            await self._until_answered(lambda desk: asking.cancel(desk.book, desk.when(), task_id))
        self._open -= 1

    async def _submit(self, task: TaskPlan) -> str:
        asked = self._asked(task)
        tries = 0

        def submit(desk: Desk) -> Decision[str]:
            nonlocal tries
            tries += 1
            return asking.submit(
                desk.book, desk.when(), asked, f"t{task.number}.{tries}", self._chance.randbytes(32).hex()
            )

        return await self._until_answered(submit)

    def _asked(self, task: TaskPlan) -> asking.TaskAsked:
        key, deadline_s = f"r{task.number}", task.deadline_s
        if task.program:
            self._world.authority.disk.files.update({sha256_of(it): it for it in BUNDLES})  # brought before
            return asking.TaskAsked(
                model_digest=RUNTIME, input=program(task), max_tokens=0, deadline_s=deadline_s, request_key=key
            )
        return asking.TaskAsked(
            model_digest=builders.MODEL,
            input=self._world.prompt(task.number),
            max_tokens=task.tokens,
            sampling=asking.SamplingAsked(temperature_micros=0),
            deadline_s=deadline_s,
            request_key=key,
        )

    async def _until_answered(self, decide: Callable[[Desk], Decision[Any]]) -> Any:
        while True:
            answer = asyncio.get_running_loop().create_future()
            authority = self._world.authority
            if authority.alive:
                authority.owner.spawn(self._carried_out(authority.desk, decide, answer), "request")
            try:
                async with asyncio.timeout(ANSWER_S * self._chance.random()):
                    return await answer
            except (TimeoutError, Refused):
                await asyncio.sleep(self._chance.random())

    async def _carried_out(
        self, desk: Desk, decide: Callable[[Desk], Decision[Any]], answer: asyncio.Future[Any]
    ) -> None:
        try:
            reply = await desk.carry_out(decide(desk))
        except Refused as error:
            if error.code is not RefusalCode.BUSY:
                self._world.truth.violated("request refused", error.message)
            if not answer.done():
                answer.set_exception(error)
            return
        if not answer.done():
            answer.set_result(reply)
