"""Snapshots of an opened driver: facts once, readings each time, and no bad GPU hiding the others."""

from __future__ import annotations

from msgspec.structs import replace

from agent.core.gpu import Gpu, GpuFault, GpuReport, GpuSample
from agent.edges.gpu import codes, nvml

LIBRARIES = ("libnvidia-ml.so.1", "/usr/lib/wsl/lib/libnvidia-ml.so.1")
"""The loader's own, then WSL 2's, which lies outside the loader's path on some distributions."""


class Reader:
    """One opened driver. Not thread-safe, and never shut down: nvmlShutdown during a call is a use after free."""

    def __init__(self, library: str = "") -> None:
        """`library` is a path of libnvidia-ml; empty for the usual places."""
        self._libraries = (library,) if library else LIBRARIES
        self._driver = ""
        self._cuda = ""
        self._facts: dict[int, Gpu] = {}
        """By index, which is stable while the driver stays opened; each entry is checked against its UUID."""

    def open(self) -> None:
        """Load and initialise the driver library. Raises DriverError."""
        nvml.open_driver(self._libraries)
        self._driver = nvml.driver_version()
        self._cuda = nvml.cuda_version()

    def read(self) -> GpuReport:
        """One snapshot. Raises DriverError when the driver as a whole fails."""
        gpus = tuple(map(self._gpu, range(nvml.count())))
        report = GpuReport(gpus=gpus, driver=self._driver, cuda=self._cuda)
        if gpus:
            return report
        what = f"the NVIDIA driver {self._driver or '(version unknown)'} is loaded and lists no GPU"
        return replace(report, fault=GpuFault.NO_GPU, detail=codes.explain(GpuFault.NO_GPU, what))

    def _gpu(self, index: int) -> Gpu:
        try:
            handle = nvml.handle_of(index)
            return _with_readings(self._with_facts(index, handle), handle)
        except nvml.GpuError as error:
            known = self._facts.get(index) or Gpu(uuid=f"index:{index}", name="GPU", index=index)
            return replace(known, fault=error.fault, detail=codes.explain(error.fault, str(error)))

    def _with_facts(self, index: int, handle: nvml.Handle) -> Gpu:
        uuid = nvml.identity_of(handle) or f"index:{index}"
        known = self._facts.get(index)
        if known is None or known.uuid != uuid:
            absent: dict[str, str] = {}
            found = {"name": "GPU"} | nvml.collect(nvml.FACTS, handle, absent)
            known = self._facts[index] = Gpu(uuid=uuid, index=index, absent=absent, **found)
        return known


def _with_readings(gpu: Gpu, handle: nvml.Handle) -> Gpu:
    absent = dict(gpu.absent)
    settings = nvml.collect(nvml.SETTINGS, handle, absent)
    if settings.get("mig_enabled"):
        settings |= nvml.collect(nvml.LAYOUT, handle, absent)
    sample = GpuSample(**nvml.collect(nvml.SAMPLE, handle, absent))
    return replace(gpu, **settings, sample=sample, absent=absent)
