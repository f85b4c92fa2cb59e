"""docs/protocol.md says the numbers and names that the code has."""

from __future__ import annotations

import typing
from pathlib import Path

import pytest

from agent.core import baton, wire
from agent.core.refusals import STATUS_OF
from agent.core.seq import WINDOW
from agent.core.wire import RefusalCode
from agent.edges.link.limits import LinkLimits

PAGE = (Path(__file__).parents[3] / "docs" / "protocol.md").read_text()


@pytest.mark.parametrize("code", RefusalCode)
def test_every_refusal_stands_in_the_table_with_its_status(code: RefusalCode) -> None:
    assert f"| `{code.value}` | {STATUS_OF[code]} |" in PAGE


@pytest.mark.parametrize("message", typing.get_args(wire.UpMessage), ids=lambda message: message.__name__)
def test_every_message_stands_in_the_table_with_its_reply(message: type[wire.Up]) -> None:
    reply = wire.REPLY_TO.get(message)
    assert f"| `{wire.tag_of(message)}` | {f'`{wire.tag_of(reply)}`' if reply else '–'}" in PAGE


def test_the_limits_are_those_of_the_code() -> None:
    assert f"| a frame, either way | {wire.MAX_MESSAGE_BYTES >> 20} MiB" in PAGE
    assert f"| {wire.MAX_INLINE_OUTPUT_BYTES >> 10} KiB (escaped" in PAGE
    assert f"| a blob | {wire.MAX_BLOB_BYTES >> 20} MiB |" in PAGE
    assert f"| a pull's wait | {wire.MAX_PULL_WAIT_S:.0f} s |" in PAGE
    assert f"window of {WINDOW} numbers" in PAGE
    assert f"subprotocol `{wire.SUBPROTOCOL}`" in PAGE


def test_the_times_are_those_of_the_code() -> None:
    limits = LinkLimits()
    assert f"After {limits.ping_s:.0f} s of silence" in PAGE
    assert f"for another {limits.pong_s:.0f} s" in PAGE
    assert f"{baton.FIRST_PROBE_S:.0f}, 10, 20 … {baton.LAST_PROBE_S:.0f} s" in PAGE
