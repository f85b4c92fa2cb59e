"""What a store acknowledged is there after kill -9, whoever wrote at once."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from agent.edges.outbox import SqliteOutbox
from agent.edges.transcripts import FileTranscripts
from tests.edges.test_outbox import sound
from tests.edges.test_transcripts import key
from tests.patience import PATIENCE_S

_PUTTER = """
    import asyncio, sys
    from pathlib import Path
    from agent.edges.outbox import SqliteOutbox
    from tests.edges.test_outbox import row, sound

    async def put_for_ever(outbox, writer):
        number = 0
        while True:
            await outbox.put(row(f"w{writer}-{number}"))
            print(f"w{writer}-{number}", flush=True)
            number += 1

    async def main():
        outbox = await SqliteOutbox.open(Path(sys.argv[1]), sound)
        await asyncio.gather(*(put_for_ever(outbox, writer) for writer in range(8)))

    asyncio.run(main())
"""
_KEEPER = """
    import asyncio, sys
    from pathlib import Path
    from agent.edges.transcripts import FileTranscripts
    from tests.edges.test_transcripts import key

    async def keep_for_ever(transcripts, writer):
        number = 0
        while True:
            name = f"w{writer}-{number}"
            await transcripts.keep(key(name), name.encode() * 100, 1000)
            print(name, flush=True)
            number += 1

    async def main():
        transcripts = FileTranscripts(Path(sys.argv[1]))
        await asyncio.gather(*(keep_for_ever(transcripts, writer) for writer in range(8)))

    asyncio.run(main())
"""


def acknowledged(program: str, place: Path, count: int) -> list[str]:
    """What `program` said was kept at `place` until it was killed, soon after the first `count`."""
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), str(place)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": "."},
    ) as writer:
        assert writer.stdout is not None
        told = [writer.stdout.readline().strip() for _ in range(count)]
        writer.kill()
        told += [line.strip() for line in writer.stdout if line.endswith("\n")]
        writer.wait(timeout=PATIENCE_S)
    assert "" not in told
    return told


@pytest.mark.parametrize("count", [1, 100, 500])
async def test_every_result_that_was_acknowledged_is_there(tmp_path: Path, count: int) -> None:
    told = acknowledged(_PUTTER, tmp_path / "state" / "outbox.db", count)
    outbox = await SqliteOutbox.open(tmp_path / "state" / "outbox.db", sound)
    kept = {item.key.task_id for item in await outbox.pending(10**6)}
    await outbox.close()
    assert set(told) <= kept


async def test_every_transcript_that_was_acknowledged_is_there(tmp_path: Path) -> None:
    told = acknowledged(_KEEPER, tmp_path, 300)
    transcripts = FileTranscripts(tmp_path)
    assert [name for name in told if await transcripts.read(key(name)) != name.encode() * 100] == []
