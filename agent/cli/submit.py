"""`gpu-agent submit`: ask a coordinator to have a program run, and wait for what it leaves."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.cli.bundle import signature_of
from agent.cli.options import Where, asks_a_coordinator

if TYPE_CHECKING:
    from agent.core.model import Bundle

MOST_AT_ONCE = 1000
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_ARRAY = re.compile(r"(\d{1,9})-(\d{1,9})")


@click.command(short_help="Have a program run, follow it, and fetch what it leaves.")
@click.argument("bundle", type=_FILE)
@click.argument("argv", nargs=-1, required=True, type=click.UNPROCESSED)
@asks_a_coordinator
@click.option("--array", metavar="FIRST-LAST", help="A task for each number, which stands for {} everywhere.")
@click.option("--input", "inputs", multiple=True, metavar="NAME=FILE", help="A file that it finds as /in/NAME.")
@click.option("--env", multiple=True, metavar="NAME=VALUE", help="A variable of its environment.")
@click.option("--want", "wants", multiple=True, metavar="PATTERN", help="Files of /out to collect; all when not given.")
@click.option("--cwd", default="/out", show_default=True, help="Where it starts.")
@click.option("--merge-stderr", is_flag=True, help="Send stderr the way of stdout.")
@click.option("--memory-mib", default=512, show_default=True, type=click.IntRange(1), help="The most memory it gets.")
@click.option(
    "--cpus", default=1.0, show_default=True, type=click.FloatRange(0.001), help="The most processors it gets."
)
@click.option("--pids", default=64, show_default=True, type=click.IntRange(1), help="The most processes and threads.")
@click.option("--wall-s", default=600, show_default=True, type=click.IntRange(1), help="The longest run, in seconds.")
@click.option("--tmp-mib", default=64, show_default=True, type=click.IntRange(1), help="The most it writes to /tmp.")
@click.option("--out-mib", default=16, show_default=True, type=click.IntRange(1), help="The most it leaves in /out.")
@click.option("--stdout-kib", default=1024, show_default=True, type=click.IntRange(1), help="The most it prints.")
@click.option("--deadline-s", type=click.FloatRange(1), help="Give up after so long, queued or running.")
@click.option("-o", "--output", metavar="DIR", help="Unpack what it leaves into this new directory.")
@click.option("--archive", metavar="FILE", help="Keep what it leaves as it came, a tar.")
@click.option("--receipt", metavar="FILE", help="Keep the receipt, for `gpu-agent verify`.")
def command(
    bundle: Path,
    argv: Sequence[str],
    where: Where,
    array: str | None,
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
    output: str | None,
    archive: str | None,
    receipt: str | None,
) -> int:
    """Run BUNDLE (made by `gpu-agent bundle`) as ARGV on some node.

    \b
        gpu-agent submit frames.bundle … -- /bundle/render.py 1 24
        gpu-agent submit frames.bundle … --array 1-24 -o frames/{} -- /bundle/render.py {} {}

    What the program prints is shown as it comes; Ctrl-C cancels what still runs. Exit status: the program's own (of
    several, the largest); 128 and the signal's number when it did not end by itself; 1 when no node could run it.
    """
    import asyncio

    from agent.cli import submitting
    from agent.core.model import ExecInput, ExecLimits

    labels = _labels(array, [path for path in (output, archive, receipt) if path])
    files = {name: _content(Path(file)) for name, file in _pairs(inputs)}
    limits = ExecLimits(
        memory_bytes=memory_mib << 20,
        cpu_millis=round(cpus * 1000),
        pids=pids,
        wall_s=wall_s,
        tmp_bytes=tmp_mib << 20,
        out_bytes=out_mib << 20,
        stdout_bytes=stdout_kib << 10,
    )
    signed = _signed(bundle)
    tasks = {
        label: ExecInput(
            bundle=signed,
            argv=tuple(_filled(word, label) for word in argv),
            env={name: _filled(value, label) for name, value in _pairs(env)},
            inputs={name: submitting.blob(content) for name, content in files.items()},
            outputs=tuple(wants) or ("**",),
            cwd=cwd,
            merge_stderr=merge_stderr,
            limits=limits,
        )
        for label in labels
    }
    asked = submitting.Asked(tasks, (bundle.read_bytes(), *files.values()), deadline_s)
    all_came = asyncio.run(submitting.ask(where, asked))
    for label, came in all_came.items():
        if came is not None:
            places = (Path(_filled(path, label)) if path else None for path in (output, archive, receipt))
            submitting.keep(came, submitting.Kept(*places))
    return submitting.status_of(all_came.values())


def _labels(array: str | None, paths: Sequence[str]) -> list[str]:
    """What stands for `{}`, one a task; an empty one where there is no array."""
    if array is None:
        return [""]
    match = _ARRAY.fullmatch(array)
    if match is None or not 0 <= int(match[2]) - int(match[1]) < MOST_AT_ONCE:
        raise click.UsageError(f"--array: expected FIRST-LAST, at most {MOST_AT_ONCE} numbers")
    if common := [path for path in paths if "{}" not in path]:
        raise click.UsageError(f"with --array {common[0]!r} would be written by every task; put {{}} into it")
    return [str(number) for number in range(int(match[1]), int(match[2]) + 1)]


def _filled(word: str, label: str) -> str:
    return word.replace("{}", label) if label else word


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise click.BadParameter(f"{file}: {error.strerror}", param_hint="--input") from error


def _signed(bundle: Path) -> Bundle:
    import msgspec

    from agent.core.model import Bundle

    try:
        return msgspec.json.decode(signature_of(bundle).read_bytes(), type=Bundle)
    except (OSError, msgspec.DecodeError) as error:
        raise click.ClickException(f"{signature_of(bundle)}: {error}; `gpu-agent bundle` writes it") from error


def _pairs(words: Sequence[str]) -> list[tuple[str, str]]:
    pairs = [word.partition("=") for word in words]
    if wrong := [name for name, equals, _ in pairs if not equals or not name]:
        raise click.UsageError(f"expected NAME=…, not {wrong[0]!r}")
    return [(name, value) for name, _, value in pairs]
