"""`gpu-agent submit`: ask a coordinator to have a program run, and wait for what it leaves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from agent.cli.bundle import signature_of

if TYPE_CHECKING:
    from agent.core.model import Blob, Bundle, ExecInput
    from agent.core.program_output import ProgramOutput
    from agent.core.wire import ReceiptBundle
    from agent.devnet.requester import Requester


class Asked(NamedTuple):
    """What goes up: the task, and the bytes that it names."""

    task: ExecInput
    contents: tuple[bytes, ...]


class Came(NamedTuple):
    """What came back."""

    told: ProgramOutput
    archive: bytes
    receipt: ReceiptBundle


_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(short_help="Have a program run, follow it, and fetch what it leaves.")
@click.argument("bundle", type=_FILE)
@click.argument("argv", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("--coordinator", "url", required=True, metavar="URL", help="Where to ask.")
@click.option("--token-file", required=True, type=_FILE, help="The requester's token; see docs/exec.md.")
@click.option("--input", "inputs", multiple=True, metavar="NAME=FILE", help="A file that it finds as /in/NAME.")
@click.option("--env", multiple=True, metavar="NAME=VALUE", help="A variable of its environment.")
@click.option("--want", "wants", multiple=True, metavar="PATTERN", help="Files of /out to collect; all when not given.")
@click.option("--cwd", default="/out", show_default=True)
@click.option("--merge-stderr", is_flag=True, help="Send stderr the way of stdout.")
@click.option("--memory-mib", default=512, show_default=True, type=click.IntRange(1))
@click.option("--cpus", default=1.0, show_default=True, type=click.FloatRange(0.001))
@click.option("--pids", default=64, show_default=True, type=click.IntRange(1))
@click.option("--wall-s", default=600, show_default=True, type=click.IntRange(1))
@click.option("--tmp-mib", default=64, show_default=True, type=click.IntRange(1))
@click.option("--out-mib", default=16, show_default=True, type=click.IntRange(1))
@click.option("--stdout-kib", default=1024, show_default=True, type=click.IntRange(1))
@click.option("--deadline-s", type=click.FloatRange(1), help="Give up after so long, queued or running.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Unpack what it leaves into this new directory.")
@click.option(
    "--archive", type=click.Path(dir_okay=False, path_type=Path), help="Keep what it leaves as it came, a tar."
)
@click.option("--receipt", type=click.Path(dir_okay=False, path_type=Path), help="Keep the receipt, for `verify`.")
def command(
    bundle: Path,
    argv: Sequence[str],
    url: str,
    token_file: Path,
    inputs: Sequence[str],
    env: Sequence[str],
    wants: Sequence[str],
    cwd: str,
    merge_stderr: bool,
    memory_mib: int,
    cpus: float,
    pids: int,
    wall_s: int,
    tmp_mib: int,
    out_mib: int,
    stdout_kib: int,
    deadline_s: float | None,
    output: Path | None,
    archive: Path | None,
    receipt: Path | None,
) -> int:
    """Run BUNDLE (made by `gpu-agent bundle`) as ARGV on some node:

        gpu-agent submit frames.bundle … -- /bundle/render.py 1 24

    What the program prints is shown as it comes. Exit status: the program's own; 128 and the signal's number when it
    did not end by itself; 1 when no node could run it.
    """
    import asyncio

    import msgspec

    from agent.core.model import ExecInput, ExecLimits
    from agent.devnet.core.rules import Refused

    files = {name: Path(file).read_bytes() for name, file in _pairs(inputs)}
    limits = ExecLimits(
        memory_bytes=memory_mib << 20,
        cpu_millis=round(cpus * 1000),
        pids=pids,
        wall_s=wall_s,
        tmp_bytes=tmp_mib << 20,
        out_bytes=out_mib << 20,
        stdout_bytes=stdout_kib << 10,
    )
    task = ExecInput(
        bundle=_signed(bundle),
        argv=tuple(argv),
        env=dict(_pairs(env)),
        inputs={name: _blob(content) for name, content in files.items()},
        outputs=tuple(wants) or ("**",),
        cwd=cwd,
        merge_stderr=merge_stderr,
        limits=limits,
    )
    asked = Asked(task, (bundle.read_bytes(), *files.values()))
    try:
        came = asyncio.run(_ask(url, token_file.read_text().strip(), asked, deadline_s))
    except Refused as error:
        raise click.ClickException(f"the coordinator refuses: {error.message}") from error
    if receipt is not None:
        receipt.write_bytes(msgspec.json.format(msgspec.json.encode(came.receipt), indent=2) + b"\n")
    if archive is not None:
        archive.write_bytes(came.archive)
    if output is not None:
        _unpack(came, output)
    click.echo("\n".join(_summary(came.told)), err=True)
    return came.told.exit.status


async def _ask(url: str, token: str, asked: Asked, deadline_s: float | None) -> Came:
    from agent.devnet.requester import Requester

    async with Requester(url, token) as requester:
        for content in asked.contents:
            await requester.upload(content)
        task_id = await requester.run(asked.task, deadline_s=deadline_s)
        click.echo(f"task {task_id}", err=True)
        return await _follow(requester, task_id)


async def _follow(requester: Requester, task_id: str) -> Came:
    import msgspec

    from agent.core.program_output import ProgramOutput
    from agent.core.text import plain
    from agent.devnet.streams import ChunkSeen, Restarted
    from agent.devnet.views import TaskView

    async for event in requester.events(task_id):
        match event:
            case ChunkSeen(text=text):
                click.echo(plain(text, len(text)), nl=False)
            case Restarted(attempt=attempt):
                click.echo(f"\nattempt {attempt}: from the start", err=True)
            case TaskView(artifact=None):
                raise click.ClickException(f"task {task_id} {event.state.value}: {plain(event.detail, 500)}")
            case TaskView():
                receipt = await requester.receipt(task_id)
                told = msgspec.json.decode(receipt.output or "", type=ProgramOutput)
                return Came(told, await requester.artifact(task_id), receipt)
    raise AssertionError("the stream of a task ends with its result")


def _signed(bundle: Path) -> Bundle:
    import msgspec

    from agent.core.model import Bundle

    try:
        return msgspec.json.decode(signature_of(bundle).read_bytes(), type=Bundle)
    except (OSError, msgspec.DecodeError) as error:
        raise click.ClickException(f"{signature_of(bundle)}: {error}; `gpu-agent bundle` writes it") from error


def _blob(content: bytes) -> Blob:
    import hashlib

    from agent.core.model import Blob

    return Blob(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))


def _unpack(came: Came, target: Path) -> None:
    """A stranger made it: it is what the node signed for, and of the one kind that is taken, before a file is made."""
    import os
    import tempfile

    from agent.core.archive import ArchiveError
    from agent.edges.programs.unpack import unpack

    if _blob(came.archive) != came.told.archive:
        raise click.ClickException("what came is not what the node signed for")
    with tempfile.TemporaryFile() as file:
        file.write(came.archive)
        file.flush()
        try:
            unpack(file.fileno(), os.fsencode(target))
        except ArchiveError as error:
            raise click.ClickException(f"the node's archive is refused: {error}") from error
        except OSError as error:
            raise click.ClickException(f"{target}: {error.strerror}") from error


def _summary(told: ProgramOutput) -> Iterable[str]:
    from agent.core.text import plain

    kept = told.overfull or f"{len(told.files)} files, {told.archive.bytes} bytes"
    how = f"{told.exit.kind.value.replace('_', ' ')}: {plain(told.exit.detail, 300)}"
    yield f"{how} after {told.spent.wall_s:.1f} s; {plain(kept, 300)}"
    yield from (f"left out: {plain(line, 300)}" for line in told.left_out)


def _pairs(words: Sequence[str]) -> list[tuple[str, str]]:
    pairs = [word.partition("=") for word in words]
    if wrong := [name for name, equals, _ in pairs if not equals or not name]:
        raise click.UsageError(f"expected NAME=…, not {wrong[0]!r}")
    return [(name, value) for name, _, value in pairs]
