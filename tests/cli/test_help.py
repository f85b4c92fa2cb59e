"""What `--help` says: of every verb a sentence and an example, of every option a sentence; and nothing is too wide."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from agent.cli.main import GROUPS, VERBS, command, run
from tests.cli.spelling import faults_of

WIDTH = 80


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every verb, and below it every verb of its own."""
    context = click.Context(command, info_name="gpu-agent")
    for verb in VERBS:
        found = command.get_command(context, verb)
        assert found is not None
        yield verb, found
        if isinstance(found, click.Group):
            yield from ((f"{verb} {name}", below) for name, below in found.commands.items())


COMMANDS = dict(commands())


@pytest.mark.parametrize("verb", COMMANDS)
def test_every_option_says_in_words_what_it_is_for(verb: str) -> None:
    for option in COMMANDS[verb].params:
        if isinstance(option, click.Option):
            said = option.help or ""
            assert len(said.split()) >= 3, (option.name, said)
            assert said.endswith((".", "]")), (option.name, said)
            assert "RANGE" not in (option.make_metavar(click.Context(COMMANDS[verb])) or "")


@pytest.mark.parametrize("verb", COMMANDS)
def test_every_verb_begins_with_a_sentence(verb: str) -> None:
    first = (COMMANDS[verb].help or "").strip().split("\n\n")[0]
    assert first.endswith("."), first
    assert len(COMMANDS[verb].get_short_help_str(WIDTH).split()) >= 2


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_shows_an_example_that_the_command_line_takes(verb: str) -> None:
    examples = [line for line in (COMMANDS[verb].help or "").splitlines() if line.startswith("    ")]
    assert any(f"gpu-agent {verb}" in example for example in examples), COMMANDS[verb].help
    assert [fault for example in examples for fault in faults_of(example)] == []


def test_no_verb_is_told_twice_and_none_takes_two_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert sum(map(len, GROUPS.values())) == len(VERBS)
    assert run(["--help"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= WIDTH
    for verb, told in VERBS.items():
        assert re.search(rf"^  {verb} +{re.escape(told.summary)}$", out, re.MULTILINE), verb


def test_every_usage_fault_is_one_line_and_where_to_read_on(capsys: pytest.CaptureFixture[str]) -> None:
    for words, said, where in (
        (["posp", "--stake", "x"], "error: invalid value for '--stake': 'x' is not a valid number", "posp"),
        (["coordinator"], "error: missing option '--state-dir'", "coordinator"),
        (["power"], "error: missing argument '{hold|give-back}'. Choose from: hold, give-back", "power"),
        (["config", "shwo"], "error: no such command 'shwo'", "config"),
    ):
        assert run(words) == 2
        first, second = capsys.readouterr().err.splitlines()
        assert first.startswith(said)
        assert second == f"  → gpu-agent {where} --help"


def test_no_colour_where_nobody_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def shown(**environ: str) -> bytes:
        ours, theirs = os.openpty()
        subprocess.run(
            [sys.executable, "-m", "agent", "posp"],
            stdout=theirs,
            check=True,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[2]), **environ},
            timeout=60,
        )
        os.close(theirs)
        with os.fdopen(ours, "rb", buffering=0) as screen:
            return screen.read(4096)

    assert b"\x1b[1m" in shown()
    assert b"\x1b" not in shown(NO_COLOR="1")
