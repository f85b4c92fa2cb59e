"""Does an engine fit, and where: free GPU memory after other programs, the owner's reserve and what is promised."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import pairwise

import msgspec

from agent.core.gpu import GpuProcess, GpuReport
from agent.core.model import Value
from agent.core.model_memory import Need, Plan

_MIB = 1 << 20
_GIB = 1 << 30
_CACHE_OPTIONS = {"-ctk": "key", "--cache-type-k": "key", "-ctv": "value", "--cache-type-v": "value"}
_BATCH_OPTIONS = frozenset({"-ub", "--ubatch-size"})
_UNJUDGED = frozenset(
    {"-c", "--ctx-size", "-np", "--parallel", "-ngl", "--gpu-layers", "--n-gpu-layers", "-ot", "--override-tensor"}
    | {"-cmoe", "--cpu-moe", "-ncmoe", "--n-cpu-moe", "-nkvo", "--no-kv-offload", "-dev", "--device", "-fit", "--fit"}
    | {"-sm", "--split-mode", "-ts", "--tensor-split", "-mg", "--main-gpu", "-md", "--model-draft", "-mm", "--mmproj"}
    | {"--lora", "--lora-scaled", "--swa-full", "-fa", "--flash-attn"}
)
"""Arguments that change what is put where: then only a measurement tells."""


def plan_of(slots: int, context_tokens: int, gpus: int, args: Sequence[str]) -> Plan | None:
    """How the engine will run, with the owner's own arguments; None when they change what no header tells."""
    words = [part for arg in args for part in arg.split("=", 1)]
    if not _UNJUDGED.isdisjoint(words):
        return None
    types, batch = {"key": "f16", "value": "f16"}, Plan(slots=1, context_tokens=1).ubatch_tokens
    for option, value in pairwise(words):
        if option in _CACHE_OPTIONS:
            types[_CACHE_OPTIONS[option]] = value
        elif option in _BATCH_OPTIONS:
            if not (value.isascii() and value.isdigit() and int(value)):
                return None
            batch = int(value)
    return Plan(
        slots=slots,
        context_tokens=context_tokens,
        key_type=types["key"],
        value_type=types["value"],
        ubatch_tokens=batch,
        gpus=gpus,
    )


class Room(Value):
    """The memory of one GPU or MIG slice."""

    uuid: str
    total_bytes: int
    free_bytes: int | None
    """As the driver tells; None where it does not."""


def rooms(report: GpuReport) -> dict[str, Room]:
    """Every GPU and slice that can be used and tells its memory, by UUID."""
    found = {}
    for gpu in report.gpus:
        if gpu.fault is not None:
            continue
        if gpu.memory_total_bytes is not None:
            found[gpu.uuid] = Room(
                uuid=gpu.uuid, total_bytes=gpu.memory_total_bytes, free_bytes=gpu.sample.memory_free_bytes
            )
        free = {one.uuid: one.memory_free_bytes for one in gpu.sample.slices}
        for part in gpu.mig:
            found[part.uuid] = Room(uuid=part.uuid, total_bytes=part.memory_total_bytes, free_bytes=free.get(part.uuid))
    return found


class Wish(Value):
    """An engine that wants to start."""

    need: Need
    gpus: tuple[str, ...] = ()
    """UUIDs; empty: any one of `candidates`."""
    candidates: tuple[str, ...] = ()


class Answer(Value):
    """Where it may start, or why not. Exactly one of the two is empty."""

    gpus: tuple[str, ...] = ()
    bytes_by_gpu: dict[str, int] = msgspec.field(default_factory=dict)
    """What it will take of each."""
    refused: str = ""
    """In plain words, with the numbers."""


def place(
    wish: Wish, report: GpuReport, *, reserve_bytes: int, promised: Mapping[str, int], ours: Mapping[str, int]
) -> Answer:
    """Where `wish` fits. `promised`: bytes that engines of ours will still take, by UUID; `ours`: what they use now.

    What the driver does not tell cannot refuse: a GPU without figures takes what is asked for.
    """
    known = rooms(report)
    if wish.gpus:
        return _on(wish.gpus, wish.need, known, reserve_bytes, promised, ours)
    ordered = sorted(
        wish.candidates, key=lambda uuid: _available(known.get(uuid), reserve_bytes, promised), reverse=True
    )
    answers = [_on((uuid,), wish.need, known, reserve_bytes, promised, ours) for uuid in ordered]
    fitting = next((answer for answer in answers if not answer.refused), None)
    if fitting or not answers:
        return fitting or Answer(refused="there is no GPU that it may take", bytes_by_gpu={})
    if len(answers) == 1:
        return answers[0]
    return Answer(
        refused=f"{answers[0].refused}; that is the one with the most room of {len(answers)}", bytes_by_gpu={}
    )


def _available(room: Room | None, reserve_bytes: int, promised: Mapping[str, int]) -> int:
    if room is None or room.free_bytes is None:
        return 0 if room is None else room.total_bytes - reserve_bytes - promised.get(room.uuid, 0)
    return room.free_bytes - reserve_bytes - promised.get(room.uuid, 0)


def _on(
    gpus: Sequence[str],
    need: Need,
    known: Mapping[str, Room],
    reserve_bytes: int,
    promised: Mapping[str, int],
    ours: Mapping[str, int],
) -> Answer:
    shares = _shares(need, split([known.get(uuid) for uuid in gpus]))
    short = []
    for uuid, share in zip(gpus, shares, strict=True):
        room = known.get(uuid)
        if room is None:
            continue
        available = _available(room, reserve_bytes, promised)
        if share > available:
            part = "" if len(gpus) == 1 else f" ({_gib(share)} of it there)"
            short.append(_why(room, part, available, reserve_bytes, promised.get(uuid, 0), ours.get(uuid, 0)))
    if short:
        return Answer(refused=f"needs {describe(need)}, {' and '.join(short)}", bytes_by_gpu={})
    return Answer(gpus=tuple(gpus), bytes_by_gpu=dict(zip(gpus, shares, strict=True)))


def split(gpus: Sequence[Room | None]) -> tuple[int, ...]:
    """Proportions in which a model is cut over GPUs: as their memory in GiB. They do not depend on what is free, so
    that the same engine computes the same way each time."""
    if len(gpus) == 1 or any(room is None for room in gpus):
        return (1,) * len(gpus)
    return tuple(max(round(room.total_bytes / _GIB), 1) for room in gpus if room)


def _shares(need: Need, parts: Sequence[int]) -> list[int]:
    """Bytes on each GPU. Layers are not cut: each may get one more than its part."""
    if len(parts) == 1:
        return [need.total_bytes]
    if need.by_measurement:
        spread, each = need.total_bytes, 0
    else:
        spread = need.weights_bytes + need.kv_bytes
        each = need.buffers_bytes + spread // need.layers
    return [spread * part // sum(parts) + each for part in parts]


def _why(room: Room, part: str, available: int, reserve_bytes: int, promised: int, ours: int) -> str:
    free = f"{room.uuid}{part} has {_gib(max(available, 0))} of {_gib(room.total_bytes)} free"
    taken = []
    if room.free_bytes is not None and (others := max(room.total_bytes - room.free_bytes - ours, 0)) >= _MIB:
        taken.append(f"{_gib(others)} of other programs")
    if ours + promised:
        taken.append(f"{_gib(ours + promised)} of other pools")
    if reserve_bytes:
        taken.append(f"a reserve of {_gib(reserve_bytes)}")
    return f"{free} after {' and '.join(taken)}" if taken else free


def describe(need: Need) -> str:
    """Such as `5.1 GiB (weights 4.1, KV 0.8 for 4 × 4,096 tokens, buffers 0.2)`."""
    if need.by_measurement:
        return f"{_gib(need.total_bytes)} (measured; expected {_gib(need.estimated_bytes)})"
    cache = f" for {need.slots} × {need.context_tokens:,} tokens"
    parts = (need.weights_bytes, need.kv_bytes, need.buffers_bytes * max(need.gpus, 1))
    weights, kv, buffers = (f"{size / _GIB:.1f}" for size in parts)
    return f"{_gib(need.total_bytes)} (weights {weights}, KV {kv}{cache}, buffers {buffers})"


def never_in(need: Need, memory_bytes: int, limit_bytes: int | None) -> str:
    """Why an engine can surely not run on the processor; empty when it may. Weights are mapped and can be read again,
    so that caches and buffers alone must fit."""
    held = need.kv_bytes + need.buffers_bytes
    most = memory_bytes if limit_bytes is None else min(memory_bytes, limit_bytes)
    if held <= most:
        return ""
    where = "this machine has" if most == memory_bytes else "sandbox.engine_memory_mib allows"
    return f"needs {describe(need)}, {where} {_gib(most)}"


def _gib(size: int) -> str:
    return f"{size / _GIB:,.1f} GiB"


def used_by(report: GpuReport, pids: Collection[int], gpus: Iterable[str]) -> dict[str, int] | None:
    """What these processes use of each of `gpus`; None where the driver does not tell all of it."""
    found = {}
    for uuid in gpus:
        users = _users(report, uuid)
        mine = [user.memory_bytes for user in users if user.pid in pids]
        told = [size for size in mine if size is not None]
        if not mine or len(told) < len(mine):
            return None
        found[uuid] = sum(told)
    return found


def _users(report: GpuReport, uuid: str) -> list[GpuProcess]:
    for gpu in report.gpus:
        if gpu.uuid == uuid:
            return list(gpu.sample.users)
        for part in gpu.mig:
            if part.uuid == uuid:
                return [user for user in gpu.sample.users if user.gpu_instance == part.gpu_instance]
    return []
