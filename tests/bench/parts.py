"""Single parts of the agent, each measured by itself."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import tempfile
import time
from pathlib import Path

from agent.core import wire
from agent.core.model import LeaseKey
from agent.core.proof.leaves import join_leaves
from agent.core.proof.transcript import TranscriptBuilder
from agent.edges.clock import SystemClock
from agent.edges.gpu.probe import NvmlProbe
from agent.edges.outbox import SqliteOutbox
from agent.edges.signing import KeyPair, verify
from agent.edges.transcripts import FileTranscripts
from agent.ports import OutboxRow, Piece, Sandbox, SandboxSpec
from agent.stages.generation import Generation
from tests import builders
from tests.bench.node import percentile
from tests.bench.table import Row, at_most
from tests.fakes.nvml.build import Builder, compiler
from tests.fakes.nvml.scenario import load
from tests.sandboxes import BACKENDS, make_backend

TOKENS = 1024
GENERATION_S = TOKENS / 100
"""At 100 tokens a second, which is fast for one stream."""
HOSTS = Path(__file__).parent.parent / "hosts"


def pieces() -> list[Piece]:
    """Tokens with 40 candidates each, as llama-server tells them."""
    rng = random.Random(7)
    ids, numbers = tuple(range(40)), tuple(-rng.random() * 10 for _ in range(40))
    return [Piece(" word", number, -0.5, ids, numbers) for number in range(TOKENS)]


def proof(rounds: int) -> list[Row]:
    """Encoding of 1,024 tokens, and the CPU of a token on its way from the engine to the chunk."""
    made = pieces()
    encode_s, stream_s, kept = [], [], 0
    for _ in range(rounds):
        builder, began = TranscriptBuilder(40), time.process_time()
        for piece in made:
            builder.add(piece)
        kept = len(join_leaves(builder.finish().leaves))
        encode_s.append(time.process_time() - began)
        generation, began = Generation(builders.offer(), SystemClock(), top_logprobs=0), time.process_time()
        for piece in made:
            generation.take(Piece(piece.text, piece.token_id))
        stream_s.append(time.process_time() - began)
    share = min(encode_s) / GENERATION_S * 100
    return [
        at_most("proof encoding, share of a generation at 100 tokens/s", share, 0.5, "%", 3),
        Row("proof encoding of 1,024 tokens with 40 candidates", f"{min(encode_s) * 1000:.2f} ms"),
        Row("transcript kept on the node, a token", f"{kept / TOKENS:.0f} bytes"),
        at_most("agent CPU a token, piece to chunk, engine's JSON aside", min(stream_s) / TOKENS * 1e6, 1.0, "µs", 2),
    ]


def signatures(rounds: int) -> list[Row]:
    """The floor of a task that is alone: its result signed, its offer and its receipt checked. A batch shares them."""
    keys, digest = KeyPair.generate(), bytes(32)
    check_anew = verify.__wrapped__  # not the answer that is remembered
    signature = keys.sign(digest)

    def each_us(work: object) -> float:
        best = 1.0
        for _ in range(rounds):
            began = time.process_time()
            for _ in range(200):
                work()  # type: ignore[operator]
            best = min(best, (time.process_time() - began) / 200)
        return best * 1e6

    sign, check = each_us(lambda: keys.sign(digest)), each_us(lambda: check_anew(keys.public_key, signature, digest))
    return [
        Row(
            "Ed25519: sign · verify · floor of a task alone (1 + 2)",
            f"{sign:.0f} · {check:.0f} · {sign + 2 * check:.0f} µs",
        )
    ]


def probe(rounds: int) -> list[Row]:
    """Eight GPUs through the child process, on the fake driver."""
    if compiler() is None:
        return [Row("probe of 8 GPUs", "skipped: no C compiler for the fake driver")]
    return asyncio.run(_probe(rounds))


async def _probe(rounds: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as home:
        placed = Builder(_made(Path(home) / "build")).place(load(HOSTS / "h200x8.ini"), _made(Path(home) / "driver"))
        reader = NvmlProbe(SystemClock(), library=placed.library, deadline_s=20.0)
        try:
            assert len((await reader.settled()).gpus) == 8
            assert reader.child_pid
            took, before = [], _on_cpu_ms(reader.child_pid)
            for _ in range(rounds * 50):
                began = time.perf_counter()
                await reader.snapshot()
                took.append(time.perf_counter() - began)
            cpu_ms = (_on_cpu_ms(reader.child_pid) - before) / len(took)
        finally:
            await reader.close()
    return [
        at_most("CPU of the child for a sample of 8 GPUs", cpu_ms, 1.0, "ms", 2),
        at_most("probe of 8 GPUs through the child, p50", percentile(took, 0.5) * 1000, 1.0, "ms", 2),
        Row("… p99", f"{percentile(took, 0.99) * 1000:.2f} ms"),
    ]


def _on_cpu_ms(pid: int) -> float:
    """Of all threads so far: what the machine does besides does not count."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e6


def outbox(rounds: int) -> list[Row]:
    """A result made durable, alone and among sixteen; a transcript, too."""
    return asyncio.run(_outbox(rounds))


async def _outbox(rounds: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as home:
        box = await SqliteOutbox.open(Path(home) / "outbox.db", _told)
        papers = FileTranscripts(Path(home) / "transcripts")
        numbers = iter(range(10**9))
        made: list[OutboxRow] = []

        async def put() -> None:
            number = next(numbers)
            key = LeaseKey(task_id=f"t{number}", attempt=1, fence=number)
            made.append(OutboxRow(key=key, idem_key=f"k{number}", offer=builders.signed(), result=builders.signed()))
            await box.put(made[-1])

        async def settle() -> None:
            row = made.pop()
            await box.settle(row, builders.signed(), _receipt(row))

        async def look() -> None:
            await box.settled_many([(row.key, row.idem_key) for row in made[-16:]])

        async def keep() -> None:
            number = next(numbers)
            await papers.keep(LeaseKey(task_id=f"t{number}", attempt=1, fence=number), bytes(4096), 1e9)

        rows = [Row("fsync of 4 KiB on this disk", f"{_fsync_ms(Path(home)):.2f} ms")]
        for name, work, counts in (
            ("outbox: one durable", put, (1, 16)),
            ("outbox: are 16 offers replays", look, (1,)),
            ("outbox: one settled", settle, (1, 16)),
            ("transcript: one durable", keep, (1, 16)),
        ):
            for many in counts:
                took, cpu = await _each(work, many, rounds * 20)
                rows.append(Row(f"{name}, {many} at once", f"{took * 1e6:,.0f} µs, CPU {cpu * 1e6:,.0f} µs"))
        await box.close()
        await papers.close()
    return rows


def _receipt(row: OutboxRow) -> wire.ReceiptBody:
    return wire.ReceiptBody(
        receipt_id="r",
        node_id="n",
        task_id=row.key.task_id,
        attempt=row.key.attempt,
        fence=row.key.fence,
        idem_key=row.idem_key,
        status=wire.ReceiptStatus.ACCEPTED,
        result_sha256="",
        received_at=0,
        amount_micros=1,
        currency="credit",
    )


def _told(damage: str) -> None:
    raise RuntimeError(damage)


async def _each(work: object, many: int, turns: int) -> tuple[float, float]:
    cpu, began = time.process_time(), time.perf_counter()
    for _ in range(turns):
        await asyncio.gather(*(work() for _ in range(many)))  # type: ignore[operator]
    total = turns * many
    return (time.perf_counter() - began) / total, (time.process_time() - cpu) / total


def _fsync_ms(home: Path) -> float:
    took = []
    with (home / "probe").open("wb") as file:
        for _ in range(50):
            file.write(bytes(4096))
            file.flush()
            began = time.perf_counter()
            os.fsync(file.fileno())
            took.append(time.perf_counter() - began)
    return percentile(took, 0.5) * 1000


def sandbox(rounds: int) -> list[Row]:
    """A program in a fresh sandbox over the same program by itself."""
    return asyncio.run(_sandbox(rounds))


async def _sandbox(rounds: int) -> list[Row]:
    bare = await _bare_ms(rounds * 5)
    rows = []
    for name in BACKENDS:
        with tempfile.TemporaryDirectory() as home:
            box = make_backend(name, Path(home))
            facts = await box.probe()
            what = f"fresh sandbox of {facts.backend} over a bare spawn, start to end, p50"
            if not facts.usable:
                rows.append(Row(what, f"skipped: {facts.detail}"))
                continue
            began_ms, ended_ms = await _fresh_ms(box, rounds * 5)
        if name == "bubblewrap":
            rows.append(at_most(what, ended_ms - bare, 20.0, "ms"))
        else:
            rows.append(Row(what, f"{ended_ms - bare:.0f} ms, of which {began_ms:.0f} ms until the program runs"))
    return rows


async def _bare_ms(turns: int) -> float:
    took = []
    for _ in range(turns):
        began = time.perf_counter()
        await (await asyncio.create_subprocess_exec("/bin/true", stdin=subprocess.DEVNULL)).wait()
        took.append(time.perf_counter() - began)
    return percentile(took, 0.5) * 1000


async def _fresh_ms(box: Sandbox, turns: int) -> tuple[float, float]:
    """Until the program runs, and until it has ended and nothing is left of its sandbox; p50 of each."""
    running, ended = [], []
    for _ in range(turns):
        began = time.perf_counter()
        handle = await box.start(SandboxSpec(name="bench", argv=("/bin/true",)))
        running.append(time.perf_counter() - began)
        await handle.wait()
        ended.append(time.perf_counter() - began)
    return percentile(running, 0.5) * 1000, percentile(ended, 0.5) * 1000


def _made(path: Path) -> Path:
    path.mkdir()
    return path
