"""Snapshots of an opened driver, in tiers: facts once, settings and condition slowly, the sample each time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from agent.core.gpu import Gpu, GpuCondition, GpuFault, GpuReport, GpuSample, MigSlice, SliceSample
from agent.edges.gpu import codes, nvml
from agent.edges.gpu.facts import FACTS, SETTINGS, slices
from agent.edges.gpu.readings import CONDITION, SAMPLE, slice_now

LIBRARIES = ("libnvidia-ml.so.1", "/usr/lib/wsl/lib/libnvidia-ml.so.1")
"""The loader's own, then WSL 2's, which lies outside the loader's path on some distributions."""
SLOW_S = 10.0
"""Period of settings and condition."""
_WITHOUT_ECC = frozenset({"rows_remapped_corrected", "rows_remapped_uncorrected", "remap_pending", "remap_failed"})


class Reader:
    """One opened driver. Not thread-safe, and never shut down: nvmlShutdown during a call is a use after free."""

    def __init__(self, library: str = "", monotonic: Callable[[], float] = time.monotonic) -> None:
        """`library` is a path of libnvidia-ml; empty for the usual places."""
        self._libraries = (library,) if library else LIBRARIES
        self._monotonic = monotonic
        self._driver = ""
        self._cuda = ""
        self._cards: list[_Card] = []
        """By index. Told again slowly and when the count changes: an index is no identity."""
        self._slow_at = float("-inf")

    def open(self) -> None:
        """Load and initialise the driver library. Raises DriverError."""
        nvml.open_driver(self._libraries)
        self._driver = nvml.driver_version()
        self._cuda = nvml.cuda_version()

    def read(self) -> GpuReport:
        """One snapshot. Raises DriverError when the driver as a whole fails."""
        count, now = nvml.count(), self._monotonic()
        if count != len(self._cards) or now >= self._slow_at:
            known = {card.gpu.uuid: card for card in self._cards}
            self._cards = [_Card.at(index, known) for index in range(count)]
            self._slow_at = now + SLOW_S
        gpus = tuple(card.read() for card in self._cards)
        report = GpuReport(gpus=gpus, driver=self._driver, cuda=self._cuda)
        if gpus:
            return report
        what = f"the NVIDIA driver {self._driver or '(version unknown)'} is loaded and lists no GPU"
        return replace(report, fault=GpuFault.NO_GPU, detail=codes.explain(GpuFault.NO_GPU, what))

    def look_anew(self) -> None:
        """Read settings and condition with the next snapshot, whatever their period."""
        self._slow_at = float("-inf")

    def handles(self) -> dict[str, nvml.Handle]:
        """By UUID, of the GPUs that answered."""
        return {card.gpu.uuid: card.handle for card in self._cards if card.handle is not None}


class _Card:
    """One GPU: what is known of it, and how to ask it."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu
        """With facts, settings and condition; without sample."""
        self.handle: nvml.Handle = None
        self._slices: dict[str, nvml.Handle] = {}
        self._fault: nvml.GpuError | None = None

    @classmethod
    def at(cls, index: int, known: dict[str, _Card]) -> _Card:
        """The GPU at `index`: one that is known, or a new one."""
        try:
            handle = nvml.handle_of(index)
            uuid = nvml.identity_of(handle) or f"index:{index}"
            card = known.get(uuid) or cls(_unknown(uuid, index))
            card.handle, card._fault = handle, None
            card._refresh(index)
        except nvml.GpuError as error:
            before = (card for card in known.values() if card.gpu.index == index)
            card = next(before, None) or cls(_unknown(f"index:{index}", index))
            card.handle, card._fault = None, error
        return card

    def read(self) -> Gpu:
        """The GPU with a fresh sample, or with what is wrong with it."""
        try:
            if self._fault is not None:
                raise self._fault
            absent = dict(self.gpu.absent)
            sample = GpuSample(**nvml.collect(SAMPLE, self.handle, absent), slices=self._slices_now())
        except nvml.GpuError as error:
            detail = codes.explain(error.fault, str(error))
            return replace(self.gpu, condition=GpuCondition(), fault=error.fault, detail=detail)
        return replace(self.gpu, sample=sample, absent=absent)

    def _slices_now(self) -> tuple[SliceSample, ...]:
        return tuple(filter(None, (slice_now(uuid, handle) for uuid, handle in self._slices.items())))

    def _layout(self, absent: dict[str, str]) -> tuple[MigSlice, ...]:
        """The slices of a GPU that is cut, whose handles are kept."""
        try:
            found = slices(self.handle)
        except nvml.Absent as reason:
            absent["mig"], found = str(reason), {}
        self._slices = {uuid: handle for uuid, (handle, _) in found.items()}
        return tuple(part for _, part in found.values())

    def _facts(self, absent: dict[str, str]) -> dict[str, Any]:
        """What is known, and what may be told by now: a card that was busy at first tells later."""
        known = {field: getattr(self.gpu, field) for field in _FACT_FIELDS - self.gpu.absent.keys()}
        missing = (question for question in FACTS if not known.keys() >= set(question[0]))
        return {"name": "GPU"} | known | nvml.collect(missing, self.handle, absent)

    def _condition(self, absent: dict[str, str], *, ecc: bool | None) -> GpuCondition:
        found = nvml.collect(CONDITION, self.handle, absent)
        if ecc is None:
            # Such a card answers these with success and zeros, although it remaps nothing.
            for field in _WITHOUT_ECC & found.keys():
                del found[field]
                absent[field] = "a card without ECC remaps no rows"
        return GpuCondition(**found)

    def _refresh(self, index: int) -> None:
        """Ask for everything but the sample."""
        absent: dict[str, str] = {}
        facts = self._facts(absent)
        settings = nvml.collect(SETTINGS, self.handle, absent)
        self._slices = {}
        mig = self._layout(absent) if settings.get("mig_enabled") else ()
        condition = self._condition(absent, ecc=settings.get("ecc"))
        self.gpu = Gpu(
            uuid=self.gpu.uuid, index=index, mig=mig, condition=condition, absent=absent, **facts, **settings
        )


_FACT_FIELDS = frozenset(field for fields, _ in FACTS for field in fields)


def _unknown(uuid: str, index: int) -> Gpu:
    """A GPU that was asked nothing yet."""
    return Gpu(uuid=uuid, name="GPU", index=index, absent=dict.fromkeys(_FACT_FIELDS, "not asked yet"))
