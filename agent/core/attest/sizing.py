"""How much work a challenge is, and how long it may take: from what a card claims to be, so that a CPU needs minutes.

The verifier repeats 64 rows in all, whatever the GPUs: it makes the common factor once (64 MiB), which is most of its
work, and multiplies; about half a second of one core (docs/gpus.md has the figures).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from agent.core.attest.cards import Card
from agent.core.attest.messages import CPU, Work
from agent.core.attest.tree import BLOCK_ROWS, READINGS
from agent.core.attest.words import DIGEST_BYTES

GPU_COLUMNS = 8192
"""A row's products are 8192² multiplications then. Twice as many would cost the verifier four times as much."""
GPU_LAYERS = 4
"""A row is computed four times as long as it would need with one, but made and stored once."""
LEAST_S, MOST_S = 2.0, 5.0
"""At the maker's figure: long enough that the network's delay weighs little, and short enough to ask for it daily."""
SHARE = 0.2
"""Of the maker's figures, what has to be reached. A library's product reaches half to two thirds, on a cool card that
may take all its power; making and folding the matrices take as long again."""
HASHED_BYTES_S = 100e6
"""At which digests leave the card and get hashed."""
CPU_COLUMNS, CPU_ROWS, CPU_LAYERS = 512, 2048, 2
"""A tenth of a second of one core."""
DRAWN_ROWS = 64
"""In all. A device that left out a part `q` of its rows goes undetected with (1-q)^n, n of them its own: of eight that
left out half, each is found with 99.6 %."""
LEAST_DRAWN = 4
SPARE_BYTES = 2 << 30
"""Of a GPU, for the factor (64 MiB), a chunk of rows with its 32-bit sums and keys, and the library's own."""
CONTEXT_BYTES = 512 << 20
"""What CUDA itself takes of a GPU before anything is computed: 300 to 600 MiB, by card and driver."""
MAX_ROWS = 1 << 27


def shortage(free_bytes: int, needed_bytes: int, reserve_bytes: int) -> str:
    """Why a GPU with so much free memory is not challenged, with the figures; empty when it can be."""
    if free_bytes >= needed_bytes + reserve_bytes:
        return ""
    needed, reserve, free = (f"{size / (1 << 30):.1f} GiB" for size in (needed_bytes, reserve_bytes, free_bytes))
    return f"a challenge needs {needed} of GPU memory besides the reserve of {reserve}, and {free} is free"


def columns_for(devices: Sequence[str]) -> int:
    """Width of all matrices of a challenge."""
    return CPU_COLUMNS if CPU in devices else GPU_COLUMNS


def work_for(device: str, card: Card, free_bytes: int, columns: int) -> Work:
    """One device's part: fill what is free, and compute for at least two seconds."""
    if device == CPU:
        return Work(device=device, rows=CPU_ROWS, kept=CPU_ROWS, layers=CPU_LAYERS)
    kept = min(free_bytes // columns, MAX_ROWS) // BLOCK_ROWS * BLOCK_ROWS
    row_s = seconds_at(card, Work(device=device, rows=1, kept=0), columns)
    layers = min(max(int(MOST_S / (max(kept, 1) * row_s)), 1), GPU_LAYERS)
    least = int(LEAST_S / (row_s * layers)) // BLOCK_ROWS * BLOCK_ROWS
    return Work(device=device, rows=max(kept, least, BLOCK_ROWS), kept=kept, layers=layers)


def operations(work: Work, columns: int) -> int:
    """8-bit additions and multiplications."""
    return 2 * work.rows * work.layers * columns * columns


def seconds_at(card: Card, work: Work, columns: int) -> float:
    """At the maker's figure."""
    return operations(work, columns) / (card.int8_tops * 1e12)


def commit_limit_s(card: Card, work: Work, columns: int, latency_s: float) -> float:
    """How long it may take from the seed to the commitment."""
    return latency_s + seconds_at(card, work, columns) / SHARE + work.rows * DIGEST_BYTES / HASHED_BYTES_S


def reread_limit_s(card: Card, work: Work, columns: int, latency_s: float) -> float:
    """How long it may take to read what was kept, four times."""
    read_s = work.kept * columns / (card.memory_gb_s * 1e9)
    return latency_s + READINGS * (read_s / SHARE + work.kept * DIGEST_BYTES / HASHED_BYTES_S)


HOST_BYTES_S = 64e9
"""PCIe 5 with 16 lanes: what was not kept on the card may come from the host's memory as fast."""


def memory_shown_bytes(card: Card, work: Work, columns: int, reread_s: float) -> int:
    """What must have been kept on the card: not computed anew for each reading, at the maker's figure, nor fetched."""
    reading_s = reread_s / READINGS
    row_s = seconds_at(card, Work(device=work.device, rows=1, kept=0, layers=work.layers), columns)
    anew = int(reading_s / row_s) * columns
    return max(0, work.kept * columns - anew - int(reading_s * HOST_BYTES_S))


def drawn(chance: str, work: Work, devices: int) -> tuple[int, ...]:
    """Which rows are opened; `chance` (hex) must be fresh. Every second one is of those that were kept."""
    count = max(DRAWN_ROWS // devices, LEAST_DRAWN)
    found: dict[int, None] = {}
    for number in range(count):
        text = f"{chance}/{work.device}/{number}".encode()
        pick = int.from_bytes(hashlib.sha256(text).digest()[:8], "little")
        first = work.rows - work.kept if number % 2 and work.kept else 0
        found[first + pick % (work.rows - first)] = None
    return tuple(sorted(found))
