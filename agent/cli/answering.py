"""Has one question answered, shows the answer as it comes and what its receipt is worth: the work of `ask`."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import click
import msgspec

from agent.cli import judged
from agent.cli.options import Where
from agent.cli.requesting import Outage, TryAgain, asking, submitted, wanted, write_receipt
from agent.core.errors import AgentError, LinkError, LinkFault
from agent.core.model import ChatInput, CompletionInput, TaskKind
from agent.core.proof.receipt import Verdict, examine
from agent.core.text import counted, line, plain, span
from agent.core.wire import ReceiptBundle
from agent.devnet.core.asking import SamplingAsked
from agent.devnet.core.records import TaskState
from agent.devnet.core.rules import Refused
from agent.devnet.proof_views import Stage
from agent.devnet.requester import Requester
from agent.devnet.streams import ChunkSeen, Restarted, StateSeen
from agent.devnet.views import NodeView, TaskView
from agent.edges.drand import load_bls
from agent.edges.signing import verify

LOOK_EVERY_S = 1.0
LONG_AGO_S = 60.0
"""A node is heard of every few seconds; what this one offers may be gone with it."""
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_DECIDED = (Stage.NOT_DRAWN, Stage.JUDGED)


class Asked(NamedTuple):
    """A question, and how to answer it."""

    input: ChatInput | CompletionInput
    model: str
    """Name or digest; empty where there is only one."""
    max_tokens: int
    sampling: SamplingAsked
    deadline_s: float | None


class Shown(NamedTuple):
    """What to show of it, and where."""

    receipt: Path | None
    wait: bool
    as_json: bool


class Answer:
    """The text so far. A terminal shows it as it comes; what else reads it gets it whole, once it stands."""

    def __init__(self, *, silent: bool) -> None:
        self._silent = silent
        self._live = sys.stdout.isatty() and not silent
        self._attempt = 1
        self._told = ""
        self.text = ""

    def note(self, words: str) -> None:
        """Something about it, once."""
        if words != self._told:
            self._told = words
            click.echo(words, err=True)

    def more(self, text: str) -> None:
        """It goes on."""
        self.text += text
        if self._live:
            click.echo(plain(text, len(text)), nl=False)

    def again(self, attempt: int) -> None:
        """Another attempt begins it afresh; one that is told again does not."""
        if attempt <= self._attempt:
            return
        self._attempt = attempt
        if self._live and self.text:
            click.echo()
        self.text = ""
        self.note(f"attempt {attempt}: from the start")

    def whole(self, text: str) -> None:
        """All of it: show what was not shown."""
        if self._live:
            rest = text.removeprefix(self.text) if text.startswith(self.text) else f"\n{text}"
            click.echo(plain(rest, len(rest)))
        elif not self._silent:
            click.echo(text)


async def ask(where: Where, asked: Asked, shown: Shown) -> int:
    """Ask, show, and say what the receipt is worth; the exit status of the verb. Raises AgentError."""
    async with asking(where) as requester:
        digest = await _digest(requester, asked)
        submitting = requester.submit(
            digest, asked.input, max_tokens=asked.max_tokens, sampling=asked.sampling, deadline_s=asked.deadline_s
        )
        task_id = await submitted(requester, submitting)
        answer = Answer(silent=shown.as_json)
        view = await _answered(requester, task_id, answer)
        text = _text(view.output if view.output is not None else await requester.output(task_id))
        answer.whole(text)
        bundle = await requester.receipt(task_id)
        if shown.receipt:
            _keep(bundle, shown.receipt)
        if shown.wait:
            view, bundle = await _decided(requester, view, bundle, shown.receipt)
        verdict = examine(bundle, verify, bls=load_bls())
        if shown.as_json:
            click.echo(json.dumps(as_object(view, text, verdict), indent=2))
        else:
            click.echo(summary(view, verdict, shown.receipt), err=True)
        return _status(verdict)


async def _digest(requester: Requester, asked: Asked) -> str:
    """Of the model that is meant. Raises TryAgain where nobody offers one, and what click shows where it is unclear."""
    if _DIGEST.fullmatch(asked.model):
        return asked.model
    kind = TaskKind.CHAT if isinstance(asked.input, ChatInput) else TaskKind.COMPLETION
    offers = _offers((await requester.nodes()).nodes, kind)
    names = ", ".join(sorted({line(name, 64) for _, name in offers}))
    if not names:
        raise TryAgain(f"no node offers a model for a {kind.value}", remedy="Start a node with one: gpu-agent run")
    fitting = {digest: heard_s for (digest, name), heard_s in offers.items() if asked.model in ("", name)}
    if not fitting:
        raise click.BadParameter(f"no node offers {asked.model!r}; there are: {names}", param_hint="--model")
    if len(fitting) > 1:
        several = f"name one of these: {names}" if asked.model == "" else f"say which: {', '.join(sorted(fitting))}"
        raise click.BadParameter(f"nodes offer {len(fitting)} models; {several}", param_hint="--model")
    ((digest, heard_s),) = fitting.items()
    if heard_s > LONG_AGO_S:
        click.echo(f"nobody who offers it was heard of for {span(heard_s)}; the task waits in the queue", err=True)
    return digest


def _offers(nodes: tuple[NodeView, ...], kind: TaskKind) -> dict[tuple[str, str], float]:
    """(Digest, name) of each model, and how long ago one who offers it was heard."""
    offers: dict[tuple[str, str], float] = {}
    for node in nodes:
        pools = node.fingerprint.pools if node.fingerprint and node.heard_s is not None else ()
        for pool in (pool for pool in pools if kind in pool.kinds):
            model = (pool.model_digest, pool.model)
            offers[model] = min(offers.get(model, float("inf")), node.heard_s or 0.0)
    return offers


async def _answered(requester: Requester, task_id: str, answer: Answer) -> TaskView:
    """The settled task, followed to its end. Raises AgentError where there is no answer."""
    outage = Outage(task_id)
    answer.note(f"task {task_id}")
    async with wanted(requester, (task_id,)):
        async for event in requester.events(task_id, lost=outage.lost):
            outage.over()
            match event:
                case ChunkSeen(text=text):
                    answer.more(text)
                case Restarted(attempt=attempt):
                    answer.again(attempt)
                case StateSeen(state=TaskState.QUEUED):
                    answer.note("queued, until a node takes it")
                case StateSeen(state=TaskState.LEASED, node_id=node_id):
                    answer.note(f"on node {line(node_id, 100)}")
                case TaskView(state=TaskState.SETTLED):
                    return event
                case TaskView():
                    raise _unanswered(event)
    raise AssertionError("the stream of a task ends with its result")


def _unanswered(view: TaskView) -> AgentError:
    if not view.story and view.state is TaskState.FAILED:
        return TryAgain(f"no node took it: {line(view.detail, 500)}", remedy="Try again later, or --deadline-s longer")
    return AgentError(f"there is no answer; the task is {view.state.value}: {line(view.detail, 500)}")


def _text(output: str) -> str:
    """A node may have put anything there."""
    try:
        found = msgspec.json.decode(output)
    except (msgspec.DecodeError, RecursionError):
        return output
    return str(found["text"]) if isinstance(found, dict) and "text" in found else output


async def _decided(
    requester: Requester, view: TaskView, bundle: ReceiptBundle, receipt: Path | None
) -> tuple[TaskView, ReceiptBundle]:
    """The task once all is known of its challenge, and the bundle that shows it."""
    said, outage = "", Outage(view.task_id)
    while view.proof is not None and view.proof.stage not in _DECIDED:
        if view.proof.says != said:
            said = view.proof.says
            click.echo(f"proof: {line(said, 300)}", err=True)
        await asyncio.sleep(LOOK_EVERY_S)
        try:
            view = await requester.task(view.task_id)
        except LinkError as error:
            if error.fault is not LinkFault.UNREACHABLE:
                raise
            outage.lost(error.message)
        else:
            outage.over()
    if view.proof is None or view.proof.stage is not Stage.JUDGED:
        return view, bundle
    try:
        bundle = await requester.proof(view.task_id)
    except Refused:
        return view, bundle  # what was opened is kept for a while only
    if receipt:
        _keep(bundle, receipt)
    return view, bundle


def _keep(bundle: ReceiptBundle, file: Path) -> None:
    try:
        write_receipt(bundle, file)
    except OSError as error:
        raise AgentError(f"the receipt cannot be written to {file}: {error.strerror}") from error


def _status(verdict: Verdict) -> int:
    if verdict.error:
        return judged.FAILED
    return judged.status(verdict.case.judgement if verdict.case else None)


def summary(view: TaskView, verdict: Verdict, kept: Path | None) -> str:
    """One line of the receipt, and whether the answer was challenged."""
    if verdict.error or verdict.case is None:
        why = verdict.error.message if verdict.error else ""
        return f"receipt does NOT verify: {line(why, 300)}; do not rely on this answer"
    body, tokens = verdict.case.receipt, view.usage.completion_tokens if view.usage else 0
    cost = f"{body.amount_micros / 1e6:.6f} {line(body.currency, 32)}".rstrip()
    checks = f"{counted(len(verdict.passed), 'check')} pass"
    where = f", kept in {kept}" if kept else ""
    proof = line(view.proof.says, 300) if view.proof else "no challenge was promised"
    by = line(body.node_id, 64)
    return (
        f"receipt {line(body.receipt_id, 64)}: {checks}{where}; {counted(tokens, 'token')} by {by} for {cost}; {proof}"
    )


def as_object(view: TaskView, text: str, verdict: Verdict) -> dict[str, Any]:
    """For programs."""
    body = verdict.case.receipt if verdict.case and not verdict.error else None
    return {
        "task_id": view.task_id,
        "node_id": view.node_id or (body.node_id if body else ""),
        "model_digest": view.model_digest,
        "seed": view.seed,
        "text": text,
        "usage": msgspec.to_builtins(view.usage),
        "receipt": {
            "receipt_id": body.receipt_id if body else "",
            "verified": verdict.error is None,
            "detail": verdict.error.message if verdict.error else "",
            "amount_micros": view.amount_micros,
            "currency": view.currency,
        },
        "proof": msgspec.to_builtins(view.proof),
    }
