"""`gpu-agent receipt`: one task's receipt bundle from this node's ledger."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from agent.cli.options import with_config
from agent.core.errors import StorageError

if TYPE_CHECKING:
    from agent.core.wire import ReceiptBundle


@click.command(short_help="Write the receipt of one task, to keep or to verify.")
@click.argument("task_id")
@click.option(
    "-o", "--output", type=click.File("wb", lazy=True), default="-", help="Write to a file, not standard output."
)
@click.option(
    "--transcript",
    type=click.File("wb", lazy=True),
    help="Also write the attempt's transcript, for `gpu-agent verify --transcript`.",
)
@click.option(
    "--open",
    "chosen",
    metavar="LEAVES",
    help="Also show leaves of the transcript in the bundle, such as 0,5,12, or all: who has it reads them.",
)
@with_config
def command(task_id: str, output: BinaryIO, transcript: BinaryIO | None, chosen: str | None, config: object) -> None:
    """Write the receipt bundle of TASK_ID, one of `gpu-agent tasks`, as JSON.

    \b
        gpu-agent receipt t-0123 | gpu-agent verify -
        gpu-agent receipt t-0123 -o receipt.json --transcript transcript
    """
    import msgspec

    from agent.config import Config
    from agent.edges.outbox import OUTBOX_NAME, read_bundle

    assert isinstance(config, Config)
    bundle = read_bundle(config.node.state_dir / OUTBOX_NAME, task_id)
    if bundle is None:
        raise StorageError(
            f"{config.node.state_dir} has no receipt of task {task_id}",
            remedy="`gpu-agent tasks` lists what it has; receipts of the oldest tasks are dropped to save space",
        )
    wanted = None if chosen is None else _chosen(chosen)
    if transcript is not None or wanted is not None:  # read first: where it is gone already, no file is made
        leaves = _transcript(bundle, config.node.state_dir)
        if wanted is not None:
            bundle = _with_leaves(bundle, leaves, wanted)
        if transcript is not None:
            transcript.write(leaves)
    output.write(msgspec.json.format(msgspec.json.encode(bundle), indent=2) + b"\n")


def _chosen(text: str) -> tuple[int, ...]:
    """Leaves by number; none stands for all."""
    if text.strip() == "all":
        return ()
    try:
        return tuple(sorted({int(number) for number in text.split(",")}))
    except ValueError as error:
        raise click.BadParameter("numbers of leaves, such as 0,5,12, or all", param_hint="--open") from error


def _with_leaves(bundle: ReceiptBundle, leaves: bytes, chosen: tuple[int, ...]) -> ReceiptBundle:
    import msgspec

    from agent.core.errors import ProofError
    from agent.core.proof.leaves import split_leaves
    from agent.core.proof.opening import open_leaves

    try:
        return msgspec.structs.replace(bundle, opening=open_leaves(split_leaves(leaves), chosen))
    except ProofError as error:
        raise click.BadParameter(error.message, param_hint="--open") from error


def _transcript(bundle: ReceiptBundle, state_dir: Path) -> bytes:
    import msgspec

    from agent.core.model import LeaseKey
    from agent.core.wire import ResultBody
    from agent.edges.transcripts import DIRECTORY_NAME, read_transcript

    result = msgspec.json.decode(bundle.result.payload, type=ResultBody)
    key = LeaseKey(task_id=result.task_id, attempt=result.attempt, fence=result.fence)
    leaves = read_transcript(state_dir / DIRECTORY_NAME, key)
    if leaves is None:
        raise StorageError(
            f"{state_dir} has no transcript of task {result.task_id}",
            remedy="They are kept for proof.retention_s; attempts without a commitment have none",
        )
    return leaves
