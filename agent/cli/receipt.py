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
@with_config
def command(task_id: str, output: BinaryIO, transcript: BinaryIO | None, config: object) -> None:
    """Write the receipt bundle of TASK_ID as JSON: `gpu-agent receipt ID | gpu-agent verify -`."""
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
    if transcript is not None:  # read first: where it is gone already, no file is made
        leaves = _transcript(bundle, config.node.state_dir)
        transcript.write(leaves)
    output.write(msgspec.json.format(msgspec.json.encode(bundle), indent=2) + b"\n")


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
