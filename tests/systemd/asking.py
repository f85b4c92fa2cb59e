"""A requester inside the box: `tests.systemd.asking submit COUNT` prints task ids, `states ID...` their states.

Greedy sampling keeps the tiny model from ending its text, so a task runs long enough to be caught at it.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from agent.core.model import CompletionInput
from agent.devnet.core.asking import SamplingAsked
from agent.devnet.requester import Requester

URL = "http://127.0.0.1:7070"
STATE = Path("/var/lib/coordinator")
TOKENS = 2000
GREEDY = SamplingAsked(temperature_micros=0)


async def submit(count: str) -> list[str]:
    async with _requester() as requester:
        [node] = (await requester.nodes()).nodes
        assert node.fingerprint is not None
        [model] = node.fingerprint.models
        prompt = CompletionInput(prompt="a")
        return [
            await requester.submit(model.digest, prompt, max_tokens=TOKENS, sampling=GREEDY) for _ in range(int(count))
        ]


async def states(*task_ids: str) -> list[str]:
    async with _requester() as requester:
        return [(await requester.task(task_id)).state.value for task_id in task_ids]


def _requester() -> Requester:
    return Requester(URL, (STATE / "requester.token").read_text().strip())


if __name__ == "__main__":
    verb, *arguments = sys.argv[1:]
    print(*asyncio.run({"submit": submit, "states": states}[verb](*arguments)))
