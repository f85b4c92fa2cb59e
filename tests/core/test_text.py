"""Text of others is safe to print."""

import errno
import socket
import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.text import cause, plain


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("hello\tworld\n", "hello\tworld\n"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07after", "after"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bPdevice\x1b\\x", "x"),
        ("\x9b2Jx", "x"),
        ("a\x1bcb", "ab"),
        ("good\rbad", "good\nbad"),
        ("one\r\ntwo", "one\ntwo"),
        ("a\u202eb\u2066c", "abc"),
        ("lone \ud800 half", "lone  half"),
        ("nul\x00", "nul"),
        ("grüß 東京", "grüß 東京"),
        (b"caf\xc3\xa9 \xff", "café \ufffd"),
        ("\x1b]0;never ended", "0;never ended"),
    ],
)
def test_escape_sequences_and_controls_are_removed(raw, shown):
    assert plain(raw, 100) == shown


def test_a_long_text_is_cut_and_says_so():
    assert plain("abcdef", 4) == "abc…"
    assert plain("abcd", 4) == "abcd"
    assert plain("abcd", 0) == ""


@given(st.one_of(st.binary(), st.text(st.characters())), st.integers(0, 80))
def test_whatever_comes_in_what_goes_out_is_short_and_printable(raw, limit):
    shown = plain(raw, limit)
    assert len(shown) <= limit
    assert all(c in "\t\n" or ord(c) >= 32 for c in shown)
    assert not any(0x7F <= ord(c) <= 0x9F for c in shown)
    shown.encode("utf-8")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed ('127.0.0.1', 1)"), "Connection refused"),
        (OSError("Multiple exceptions: …"), "Multiple exceptions: …"),
        (socket.gaierror(-2, "Name or service not known"), "Name or service not known"),
        (ssl.SSLError(1, "wrong version number"), "wrong version number"),
        (ValueError(), "ValueError"),
    ],
)
def test_a_cause_is_told_as_the_system_spells_it(error: Exception, words: str) -> None:
    assert cause(error) == words
