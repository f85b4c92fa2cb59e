"""Reads command lines as a shell and click do, without carrying anything out: for what help and documents show."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

import click

from agent.cli.main import VERBS, command

_PLACEHOLDER = re.compile(r"…|<[^>]*>")
_PREFIXES = ("sudo", "systemd-run", "exec", "time")


def faults_of(text: str) -> Iterator[str]:
    """What is wrong with each `gpu-agent …` or `./run …` in one line of shell."""
    for words in _calls(text):
        yield from (f"{shlex.join(words)}: {fault}" for fault in _faults(words))


def _calls(text: str) -> Iterator[list[str]]:
    """The words after the program's name, of every call in the line."""
    for part in re.split(r"\|\|?|&&|;|\$\(|\)", text):
        try:
            words = [word.strip("[]") for word in shlex.split(_PLACEHOLDER.sub("X", part), comments=True)]
        except ValueError:  # a quote that goes on in the next line, or an apostrophe of prose
            continue
        for place, word in enumerate(words):
            if word in ("gpu-agent", "./run") and all(
                before.startswith("-") or "/" in before or "=" in before or before in _PREFIXES
                for before in words[:place]
            ):
                yield words[place + 1 :]
                break


def _faults(words: list[str]) -> Iterator[str]:
    if not words or words[0] in ("test", "check", "make", "tool") or words[0].isupper():
        return
    if words[0].startswith("-"):
        return
    if words[0] not in VERBS:
        yield f"{words[0]} is no verb"
        return
    context = click.Context(command, info_name="gpu-agent")
    found, rest = command.get_command(context, words[0]), words[1:]
    if isinstance(found, click.Group) and rest and not rest[0].startswith("-"):
        below = found.commands.get(rest[0])
        if below is None:
            yield f"{words[0]} has no {rest[0]}"
            return
        found, rest = below, rest[1:]
    assert found is not None
    try:
        found.make_parser(click.Context(found, info_name=words[0])).parse_args(list(rest))
    except click.UsageError as error:
        yield error.format_message()
