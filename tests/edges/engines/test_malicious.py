"""An engine that is out to harm us, in the real sandbox under the real supervisor, costs its pool and no more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from agent.core.model import Reason
from tests.edges.engines.siege import Came, Case, Report
from tests.sandboxes import require_sandbox

REPOSITORY = Path(__file__).parents[3]
MOST_MEMORY_BYTES = 96 << 20
"""Fourteen of them at once, each with a reply of 4 MiB and a stream's buffers; they send gigabytes."""


class Want(NamedTuple):
    """What a case must come to."""

    ready: bool
    reason: str = ""
    words: str = ""
    """Part of what is told about it."""


NEVER = Want(False, words="did not load the model")
GARBAGE = Want(True, Reason.ENGINE_GARBAGE, "unusable")
GONE = Want(True, Reason.ENGINE_UNAVAILABLE)
FINE = Want(True)
KILLED, ENDED = "SIGKILL", "exit status 0"
CASES = {
    # It lies about being ready, or cannot be understood when it is asked.
    Case("die", "/health"): Want(False, words=KILLED),
    Case("hang", "/health"): NEVER,
    Case("no HTTP", "/health"): NEVER,
    Case("endless headers", "/health"): NEVER,
    Case("a header a letter at a time", "/health"): NEVER,
    Case("a gigabyte", "/health"): NEVER,
    Case("another place", "/health"): NEVER,
    Case("escape codes in an error", "/health"): NEVER,
    Case("never listens", "start"): NEVER,
    Case("last words", "start"): Want(False, words="exit status 3"),
    Case("forks away", "start"): Want(False, words=ENDED),
    # It is healthy, and cannot be used: the canary tells.
    Case("die", "/props"): Want(False, words=KILLED),
    Case("die", "/tokenize"): Want(False, words=KILLED),
    Case("hang", "/apply-template"): Want(False, words="did not answer in time"),
    Case("a gigabyte", "/props"): Want(False, words="longer than"),
    Case("a gigabyte", "/tokenize"): Want(False, words="longer than"),
    Case("deep nesting", "/tokenize"): Want(False, words="unusable"),
    Case("huge numbers", "/tokenize"): Want(False, words="unusable"),
    Case("invalid UTF-8", "/apply-template"): Want(False, words="unusable"),
    Case("escape codes in a value", "/props"): FINE,
    Case("escape codes in an error", "canary"): Want(False, words="the engine answered 500"),
    Case("an endless answer", "canary"): Want(False, words="unusable"),
    # It does what it should until a task comes.
    Case("die", "task"): Want(True, Reason.ENGINE_CRASHED, KILLED),
    Case("exit", "task"): Want(True, Reason.ENGINE_CRASHED, ENDED),
    Case("dead after a token", "task"): Want(True, Reason.ENGINE_CRASHED, KILLED),
    Case("hang", "task"): GONE,
    Case("drop", "task"): GONE,
    Case("broken off", "task"): GONE,
    Case("silent after a token", "task"): GONE,
    Case("no HTTP", "task"): GARBAGE,
    Case("words in place of HTTP", "task"): GARBAGE,
    Case("a huge header", "task"): GARBAGE,
    Case("endless headers", "task"): GARBAGE,
    Case("endless small headers", "task"): GARBAGE,
    Case("endless continuation", "task"): GONE,
    Case("a header a letter at a time", "task"): GONE,
    Case("a negative length", "task"): GARBAGE,
    Case("two lengths", "task"): GARBAGE,
    Case("too short for its length", "/tokenize"): Want(False, words="broke off"),
    Case("a body a letter at a time", "/tokenize"): Want(False, words="in time"),
    Case("an endless body", "/tokenize"): Want(False, words="longer than"),
    Case("endless chunks", "task"): GARBAGE,
    Case("endless chunk sizes", "task"): GONE,
    Case("endless trailers", "task"): GONE,
    Case("a bad chunk", "task"): GARBAGE,
    Case("zipped", "/tokenize"): Want(False, words="unusable"),
    Case("another place", "task"): GONE,
    Case("another protocol", "task"): GONE,
    Case("escape codes in an error", "task"): GONE,
    Case("escape codes in a type", "task"): GARBAGE,
    Case("an error in the stream", "task"): GONE,
    Case("an end of its own", "task"): GARBAGE,
    Case("tokens without an end", "task"): GARBAGE,
    Case("an endless answer", "task"): GARBAGE,
    Case("an endless answer without tokens", "task"): GARBAGE,
    Case("an endless line", "task"): GARBAGE,
    # It harms by what it does beside.
    Case("floods stderr", "start"): FINE,
    Case("ignores being asked to stop", "start"): FINE,
    Case("descriptors", "/props"): Want(True),
    Case("another model", "task"): FINE,
    Case("an answer to somebody else", "task"): FINE,
    # It puts something else where its socket was.
    Case("a link", "socket"): Want(False),
    Case("a dangling link", "socket"): Want(False),
    Case("a link to itself", "socket"): Want(False),
    Case("a directory", "socket"): Want(False),
    Case("a file", "socket"): Want(False),
    Case("another kind of socket", "socket"): Want(False),
    Case("now this, now that", "flipping"): Want(True),
}


class Siege(NamedTuple):
    report: Report
    log: str


@pytest.fixture(scope="module")
def siege() -> Siege:
    require_sandbox()
    if not os.access("/usr/bin/python3", os.X_OK):
        pytest.skip("the engine needs a Python in /usr/bin")
    done = subprocess.run(
        [sys.executable, "-m", "tests.edges.engines.siege"],
        input=json.dumps(list(CASES)).encode(),
        capture_output=True,
        cwd=REPOSITORY,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    return Siege(msgspec.json.decode(done.stdout, type=Report), done.stderr.decode())


def all_of(came: Came) -> str:
    return f"{came.detail} {came.message}"


def unclean(text: str) -> set[str]:
    """Characters that do something to a terminal, other than ending a line."""
    return {char for char in text if unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp") and char != "\n"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_costs_its_own_task_or_its_own_pool(siege: Siege, case: Case) -> None:
    came, want = siege.report.cases[case.name], CASES[case]
    if case.at == "flipping":  # whichever it was at the moment that we looked
        return
    assert (came.ready, came.reason) == (want.ready, want.reason), came
    assert want.words in all_of(came), came
    assert bool(came.requests) == (want.ready and not want.reason), "an answer is whole or there is none"


def test_no_word_of_it_reaches_the_terminal_as_more_than_words(siege: Siege) -> None:
    for name, came in siege.report.cases.items():
        assert not unclean(all_of(came)), name
        assert "\n" not in all_of(came), f"{name}: it could make a line that looks like ours"
        assert len(came.message) < 600, name
        assert len(came.detail) < 1000, name
    assert not unclean(siege.log)
    assert all(" engine." in line for line in siege.log.splitlines()), "every line of the log is ours"


def test_it_never_makes_us_talk_to_a_socket_of_the_host(siege: Siege) -> None:
    assert [name for name, came in siege.report.cases.items() if came.visits] == []


def test_nothing_of_it_stays(siege: Siege) -> None:
    assert [name for name, came in siege.report.cases.items() if came.left] == []
    assert siege.report.descriptors_after == siege.report.descriptors_before


def test_gigabytes_cost_us_megabytes(siege: Siege) -> None:
    grown = siege.report.peak_bytes - siege.report.base_bytes
    held_up_ms = siege.report.largest_gap_s * 1000
    print(f"\n{len(CASES)} hostile engines: {grown >> 20} MiB more, the loop held up for {held_up_ms:.0f} ms at most")
    assert grown < MOST_MEMORY_BYTES


def test_two_answers_for_each_other_are_bound_to_two_requests(siege: Siege) -> None:
    """Which of them it answered, the proof of the work tells: no check of ours sees it in the bytes."""
    assert len(set(siege.report.cases["an answer to somebody else, task"].requests)) == 2
