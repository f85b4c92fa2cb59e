"""`gpu-agent ask`: ask a model on some node, and see the answer as it comes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from agent.cli.options import Where, asks_a_coordinator

MOST_BYTES = 1 << 20
"""More than any model reads at once."""


def _keepable(_ctx: click.Context, _param: click.Parameter, file: Path | None) -> Path | None:
    """Whether it can be written is seen before anything is asked for."""
    if file is not None and not os.access(file if file.exists() else file.absolute().parent, os.W_OK):
        raise click.BadParameter(f"{file} cannot be written")
    return file


@click.command(short_help="Ask a model on some node, and see the answer as it comes.")
@click.argument("question", required=False)
@asks_a_coordinator
@click.option("--model", default="", metavar="NAME", help="Which (or its digest), where nodes offer several.")
@click.option("--system", default="", metavar="TEXT", help="What the model is told before the question.")
@click.option("--completion", is_flag=True, help="Continue the text as it stands, without the model's chat template.")
@click.option(
    "--max-tokens",
    default=256,
    show_default=True,
    type=click.IntRange(1, 131_072),
    help="The longest answer, in tokens.",
)
@click.option(
    "--temperature",
    default=0.8,
    show_default=True,
    type=click.FloatRange(0, 5),
    help="How freely it draws; 0: the likeliest token always.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 0xFFFF_FFFE),
    help="What the draws follow from; the coordinator's choice when not given.",
)
@click.option("--stop", multiple=True, metavar="TEXT", help="End the answer before this text; may be repeated.")
@click.option("--deadline-s", type=click.FloatRange(1), help="Give up after so long, queued or running.")
@click.option(
    "--receipt",
    callback=_keepable,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Keep the receipt, for `gpu-agent verify`.",
)
@click.option(
    "--wait", is_flag=True, help="Also wait until it is known whether it was challenged, and what came of it."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object at the end, instead of the answer.")
def command(
    question: str | None,
    where: Where,
    model: str,
    system: str,
    completion: bool,
    max_tokens: int,
    temperature: float,
    seed: int | None,
    stop: tuple[str, ...],
    deadline_s: float | None,
    receipt: Path | None,
    wait: bool,
    as_json: bool,
) -> int:
    """Send QUESTION (standard input when it is - or not given) to a coordinator, which has a node answer it.

    \b
        gpu-agent ask "What is a GPU?" --coordinator URL --token-file FILE --receipt r.json
        gpu-agent verify r.json

    The answer goes to standard output, all else to standard error; the last line tells of the receipt, and whether
    the answer was challenged. Ctrl-C cancels the task. Exit status: 0 answered; 1 no answer, or one that the receipt or
    a judgement speaks against; 3 suspect; 69 no coordinator there; 75 try again later; 77 it does not take the token.
    """
    import asyncio

    from agent.cli import answering
    from agent.core.model import ChatInput, CompletionInput, Message
    from agent.devnet.core.asking import SamplingAsked

    if completion and system:
        raise click.UsageError("--system is for chats: a completion continues the text as it stands")
    text = _read(question)
    turns = [("system", system)] if system else []
    messages = tuple(Message(role=role, content=content) for role, content in [*turns, ("user", text)])
    asked = answering.Asked(
        CompletionInput(prompt=text) if completion else ChatInput(messages=messages),
        model,
        max_tokens,
        SamplingAsked(temperature_micros=round(temperature * 1e6), seed=seed, stop=stop),
        deadline_s,
    )
    return asyncio.run(answering.ask(where, asked, answering.Shown(receipt, wait, as_json)))


def _read(question: str | None) -> str:
    if question in (None, "-"):
        if sys.stdin.isatty():
            click.echo("Type the question; Ctrl-D on a line of its own ends it.", err=True)
        read = sys.stdin.buffer.read(MOST_BYTES + 1)
        if len(read) > MOST_BYTES:
            raise click.UsageError(f"the question has more than {MOST_BYTES:,} bytes")
        question = read.decode("utf-8", "surrogateescape")
    assert question is not None
    if not question.strip():
        raise click.UsageError("there is no question: give it as an argument or on standard input")
    if not _is_text(question):
        raise click.UsageError("the question is not text in UTF-8")
    return question


def _is_text(text: str) -> bool:
    """Bytes that are none come as surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in text)
