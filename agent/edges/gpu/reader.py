"""Snapshots of an opened driver, in tiers: facts once, settings and condition slowly, the sample each time."""

from __future__ import annotations

import time
from collections.abc import Callable

from msgspec.structs import replace

from agent.core.gpu import Gpu, GpuCondition, GpuFault, GpuReport, GpuSample, MigSlice, SliceSample
from agent.edges.gpu import codes, nvml
from agent.edges.gpu.facts import FACTS, SETTINGS, slices
from agent.edges.gpu.readings import CONDITION, SAMPLE, slice_now

LIBRARIES = ("libnvidia-ml.so.1", "/usr/lib/wsl/lib/libnvidia-ml.so.1")
"""The loader's own, then WSL 2's, which lies outside the loader's path on some distributions."""
SLOW_S = 10.0
"""Period of settings and condition."""
_WITHOUT_ECC = ("rows_remapped_corrected", "rows_remapped_uncorrected", "remap_pending", "remap_failed")


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
            card = known.get(uuid) or cls(_facts(uuid, handle))
            card.handle, card._fault = handle, None
            card._refresh(index)
        except nvml.GpuError as error:
            before = (card for card in known.values() if card.gpu.index == index)
            card = next(before, None) or cls(Gpu(uuid=f"index:{index}", name="GPU", index=index))
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

    def _refresh(self, index: int) -> None:
        """Ask for settings and condition again."""
        absent = {field: why for field, why in self.gpu.absent.items() if field in _FACT_FIELDS}
        settings = nvml.collect(SETTINGS, self.handle, absent)
        self._slices = {}
        mig = self._layout(absent) if settings.get("mig_enabled") else ()
        condition = nvml.collect(CONDITION, self.handle, absent)
        if settings.get("ecc") is None and "rows_remapped_corrected" in condition:
            # Such a card answers these with success and zeros, although it remaps nothing.
            for field in _WITHOUT_ECC:
                if condition.pop(field, None) is not None:
                    absent[field] = "a card without ECC remaps no rows"
        facts = {field: getattr(self.gpu, field) for field in _FACT_FIELDS}
        self.gpu = Gpu(
            uuid=self.gpu.uuid,
            index=index,
            condition=GpuCondition(**condition),
            absent=absent,
            **facts,
            **settings,
            mig=mig,
        )


_FACT_FIELDS = frozenset(field for fields, _ in FACTS for field in fields)


def _facts(uuid: str, handle: nvml.Handle) -> Gpu:
    absent: dict[str, str] = {}
    found = {"name": "GPU"} | nvml.collect(FACTS, handle, absent)
    return Gpu(uuid=uuid, index=-1, absent=absent, **found)
