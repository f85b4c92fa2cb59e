"""Asks a coordinator to run programs, shows what they print, and keeps what they leave: the work of `submit`."""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import click
import msgspec

from agent.cli.options import Where
from agent.cli.requesting import Outage, asking, submitted, wanted, write_receipt
from agent.core.archive import ArchiveError
from agent.core.model import Blob, ExecInput
from agent.core.program_output import ProgramOutput
from agent.core.text import plain
from agent.core.wire import ReceiptBundle
from agent.devnet.core.records import TaskState
from agent.devnet.requester import Requester
from agent.devnet.streams import ChunkSeen, Restarted, StateSeen
from agent.devnet.views import TaskView
from agent.edges.programs.unpack import unpack

NOT_RUN = 1


class Asked(NamedTuple):
    """What goes up: the tasks by their labels, and the bytes that they name."""

    tasks: Mapping[str, ExecInput]
    contents: tuple[bytes, ...]
    deadline_s: float | None


class Came(NamedTuple):
    """What came back of one task."""

    told: ProgramOutput
    archive: bytes
    receipt: ReceiptBundle


class Kept(NamedTuple):
    """Where to put it."""

    output: Path | None
    archive: Path | None
    receipt: Path | None


class Screen:
    """What programs print, as it comes; with a label in front of each whole line where there are several."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._line = ""

    def say(self, text: str) -> None:
        """Text of the program."""
        text = plain(text, len(text))
        if not self._label:
            click.echo(text, nl=False)
            return
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            click.echo(f"{self._label}: {line}")

    def note(self, text: str) -> None:
        """Something about it."""
        click.echo(f"{self._label}: {text}" if self._label else text, err=True)

    def close(self) -> None:
        """Show a last line that was not ended."""
        if self._line:
            self.say("\n")


async def ask(where: Where, asked: Asked) -> dict[str, Came | None]:
    """Have all tasks run, and wait; None for one that no node could run. Raises AgentError."""
    ids: dict[str, str] = {}
    async with asking(where) as requester, wanted(requester, ids.values()):
        for content in asked.contents:
            await requester.upload(content)
        for label, task in asked.tasks.items():
            ids[label] = await submitted(requester, requester.run(task, deadline_s=asked.deadline_s))
        came = await asyncio.gather(*(_follow(requester, task_id, Screen(label)) for label, task_id in ids.items()))
        return dict(zip(ids, came, strict=True))


async def _follow(requester: Requester, task_id: str, screen: Screen) -> Came | None:
    screen.note(f"task {task_id}")
    outage = Outage(task_id)
    async for event in requester.events(task_id, lost=outage.lost):
        outage.over()
        match event:
            case ChunkSeen(text=text):
                screen.say(text)
            case StateSeen(state=TaskState.QUEUED):
                screen.note("queued, until a node takes it")
            case StateSeen(state=TaskState.LEASED, node_id=node_id):
                screen.note(f"on node {plain(node_id, 100)}")
            case Restarted(attempt=attempt):
                screen.note(f"attempt {attempt}: from the start")
            case TaskView(artifact=None):
                screen.note(f"{event.state.value}: {plain(event.detail, 500)}")
                return None
            case TaskView():
                screen.close()
                receipt = await requester.receipt(task_id)
                told = msgspec.json.decode(receipt.output or "", type=ProgramOutput)
                for line in _summary(told):
                    screen.note(line)
                return Came(told, await requester.artifact(task_id), receipt)
    raise AssertionError("the stream of a task ends with its result")


def keep(came: Came, kept: Kept) -> None:
    """Write what is wanted of it. Raises click.ClickException."""
    try:
        if kept.receipt is not None:
            write_receipt(came.receipt, kept.receipt)
        if kept.archive is not None:
            kept.archive.write_bytes(came.archive)
        if kept.output is not None:
            kept.output.parent.mkdir(parents=True, exist_ok=True)
            _unpack(came, kept.output)
    except ArchiveError as error:
        raise click.ClickException(f"the node's archive is refused: {error}") from error
    except OSError as error:
        raise click.ClickException(f"{error.filename}: {error.strerror}") from error


def status_of(all_came: Iterable[Came | None]) -> int:
    """The worst of them, as a shell tells it."""
    return max((NOT_RUN if came is None else came.told.exit.status) for came in all_came)


def blob(content: bytes) -> Blob:
    """Its name."""
    return Blob(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))


def _unpack(came: Came, target: Path) -> None:
    """A stranger made it: it is what the node signed for, and of the one kind that is taken, before a file is made."""
    if blob(came.archive) != came.told.archive:
        raise click.ClickException("what came is not what the node signed for")
    with tempfile.TemporaryFile() as file:
        file.write(came.archive)
        file.flush()
        unpack(file.fileno(), os.fsencode(target))


def _summary(told: ProgramOutput) -> Iterable[str]:
    kept = told.overfull or f"{len(told.files)} files, {told.archive.bytes} bytes"
    how = f"{told.exit.kind.value.replace('_', ' ')}: {plain(told.exit.detail, 300)}"
    yield f"{how} after {told.spent.wall_s:.1f} s; {plain(kept, 300)}"
    yield from (f"left out: {plain(line, 300)}" for line in told.left_out)
