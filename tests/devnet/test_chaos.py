"""The coordinator is killed again and again while it works; nothing is lost and nothing counts twice."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TypeVar

import aiohttp
import pytest

from agent.core import wire
from agent.core.errors import LinkError
from agent.devnet.core.records import TaskState
from agent.devnet.core.rules import Refused
from agent.devnet.requester import Requester
from tests import builders
from tests.devnet.node import ScriptedNode
from tests.devnet.test_lifecycle import ASK, port_of, started
from tests.patience import within

T = TypeVar("T")
TASKS, KILLS = 60, 3
BROKEN = (aiohttp.ClientError, LinkError, Refused, AssertionError, ConnectionError)


async def again_and_again(work: Callable[[], Awaitable[T]]) -> T:
    """Until it works: the coordinator is away, or asks for a new hello."""
    while True:
        try:
            return await work()
        except BROKEN:
            await asyncio.sleep(0.05)


class Worker:
    """A node that keeps every result until it has a receipt, as the real one does."""

    def __init__(self, node: ScriptedNode) -> None:
        self.node = node
        self.unsent: dict[str, tuple[wire.OfferBody, wire.Result]] = {}
        self.receipts: list[wire.ReceiptBody] = []
        self._received = asyncio.Condition()

    async def done(self, more: int) -> None:
        """Wait for `more` receipts."""
        target = len(self.receipts) + more
        async with self._received:
            await self._received.wait_for(lambda: len(self.receipts) >= target)

    async def run(self) -> None:
        while True:
            await again_and_again(self._session)

    async def _session(self) -> None:
        await self.node.hello(unsent=tuple(offer.key for offer, _ in self.unsent.values()))
        while True:
            for offer in await self.node.pull(3, wait_s=1.0):
                assert (await self.node.start(offer)).ok
                self.unsent[offer.idem_key] = offer, self.node.actor.success(offer)
            for key, (_, result) in list(self.unsent.items()):
                self.receipts.append(await self.node.deliver(result))
                del self.unsent[key]
                async with self._received:
                    self._received.notify_all()


async def submit_all(requester: Requester) -> list[str]:
    async def submit(number: int) -> str:
        key = f"order {number}"
        return await requester.submit(builders.MODEL, ASK, max_tokens=16, request_key=key)

    return [await again_and_again(lambda number=number: submit(number)) for number in range(TASKS)]


@pytest.mark.slow
async def test_kills_at_any_moment_lose_no_task_and_pay_none_twice(tmp_path: Path) -> None:
    chance = random.Random(7)
    state, tokens = tmp_path / "state", tmp_path / "token"
    async with AsyncExitStack() as stack:
        process = await stack.enter_async_context(started(state, "--token-file", str(tokens), "--unstarted-s", "1"))
        port = port_of(process.url)
        token = (state / "requester.token").read_text().strip()
        node = await stack.enter_async_context(ScriptedNode(process.url, process.key))
        requester = await stack.enter_async_context(Requester(process.url, token))
        await node.enrol(tokens.read_text().strip())
        worker = Worker(node)
        working = asyncio.create_task(worker.run())
        stack.callback(working.cancel)
        asking = asyncio.create_task(submit_all(requester))
        for _ in range(KILLS):
            await within(worker.done(chance.randint(2, 12)))
            await process.kill(signal.SIGKILL)
            process = await stack.enter_async_context(started(state, "--port", port, "--unstarted-s", "1"))
        task_ids = await within(asking)
        views = [await within(requester.result(task_id)) for task_id in task_ids]
        ledger = await requester.ledger()
    assert len(set(task_ids)) == TASKS
    assert {view.state for view in views} == {TaskState.SETTLED}
    assert sorted(line.task_id for line in ledger.lines) == sorted(task_ids)
    accepted = [it.idem_key for it in worker.receipts if it.status is wire.ReceiptStatus.ACCEPTED]
    assert len(accepted) == len(set(accepted))
    assert {it.status for it in worker.receipts} <= {wire.ReceiptStatus.ACCEPTED, wire.ReceiptStatus.DUPLICATE}
