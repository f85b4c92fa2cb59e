"""Reads what `gpu-agent verify` is given: files of strangers, with words for those that are something else."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.core.text import plain

if TYPE_CHECKING:
    from agent.core.wire import ReceiptBundle

UNREADABLE = 2
MAX_BYTES = 512 << 20
"""The largest output (64 MiB), escaped sixfold, and what stands around it."""
_DETAIL = 300


class Unreadable(click.ClickException):
    """The file is not what it should be."""

    exit_code = UNREADABLE


def read(file: Path) -> bytes:
    """Its content (-: standard input). Raises Unreadable."""
    try:
        with click.open_file(str(file), "rb") as stream:
            raw: bytes = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise Unreadable(f"{file} cannot be read: {error.strerror}") from error
    if len(raw) > MAX_BYTES:
        raise Unreadable(f"{file} is larger than any receipt")
    return raw


def read_bundle(file: Path) -> ReceiptBundle:
    """The receipt bundle in it. Raises Unreadable."""
    import msgspec

    from agent.core.wire import ReceiptBundle

    raw, name = read(file), "standard input" if str(file) == "-" else file
    if not raw.strip():
        raise Unreadable(f"{name} is empty, and so no receipt bundle")
    try:
        return msgspec.json.decode(raw, type=ReceiptBundle)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        why = _refused(raw) or plain(str(error), _DETAIL)
        raise Unreadable(f"{name} is no receipt bundle: {why}") from error


def _refused(raw: bytes) -> str:
    """What the coordinator refused, where its answer was kept in place of a bundle; empty where this is none."""
    import msgspec

    from agent.core.wire import Refusal, decode_down

    try:
        answer = decode_down(raw).msg
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
    return f"it is the coordinator's refusal: {plain(answer.message, _DETAIL)}" if isinstance(answer, Refusal) else ""
