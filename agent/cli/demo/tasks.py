"""The requester's side: real chat tasks, followed token by token, each receipt checked offline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from agent.cli.demo.screen import Screen
from agent.core.errors import ProofError
from agent.core.model import ChatInput, Message, Value
from agent.core.proof.receipt import verify_bundle
from agent.core.wire import ReceiptBody, ReceiptBundle, ResultBody
from agent.devnet.core.asking import SamplingAsked
from agent.devnet.core.records import TaskState
from agent.devnet.requester import Requester
from agent.devnet.streams import ChunkSeen
from agent.devnet.views import NodeView, TaskView
from agent.edges.signing import verify

QUESTIONS = (
    "What is the capital of France?",
    "How do plants make food?",
    "What is a GPU?",
    "What is a library?",
    "How does rain form?",
)
MAX_TOKENS = 48
GREEDY = SamplingAsked(temperature_micros=0, stop=("\n",))


class Done(Value):
    """One answered task."""

    task_id: str
    node_id: str

    tokens: int
    verified: bool


class Tasks:
    """Asks, shows and verifies."""

    def __init__(
        self, requester: Requester, screen: Screen, node: NodeView, coordinator_key: str, receipts: Path
    ) -> None:
        self._requester = requester
        self._screen = screen
        self.model = node.fingerprint.pools[0].model_digest if node.fingerprint else ""
        self._coordinator_key = coordinator_key
        self._receipts = receipts

    async def ask(self, question: str, sampling: SamplingAsked = GREEDY, max_tokens: int = MAX_TOKENS) -> Done:
        """One task, its words shown as they come."""
        self._screen.fact("chat", question, "do")
        asked, first = time.monotonic(), 0.0
        task = await self._submit(question, sampling, max_tokens)
        self._screen.indent()
        async for event in self._requester.events(task):
            if isinstance(event, ChunkSeen):
                first = first or time.monotonic()
                self._screen.words(event.text)
            elif isinstance(event, TaskView):
                self._screen.line()
                return await self._ended(event, first - asked, time.monotonic() - (first or asked))
        raise AssertionError("the stream of a task ends with its result")

    async def ask_at_once(self, questions: Sequence[str]) -> list[Done]:
        """Several tasks at the same time, shown when they end."""
        self._screen.fact("at once", " and ".join(f'"{question}"' for question in questions), "do")
        tasks = [await self._submit(question) for question in questions]
        views = await asyncio.gather(*map(self._requester.result, tasks))
        done = []
        for view in views:
            self._screen.indent()
            self._screen.words(_text(view))
            self._screen.line()
            done.append(await self._ended(view, 0.0, 0.0))
        return done

    async def _submit(self, question: str, sampling: SamplingAsked = GREEDY, max_tokens: int = MAX_TOKENS) -> str:
        task_input = ChatInput(messages=(Message(role="user", content=question),))
        return await self._requester.submit(self.model, task_input, max_tokens=max_tokens, sampling=sampling)

    async def _ended(self, view: TaskView, first_s: float, stream_s: float) -> Done:
        if view.state is not TaskState.SETTLED:
            self._screen.fact("task", f"{view.state.value}: {view.detail}", "bad")
            return Done(task_id=view.task_id, node_id=view.node_id, tokens=0, verified=False)
        tokens = view.usage.completion_tokens if view.usage else 0
        if stream_s:
            rate = f"{tokens / stream_s:.0f} tokens/s, first after {first_s * 1000:.0f} ms"
            self._screen.fact("", f"{tokens} tokens, {rate}")
        verified = await self._verified(view.task_id)
        return Done(task_id=view.task_id, node_id=view.node_id, tokens=tokens, verified=verified)

    async def _verified(self, task_id: str) -> bool:
        bundle = await self._requester.receipt(task_id)
        try:
            checks = verify_bundle(bundle, verify, coordinator_key=self._coordinator_key)
        except ProofError as error:
            self._screen.fact("receipt", f"{error.check} fails: {error}", "bad")
            return False
        self._receipts.mkdir(exist_ok=True)
        (self._receipts / f"{task_id}.json").write_bytes(msgspec.json.encode(bundle))
        self._show(bundle, checks)
        return True

    def _show(self, bundle: ReceiptBundle, checks: Sequence[str]) -> None:
        result = msgspec.json.decode(bundle.result.payload, type=ResultBody)
        receipt = msgspec.json.decode(bundle.receipt.payload, type=ReceiptBody)
        if result.commitment is not None:
            self._screen.fact(
                "proved", f"commitment {result.commitment.root[:16]}… over {result.commitment.leaves} leaves"
            )
        self._screen.fact("receipt", f"{receipt.receipt_id}: {len(checks)} checks pass offline")
        self._screen.fact("ledger", f"+{receipt.amount_micros / 1e6:.6f} {receipt.currency}")


def _text(view: TaskView) -> str:
    return str(msgspec.json.decode(view.output).get("text", "")) if view.output else ""
