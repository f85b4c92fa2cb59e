"""A requester inside the box: `python -m tests.systemd.asking submit` prints a task id, `state ID` its state.

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
TOKENS = 3500
GREEDY = SamplingAsked(temperature_micros=0)


async def submit() -> str:
    async with _requester() as requester:
        [node] = (await requester.nodes()).nodes
        assert node.fingerprint is not None
        [model] = node.fingerprint.models
        return await requester.submit(model.digest, CompletionInput(prompt="a"), max_tokens=TOKENS, sampling=GREEDY)


async def state(task_id: str) -> str:
    async with _requester() as requester:
        return (await requester.task(task_id)).state.value


def _requester() -> Requester:
    return Requester(URL, (STATE / "requester.token").read_text().strip())


if __name__ == "__main__":
    verb, *arguments = sys.argv[1:]
    print(asyncio.run({"submit": submit, "state": state}[verb](*arguments)))
