"""Of what task, node and model a receipt bundle speaks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from agent.core.text import plain

if TYPE_CHECKING:
    from agent.core.model import ExecInput
    from agent.core.proof.receipt import Verdict
    from agent.core.wire import ResultBody


def told(verdict: Verdict) -> Iterable[str]:
    """Lines for people; everything in them comes from outside."""
    if verdict.case is None:
        return
    from agent.core.model import ExecInput

    offer, result = verdict.case.offer, verdict.case.result
    yield f"task     {word(offer.task.task_id)}, attempt {offer.attempt}, on node {word(offer.node_id)}"
    if isinstance(asked := offer.task.input, ExecInput):
        yield from (*_program(asked, result), "")
        return
    yield f"model    {word(offer.task.model_digest)}"
    if result.commitment:
        usage = result.usage
        counts = f"{usage.prompt_tokens} of prompt, {usage.completion_tokens} of output"
        yield f"tokens   {counts} ({result.output_bytes} bytes)"
    yield ""


def _program(asked: ExecInput, result: ResultBody) -> Iterable[str]:
    yield f"program  {word(' '.join(asked.argv))}"
    yield f"bundle   {word(asked.bundle.sha256)}, by publisher {word(asked.bundle.publisher)}"
    if result.artifact:
        yield f"end      {result.reason.value.replace('_', ' ')}; what it left has {result.artifact.bytes} bytes"


def word(text: str) -> str:
    """On one line, and not too long."""
    return plain(text, 128).replace("\n", " ")
