"""A real card passes the challenge, and a processor in its place does not. Prints the figures, for `make gpu` to keep.

Run with `pip install 'gpu-agent[attest]'`: torch for the card, numpy to check it.
"""

from __future__ import annotations

import asyncio
import importlib.util
import resource
import secrets
import time
from collections.abc import Sequence

import pytest

from agent.core.attest.cards import UNKNOWN, card_named
from agent.core.attest.consistency import doubts_of
from agent.core.attest.judging import Claim, Times, judged
from agent.core.attest.messages import Attestation, Standing, Work
from agent.core.attest.sizing import GPU_COLUMNS, commit_limit_s, drawn, operations, work_for
from agent.core.errors import AttestError
from agent.core.gpu import Gpu, GpuReport
from agent.devnet.attest import looked_at
from agent.devnet.core.attesting import Exhibit
from agent.edges.gpu.matrix_children import MatrixChildren
from agent.edges.gpu.models import card_table
from tests.core.attest.matrices import AGAIN, COLUMNS, SEED, WORKS, answered

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]

LIMIT_S = 300.0
LATENCY_S = 0.6


@pytest.fixture(scope="module")
def cards(report: GpuReport) -> tuple[Gpu, ...]:
    """Those that are whole, all at once."""
    for name in ("torch", "numpy"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed: pip install 'gpu-agent[attest]'")
    found = tuple(gpu for gpu in report.gpus if gpu.fault is None and not gpu.mig_enabled)
    if not found:
        pytest.skip("every card here is cut into slices")
    return found


def claim_of(gpu: Gpu) -> Claim:
    return Claim(gpu.name, card_named(gpu.name, card_table()) or UNKNOWN)


async def challenged(gpus: Sequence[Gpu]) -> tuple[tuple[Attestation, ...], Exhibit]:
    """The whole challenge, timed here as a coordinator would, without a network between."""
    engine, claims = MatrixChildren(), {gpu.uuid: claim_of(gpu) for gpu in gpus}
    seed, again, chance = (secrets.token_hex(32) for _ in range(3))
    try:
        began = time.monotonic()
        free = await engine.prepare(list(claims), GPU_COLUMNS)
        print(f"\nready after {time.monotonic() - began:.1f} s; free GiB: {[size >> 30 for size in free]}")
        works = tuple(
            work_for(uuid, claims[uuid].card, size, GPU_COLUMNS) for uuid, size in zip(claims, free, strict=True)
        )
        began = time.monotonic()
        roots = await engine.commit(seed, works, LIMIT_S)
        commit_s = time.monotonic() - began
        began = time.monotonic()
        roots_again = await engine.reread(again, LIMIT_S)
        reread_s = time.monotonic() - began
        rows = tuple(drawn(chance, work, len(works)) for work in works)
        opened = await engine.open(rows, LIMIT_S)
    finally:
        await engine.close()
    exhibit = Exhibit(
        challenge_id="real",
        seed=seed,
        seed_again=again,
        columns=GPU_COLUMNS,
        works=works,
        roots=roots,
        roots_again=roots_again,
        rows=rows,
        opened=opened,
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = await looked_at(exhibit)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"looked at {sum(map(len, rows))} rows in {after.ru_utime - before.ru_utime:.2f} s of one core")
    at = int(time.time())
    return judged(works, GPU_COLUMNS, claims, Times(commit_s, reread_s), found, LATENCY_S, at), exhibit


async def test_the_real_card_is_attested(cards: tuple[Gpu, ...]) -> None:
    found, exhibit = await challenged(cards)

    for it, work in zip(found, exhibit.works, strict=True):
        card = claim_of(next(gpu for gpu in cards if gpu.uuid == it.device)).card
        share = it.gops / (card.int8_tops * 1000)
        limit_s = commit_limit_s(card, work, GPU_COLUMNS, LATENCY_S)
        print(
            f"{it.name}: {it.standing.value}; {work.rows} rows, {work.kept} kept, {work.layers} layers; "
            f"committed in {it.commit_ms} ms (allowed {limit_s:.1f} s), {it.gops / 1000:.0f} TOPS "
            f"({share:.0%} of the maker's), read again in {it.reread_ms} ms, {it.memory_bytes / 2**30:.0f} GiB shown"
        )
    assert {it.standing for it in found} == {Standing.ATTESTED}, found


async def test_the_card_computes_what_the_processor_computes(cards: tuple[Gpu, ...]) -> None:
    engine = MatrixChildren()
    try:
        await engine.prepare([cards[-1].uuid], COLUMNS)
        roots = await engine.commit(SEED, WORKS[:1], LIMIT_S)
        again = await engine.reread(AGAIN, LIMIT_S)
    finally:
        await engine.close()

    _, root, root_again = answered(WORKS[0])
    assert (roots, again) == ((root,), (root_again,))


async def test_the_processor_in_its_place_would_need_minutes(cards: tuple[Gpu, ...]) -> None:
    """Measured on a small part of the work, with numpy on all cores."""
    card = claim_of(cards[-1]).card
    whole = work_for("GPU-1", card, (cards[-1].memory_total_bytes or 0) // 2, GPU_COLUMNS)
    part = Work(device="GPU-1", rows=512, kept=0, layers=1)
    engine = MatrixChildren(lambda _device: "numpy")
    try:
        await engine.prepare(["GPU-1"], GPU_COLUMNS)
        began = time.monotonic()
        await engine.commit(SEED, (part,), LIMIT_S)
        rate = operations(part, GPU_COLUMNS) / (time.monotonic() - began)
    finally:
        await engine.close()

    needs_s = operations(whole, GPU_COLUMNS) / rate
    print(f"\nthis processor: {rate / 1e12:.2f} TOPS, {needs_s:.0f} s for what {cards[-1].name} has to do in seconds")
    assert needs_s > 3 * commit_limit_s(card, whole, GPU_COLUMNS, LATENCY_S)


async def test_what_the_real_driver_the_kernel_and_the_bus_tell_fits_together(report: GpuReport) -> None:
    assert doubts_of(report, card_table()) == {}


async def test_a_stopped_child_costs_its_deadline_alone(cards: tuple[Gpu, ...]) -> None:
    engine = MatrixChildren(load_s=0.01)
    try:
        with pytest.raises(AttestError, match="has not answered"):
            await engine.prepare([cards[-1].uuid], GPU_COLUMNS)
    finally:
        async with asyncio.timeout(5):
            await engine.close()
