"""Log lines as the journal, a file and a terminal get them. The engine and the coordinator are hostile here."""

from __future__ import annotations

import io
import json
import logging
import os
import pty
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from agent.config import LogFormat, LogLevel, LogsConfig
from agent.core.model import Reason
from agent.edges.logs import REDACTED, configure, harmless, is_secret, under_journald


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    logging.captureWarnings(capture=False)
    root.handlers[:] = before
    root.setLevel(level)
    logging.getLogger("agent").setLevel(logging.NOTSET)


class Stream(io.BytesIO):
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]

    def text(self) -> str:
        return self.getvalue().decode()


@pytest.fixture
def stream() -> Stream:
    return Stream()


def to(stream: Stream, form: LogFormat = LogFormat.AUTO, level: LogLevel = LogLevel.INFO) -> Any:
    configure(LogsConfig(format=form, level=level), stream, {})
    return structlog.get_logger("test")


def test_off_a_terminal_a_line_is_one_json_object_with_the_event_in_front(stream: Stream) -> None:
    to(stream).info("attempt.closed", task="t1", reason=Reason.COMPLETED, tokens=12, gone=None)
    [line] = stream.lines()
    assert list(line) == ["at", "level", "event", "task", "reason", "tokens"]
    assert line["at"].endswith("Z")
    assert line | {"at": ""} == {
        "at": "",
        "level": "info",
        "event": "attempt.closed",
        "task": "t1",
        "reason": "completed",
        "tokens": 12,
    }


def test_lines_below_the_level_are_not_written_and_a_reload_changes_the_level(stream: Stream) -> None:
    log = to(stream, level=LogLevel.WARNING)
    log.info("quiet")
    log.warning("loud")
    assert not logging.getLogger("agent").isEnabledFor(logging.INFO), "who asks first is told the same"
    configure(LogsConfig(level=LogLevel.DEBUG), stream, {})
    log.debug("now")
    assert logging.getLogger("agent").isEnabledFor(logging.DEBUG)
    assert [line["event"] for line in stream.lines()] == ["loud", "now"]


@pytest.mark.parametrize("form", [LogFormat.JSON, LogFormat.CONSOLE])
def test_control_codes_and_forged_lines_of_a_stranger_do_not_get_through(stream: Stream, form: LogFormat) -> None:
    to(stream, form).warning("engine.stderr", tail="\x1b]0;owned\x07\x1b[2Jok\r\n<0>forged level=error\x9b31m\u202e")
    text = stream.text()
    assert text.count("\n") == 1
    assert not any(c in text for c in "\x1b\x07\r\x9b\u202e")
    assert "ok" in text
    assert "owned" not in text


def test_a_value_with_spaces_cannot_pose_as_another_field_on_the_console(stream: Stream) -> None:
    to(stream, LogFormat.CONSOLE).info("link.down", detail="x level=error", pool="main")
    assert stream.text()[13:] == 'info    link.down detail="x level=error" pool=main\n'


@pytest.mark.parametrize(
    "name", ["token", "enrol_token", "Authorization", "api_key", "X-Api-Key", "key", "session_secret", "PASSWORD"]
)
def test_fields_with_secret_names_are_redacted_however_deep(name: str) -> None:
    event = harmless(None, "info", {"event": "x", name: "hush", "headers": {name: ["hush"]}})
    assert event == {"event": "x", name: REDACTED, "headers": {name: REDACTED}}


@pytest.mark.parametrize("name", ["key_file", "public_key", "tokens", "coordinator_key", "idem_key", "monkey"])
def test_fields_that_only_look_secret_are_kept(name: str) -> None:
    assert not is_secret(name)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("sent Authorization: Bearer abc.def-1 to x", "sent Authorization: [redacted] to x"),
        ("bad token ga1.c2VjcmV0.00ff", "bad token [redacted]"),
        ("GET https://user:pw@c.example/v1", "GET https://[redacted]@c.example/v1"),
    ],
)
def test_secrets_inside_a_sentence_are_redacted(text: str, left: str) -> None:
    assert harmless(None, "info", {"event": "x", "detail": text})["detail"] == left


def test_an_exception_is_told_with_its_trace_and_without_its_secrets(stream: Stream) -> None:
    log = to(stream)
    try:
        raise ValueError("got Bearer abcdef")
    except ValueError:
        log.exception("attempt.fault", task="t")
    [line] = stream.lines()
    assert line["level"] == "error"
    assert "ValueError: got [redacted]" in line["exception"]


def test_what_libraries_log_becomes_an_event(stream: Stream) -> None:
    to(stream)
    logging.getLogger("asyncio").error("Task %s was never retrieved", "t-1")
    logging.getLogger("aiohttp").error("%d", "not a number")
    logging.getLogger("aiohttp").info("chatter")
    assert [(line["event"], line["detail"]) for line in stream.lines()] == [
        ("library.asyncio", "Task t-1 was never retrieved"),
        ("library.aiohttp", "%d"),
    ]


def test_a_reader_of_the_log_that_left_does_not_stop_the_work() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    with ours, ours.makefile("wb", buffering=0) as broken:
        configure(LogsConfig(format=LogFormat.JSON), broken, {})
        log = structlog.get_logger()
        log.info("first")
        log.info("second")


def test_only_the_journals_own_socket_counts_as_the_journal(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as file:
        status = os.fstat(file.fileno())
        assert under_journald(file, {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})
        assert not under_journald(file, {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino + 1}"})
        assert not under_journald(file, {})


def test_lines_for_the_journal_carry_their_priority(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as file:
        status = os.fstat(file.fileno())
        configure(LogsConfig(), file, {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})
        log = structlog.get_logger()
        log.info("a")
        log.warning("b")
        log.error("c")
    assert [line[:3] for line in path.read_text().splitlines()] == ["<6>", "<4>", "<3>"]


def on_a_terminal(environ: dict[str, str]) -> bytes:
    """What a real pseudo-terminal gets on standard error."""
    program = (
        "import structlog; from agent.config import LogsConfig; from agent.edges.logs import configure;"
        "configure(LogsConfig()); structlog.get_logger().info('node.ready', pool='main')"
    )
    ours, theirs = pty.openpty()
    try:
        subprocess.run([sys.executable, "-c", program], stderr=theirs, check=True, env=os.environ | environ)
        return os.read(ours, 4096)
    finally:
        os.close(theirs)
        os.close(ours)


def test_on_a_terminal_lines_are_coloured_text_unless_no_color_is_set() -> None:
    assert b"\x1b[1mnode.ready\x1b[0m" in on_a_terminal({})
    plain = on_a_terminal({"NO_COLOR": "1"})
    assert b"node.ready pool=main" in plain
    assert b"\x1b" not in plain


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.builds(object),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)


@given(ANYTHING, st.sampled_from([LogFormat.JSON, LogFormat.CONSOLE]))
def test_any_value_can_be_logged_on_one_line(value: Any, form: LogFormat) -> None:
    stream = Stream()
    to(stream, form).info("x", value=value)
    assert stream.getvalue().count(b"\n") == 1
    assert all(c.isprintable() or c in "\n\t" for c in stream.text() if ord(c) < 0xA0)
