"""The verdict about each device, from times on the coordinator's clock and what was wrong with its rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from agent.core.attest.cards import Card
from agent.core.attest.messages import CPU, Attestation, Standing, Work
from agent.core.attest.sizing import commit_limit_s, memory_shown_bytes, operations, reread_limit_s


class Times(NamedTuple):
    """On the coordinator's clock, its messages' way there and back included."""

    commit_s: float
    reread_s: float


class Claim(NamedTuple):
    """What a device says that it is."""

    name: str
    card: Card
    """From the table, or `cards.UNKNOWN`."""


def judged(
    works: tuple[Work, ...],
    columns: int,
    claims: Mapping[str, Claim],
    times: Times,
    faults: Mapping[str, str],
    latency_s: float,
    at: int,
) -> tuple[Attestation, ...]:
    """One for each device. `faults`: device → what was wrong with its rows. `at`: Unix seconds."""
    return tuple(
        _judged(work, columns, claims[work.device], times, faults.get(work.device, ""), latency_s, at) for work in works
    )


def _judged(work: Work, columns: int, claim: Claim, times: Times, fault: str, latency_s: float, at: int) -> Attestation:
    standing, detail = _standing(work, columns, claim.card, times, fault, latency_s)
    shown = memory_shown_bytes(claim.card, work, columns, times.reread_s)
    return Attestation(
        device=work.device,
        standing=standing,
        name=claim.name,
        # All devices start and commit together: of each, at least this.
        gops=0 if fault else int(operations(work, columns) / max(times.commit_s, 1e-3) / 1e9),
        commit_ms=int(times.commit_s * 1000),
        reread_ms=int(times.reread_s * 1000),
        memory_bytes=shown if standing is Standing.ATTESTED else 0,
        detail=detail,
        judged_at=at,
    )


def _standing(work: Work, columns: int, card: Card, times: Times, fault: str, latency_s: float) -> tuple[Standing, str]:
    if fault:
        return Standing.WRONG, fault
    if work.device == CPU:
        return Standing.CPU, "it claims to be no GPU"
    for what, took_s, limit_s in (
        ("to compute", times.commit_s, commit_limit_s(card, work, columns, latency_s)),
        ("to read its memory again", times.reread_s, reread_limit_s(card, work, columns, latency_s)),
    ):
        if took_s > limit_s:
            return Standing.TOO_SLOW, f"{took_s:.2f} s {what}, where {limit_s:.2f} s are allowed"
    known = "" if card.name else "; the model is not in the table, so little was asked of it"
    return Standing.ATTESTED, f"{work.rows} rows of {work.layers} layers in {times.commit_s:.2f} s{known}"


def unanswered(device: str, name: str, detail: str, at: int) -> Attestation:
    """Of a device that did not answer."""
    return Attestation(device=device, standing=Standing.NO_ANSWER, name=name, detail=detail, judged_at=at)
