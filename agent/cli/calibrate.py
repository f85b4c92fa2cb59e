"""`gpu-agent calibrate`: measure how far honest work on a model is apart, and write the signed limits that follow."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.cli.options import config_sources

if TYPE_CHECKING:
    from agent.cli.calibrating import Told
    from agent.core.checks.calibration import Calibration, Spread
    from agent.edges.signing import KeyPair

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command(short_help="Measure the noise of honest work on a model, for verifiers.")
@click.argument("model")
@click.option("--weights", type=_FILE, help="The model's GGUF file.  [default: as configured]")
@click.option("--chat-template", type=_FILE, help="The model's chat template file, if it has one.")
@click.option(
    "--binary", default="auto", show_default=True, metavar="PATH", help="Path of the llama-server to measure."
)
@click.option("--device", default="cpu", show_default=True, help="What it runs on: cpu, or GPU UUIDs joined by +.")
@click.option("--engine-arg", multiple=True, metavar="ARG", help="As in pools.args; may be repeated.")
@click.option("--embedding", is_flag=True, help="Calibrate its embeddings instead of its text.")
@click.option(
    "--slots", default=4, show_default=True, type=click.IntRange(2, 64), help="How many requests run at a time."
)
@click.option(
    "--threads", type=click.IntRange(1, 4096), help="Threads of the engine; 1 on a machine that is busy otherwise."
)
@click.option(
    "--context-tokens",
    default=1024,
    show_default=True,
    type=click.IntRange(256),
    help="Longest prompt plus answer of one slot.",
)
@click.option(
    "--tokens", default=128, show_default=True, type=click.IntRange(32), help="The longest answer, in tokens."
)
@click.option(
    "--chunks",
    default=500,
    show_default=True,
    type=click.IntRange(1),
    help="How many chunks of 32 tokens, or rows, to repeat.",
)
@click.option(
    "--prompts",
    default=50,
    show_default=True,
    type=click.IntRange(1, 64),
    help="How many different prompts to ask at least.",
)
@click.option("--out", required=True, type=_FILE, help="The file to write.")
@click.option("--key", "key_file", type=_FILE, help="The publisher's key; verifiers name its public half.")
@click.option("--new-key", is_flag=True, help="Make the key first; an existing file is never replaced.")
@click.option("--draft", is_flag=True, help="Write a file that is not signed, and that nobody relies on.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object: the file and what is in it.")
@config_sources
def command(
    model: str,
    weights: Path | None,
    chat_template: Path | None,
    binary: str,
    device: str,
    engine_arg: tuple[str, ...],
    embedding: bool,
    slots: int,
    threads: int | None,
    context_tokens: int,
    tokens: int,
    chunks: int,
    prompts: int,
    out: Path,
    key_file: Path | None,
    new_key: bool,
    draft: bool,
    as_json: bool,
    config_file: Path | None,
    overrides: tuple[str, ...],
) -> None:
    """Have MODEL do honest work on several slots, repeat it as a verifier does, and write how far the two are apart.

    \b
        gpu-agent calibrate gemma3-270m --slots 4 --key publisher.key --out gemma3-270m.calibration

    The limits that follow (1.3 times the largest) tell a verifier what is noise and what is a cheat. A node offers
    several slots as verifiable (class F) only with such a file for its model and engine. It takes a while:
    16,000 tokens are generated, and then repeated.
    """
    import asyncio

    from agent.cli.calibrating import Wanted, measure
    from agent.cli.rechecking import Model
    from agent.config import LogLevel, LogsConfig
    from agent.core.checks.calibration import Work, draft_file, lacking, signed_file
    from agent.edges.logs import configure

    configure(LogsConfig(level=LogLevel.WARNING))
    if not draft and (few := lacking(chunks, prompts)):
        raise click.UsageError(f"{few}; --draft writes a file all the same, which nobody relies on")
    keys = None if draft else _keys(key_file, new_key=new_key)
    work = Work.EMBEDDING if embedding else Work.GENERATION
    found = _found(model, weights, chat_template, config_file, overrides)
    engine = Model(*found, binary, context_tokens, engine_arg, device, threads)
    made = asyncio.run(measure(Wanted(engine, chunks, prompts, tokens, slots, work), _progress()))
    _write(out, signed_file(made, keys.public_key, keys.sign) if keys else draft_file(made))
    if as_json:
        import json

        import msgspec

        told = {"file": str(out), "signed_by": keys.public_key if keys else None}
        click.echo(json.dumps({**told, "calibration": msgspec.to_builtins(made)}, indent=2))
    else:
        click.echo("\n".join(screen(made, out, keys.public_key if keys else "")))


def _keys(path: Path | None, *, new_key: bool) -> KeyPair:
    from agent.cli.bundle import keys

    if path is None:
        raise click.UsageError("--key names whose calibration it is (--new-key makes one); --draft goes without")
    return keys(path, new_key=new_key)


def _found(
    name: str, weights: Path | None, template: Path | None, config_file: Path | None, overrides: tuple[str, ...]
) -> tuple[Path, str, Path | None]:
    """Weights, name and chat template, from the options or the configuration."""
    if weights is not None:
        return weights, name, template
    from agent.config import load

    known = {model.name: model for model in load(config_file, overrides).models}
    if name not in known or (path := known[name].path) is None:
        raise click.UsageError(f"no model {name} with a file is configured; --weights names one")
    return path, name, template or known[name].chat_template


def _progress() -> Told:
    """On a terminal alone, on standard error."""
    shown = sys.stderr.isatty()

    def told(what: str, done: int, of: int) -> None:
        if shown:
            click.echo(
                f"\r\033[K{what}: {done} of {of} {'tasks' if what == 'repeated' else 'chunks'}", nl=False, err=True
            )
            if what == "repeated" and done == of:
                click.echo("\r\033[K", nl=False, err=True)

    return told


def _write(path: Path, content: bytes) -> None:
    from agent.core.errors import StorageError

    try:
        path.write_bytes(content)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}") from error


def screen(made: Calibration, out: Path, key: str) -> Iterable[str]:
    """What was found, on one screen."""
    from agent.core.checks.calibration import Work
    from agent.core.text import plain

    noise, limits, rows = made.noise, made.limits, made.work is Work.EMBEDDING
    yield f"model      {plain(made.model, 128)}, {made.model_digest}"
    yield f"engine     {plain(made.engine, 128)} on {made.device}, {made.slots} requests at a time"
    unit = "rows" if rows else "chunks"
    yield f"measured   {made.chunks} {unit} of {made.prompts} prompts, {made.tokens} tokens"
    if not rows:
        yield f"sampling   {made.drawn} draws repeated from their seeds, all of them right"
    yield ""
    yield f"{'':<34}{'mean':>10}{'p99':>10}{'most':>10}{'limit':>10}"
    if rows:
        yield _figures("rows, 1 − cosine", noise.astray, 1 - limits.parallel)
    else:
        yield _figures("F, log-probabilities apart", noise.closeness, limits.closeness)
        yield _figures("T, tokens of 32 out of place", noise.far, limits.far)
        yield _figures("T, tokens beyond the candidates", noise.unlisted, limits.unlisted)
    yield ""
    yield f"written    {out}"
    yield (
        f"signed by  {key}"
        if key
        else click.style("DRAFT", fg="yellow", bold=True) + ": not signed, nobody relies on it"
    )


def _figures(name: str, metric: Spread, limit: float) -> str:
    return f"{name:<34}{metric.mean:>10.4f}{metric.p99:>10.4f}{metric.most:>10.4f}{limit:>10.4f}"
