"""`gpu-agent schema`: the protocol's documents, made from the code."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(short_help="Write or check the protocol's schemas.")
@click.option("--write", "write_to", type=click.Path(file_okay=False, path_type=Path), help="Write them into DIR.")
@click.option("--check", "check_in", type=click.Path(file_okay=False, path_type=Path), help="Compare those in DIR.")
def command(write_to: Path | None, check_in: Path | None) -> int:
    """JSON Schema, OpenAPI 3.1 and AsyncAPI 3.0 of the protocol. Exit status 1 when checked documents differ.

    \b
        gpu-agent schema --write docs/schema
    """
    from agent.cli.contract import documents

    if (write_to is None) == (check_in is None):
        raise click.UsageError("give one of --write DIR and --check DIR")
    made = documents()
    if write_to is not None:
        _write(write_to, made)
        return 0
    assert check_in is not None
    stale = [name for name, text in made.items() if _text(check_in / name) != text]
    for name in stale:
        click.echo(f"{check_in / name} differs from the code: run gpu-agent schema --write {check_in}", err=True)
    return 1 if stale else 0


def _write(folder: Path, made: dict[str, str]) -> None:
    from agent.core.errors import StorageError

    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in made.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        remedy = "Name a directory that you may write to"
        raise StorageError(f"{error.filename} cannot be written: {error.strerror}", remedy=remedy) from error


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None
