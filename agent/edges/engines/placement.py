"""Gives engines their places: looks at what the GPUs have free, remembers what was promised, measures what is taken."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import structlog
from msgspec.structs import replace

from agent.core.determinism import cards
from agent.core.errors import EngineError
from agent.core.gpu import GpuReport, units
from agent.core.model import Reason
from agent.core.model_memory import ModelShape, Need, need
from agent.core.placement import Answer, Wish, never_in, place, plan_of, rooms, split, used_by
from agent.core.release import Holding, Taken, untold_bytes
from agent.edges.engines.launch import LlamaSettings, more_args
from agent.edges.models.gguf import model_shape
from agent.edges.sandbox.processes import resident_bytes, tree

_REMEDY = "It starts when memory is freed; fewer slots or context_tokens, or a smaller model, need less"
_NEWS_BYTES = 64 << 20
"""Growth that is told again."""
_log = structlog.get_logger("engine")


class GpuRoom:
    """What all pools of this node share. `see` is told of every reading; until the first one nothing is refused."""

    def __init__(self, *, reserve_bytes: int = 0, taken: Sequence[str] = ()) -> None:
        """`taken`: GPUs that are not to be chosen for an engine."""
        self._reserve_bytes = reserve_bytes
        self._taken = frozenset(taken)
        self._report = GpuReport()
        self._seats: dict[str, _Seat] = {}
        self._measured: dict[str, int] = {}
        self._expected: dict[str, int | None] = {}
        self._hosted: dict[str, int] = {}
        """Engines on the processor: their first processes."""
        self._news = asyncio.Event()
        self._short: frozenset[str] = frozenset()

    def see(self, report: GpuReport) -> None:
        """A new reading: measure what runs, and let those look again who wait."""
        self._report = report
        for name, seat in self._seats.items():
            self._measure(name, seat)
        for name, pid in self._hosted.items():
            self._measured[name] = max(self._measured.get(name, 0), resident_bytes(pid))
        self._look_for_others()
        self._news.set()
        self._news = asyncio.Event()

    async def changed(self) -> None:
        """Until the next reading."""
        await self._news.wait()

    def take(self, name: str, wanted: Need | None, gpus: Sequence[str]) -> Answer:
        """A place on `gpus`, or on any one when there are none; it is kept until `leave`."""
        candidates = tuple(uuid for uuid in units(self._report) if uuid not in self._taken)
        self.expects(name, wanted)
        known = self._corrected(name, wanted, len(gpus))
        if known is None:
            chosen = tuple(gpus) or candidates[:1]
            self._seats[name] = _Seat(dict.fromkeys(chosen, 0))  # how much it takes, only a measurement tells
            return Answer(gpus=chosen, bytes_by_gpu={}, refused="" if chosen else "there is no GPU that it may take")
        answer = place(
            Wish(need=known, gpus=tuple(gpus), candidates=candidates),
            self._report,
            reserve_bytes=self._reserve_bytes,
            promised=self._sum(_Seat.promised),
            ours=self.used(),
        )
        if not answer.refused:
            self._seats[name] = _Seat(answer.bytes_by_gpu)
        return answer

    def expects(self, name: str, wanted: Need | None) -> None:
        """What its model's header tells of it."""
        self._expected[name] = wanted.estimated_bytes if wanted else None

    def taken(self, name: str) -> Taken:
        """What was expected of an engine, and what it took."""
        return Taken(expected_bytes=self._expected.get(name), measured_bytes=self._measured.get(name))

    def used(self) -> dict[str, int]:
        """What all engines take of each GPU or slice, by the latest reading."""
        return self._sum(lambda seat: seat.used)

    def _corrected(self, name: str, wanted: Need | None, gpus: int) -> Need | None:
        """With what was measured before; that alone where the header does not tell."""
        measured = self._measured.get(name)
        if wanted is not None:
            return replace(wanted, measured_bytes=measured)
        if measured is None:
            return None
        empty = Need(weights_bytes=0, kv_bytes=0, buffers_bytes=0, slots=0, context_tokens=0, gpus=max(gpus, 1))
        return replace(empty, measured_bytes=measured)

    def split(self, gpus: Sequence[str]) -> tuple[int, ...]:
        """In which proportions a model is cut over these."""
        known = rooms(self._report)
        return split([known.get(uuid) for uuid in gpus])

    def cards(self, gpus: Sequence[str]) -> str:
        """`core.determinism.cards` by the latest reading."""
        return cards(self._report, gpus)

    def started(self, name: str, pid: int) -> None:
        """The engine runs as this process and those below it."""
        if name in self._seats:
            self._seats[name].pid = pid
        else:
            self._hosted[name] = pid

    def ready(self, name: str) -> None:
        """It has taken all that it will."""
        if name in self._seats:
            self._seats[name].loaded = True

    def leave(self, name: str) -> None:
        """It has ended."""
        self._seats.pop(name, None)
        self._hosted.pop(name, None)

    def holding(self, name: str) -> Holding | None:
        """What its engine holds now, by the latest reading; None for one that has no place on a GPU."""
        seat = self._seats.get(name)
        if seat is None or seat.pid is None or not seat.bytes_by_gpu:
            return None
        pids = frozenset(tree(seat.pid))
        held = used_by(self._report, pids, seat.bytes_by_gpu) or seat.bytes_by_gpu
        return Holding(bytes_by_gpu=held, pids=pids, untold=untold_bytes(self._report, held))

    def _sum(self, of: Callable[[_Seat], dict[str, int]]) -> dict[str, int]:
        found: dict[str, int] = {}
        for seat in self._seats.values():
            for uuid, size in of(seat).items():
                found[uuid] = found.get(uuid, 0) + size
        return found

    def _measure(self, name: str, seat: _Seat) -> None:
        if seat.pid is None:
            return
        used = used_by(self._report, frozenset(tree(seat.pid)), seat.bytes_by_gpu)
        seat.used = used or {}
        seat.settled = seat.settled or seat.loaded
        if used is None or not seat.loaded:
            return
        total, before = sum(used.values()), self._measured.get(name)
        if before is None or total > before + _NEWS_BYTES or not seat.told:
            _log.info(
                "engine.gpu_memory", pool=name, mib=total >> 20, expected_mib=(self._expected.get(name) or 0) >> 20
            )
            self._measured[name] = max(total, before or 0)
            seat.told = True

    def _look_for_others(self) -> None:
        """Other programs may grow while an engine runs: that is told, once, and ends nothing."""
        known = rooms(self._report)
        busy = {uuid for seat in self._seats.values() if seat.settled for uuid in seat.bytes_by_gpu}
        free = {uuid: known[uuid].free_bytes for uuid in busy if uuid in known}
        short = frozenset(uuid for uuid, size in free.items() if size is not None and size < self._reserve_bytes)
        for uuid in sorted(short - self._short):
            _log.warning("gpu.crowded", uuid=uuid, free_mib=(free[uuid] or 0) >> 20, reserve=self._reserve_bytes >> 20)
        self._short = short


class _Seat:
    """One engine's place."""

    def __init__(self, bytes_by_gpu: dict[str, int]) -> None:
        self.bytes_by_gpu = bytes_by_gpu
        self.pid: int | None = None
        self.loaded = False
        self.settled = False
        """It was loaded when the GPUs were read last: what is free tells all of it."""
        self.used: dict[str, int] = {}
        self.told = False

    def promised(self) -> dict[str, int]:
        """What it will still take of each GPU."""
        if self.settled:
            return {}
        return {uuid: max(size - self.used.get(uuid, 0), 0) for uuid, size in self.bytes_by_gpu.items()}


class Placement:
    """One pool's way to its GPUs, or to the processor."""

    def __init__(self, room: GpuRoom, *, chooses: bool = False, host_memory_bytes: Callable[[], int]) -> None:
        """`chooses`: any one GPU will do (`device = "auto"`)."""
        self._room = room
        self._chooses = chooses
        self._host_memory_bytes = host_memory_bytes
        self._name = ""

    async def settle(self, settings: LlamaSettings, refused: Callable[[str], None]) -> LlamaSettings:
        """`settings` with the GPUs that the engine gets. Waits while it does not fit; `refused` is told why.

        Raises EngineError for what can never fit, ModelError for a header that is not sound.
        """
        self._name = settings.name
        wanted = need_of(await asyncio.to_thread(model_shape, settings.weights), settings)
        if not settings.gpus:
            self._room.expects(settings.name, wanted)
            self._fits_host(wanted, settings)
            return settings
        told = ""
        while (answer := self._room.take(settings.name, wanted, () if self._chooses else settings.gpus)).refused:
            if answer.refused != told:
                told = answer.refused
                refused(f"{told}. {_REMEDY}")
            await self._room.changed()
        return replace(settings, gpus=answer.gpus, tensor_split=self._room.split(answer.gpus))

    def _fits_host(self, wanted: Need | None, settings: LlamaSettings) -> None:
        why = wanted and never_in(wanted, self._host_memory_bytes(), settings.limits.memory_bytes)
        if why:
            remedy = "Set fewer slots or context_tokens, or take a smaller model"
            raise EngineError(Reason.ENGINE_UNAVAILABLE, why, remedy=remedy)

    def cards(self, gpus: Sequence[str]) -> str:
        return self._room.cards(gpus)

    def started(self, pid: int) -> None:
        self._room.started(self._name, pid)

    def ready(self) -> None:
        self._room.ready(self._name)

    def leave(self) -> None:
        self._room.leave(self._name)


def need_of(shape: ModelShape, settings: LlamaSettings) -> Need | None:
    """What this engine takes; None when its arguments keep that from being told. Raises EngineError."""
    plan = plan_of(settings.slots, settings.context_tokens, len(settings.gpus), more_args(settings))
    try:
        return None if plan is None else need(shape, plan)
    except ValueError as fault:
        raise EngineError(Reason.ENGINE_UNAVAILABLE, str(fault), remedy="Correct pools.args") from fault
