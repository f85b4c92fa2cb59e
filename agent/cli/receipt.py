"""`gpu-agent receipt`: one task's receipt bundle from this node's ledger."""

from __future__ import annotations

from typing import BinaryIO

import click

from agent.cli.options import with_config
from agent.core.errors import StorageError


@click.command(short_help="Write the receipt of one task, to keep or to verify.")
@click.argument("task_id")
@click.option(
    "-o", "--output", type=click.File("wb", lazy=True), default="-", help="Write to a file, not standard output."
)
@with_config
def command(task_id: str, output: BinaryIO, config: object) -> None:
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
    output.write(msgspec.json.format(msgspec.json.encode(bundle), indent=2) + b"\n")
