"""The GPU probe: snapshots through a child process, so that no driver can hold up or take down the agent."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import replace

from agent.core.gpu import Gpu, GpuFault, GpuReport, bus_address, retry_delay_s, with_known
from agent.core.surroundings import Surroundings, with_surroundings
from agent.edges.gpu import codes
from agent.edges.gpu.child import Child, ChildEnded, worker_command, worker_environment
from agent.edges.gpu.kmsg import KMSG, KernelLog
from agent.ports import Clock

OPEN_PATIENCE_S = 30.0
"""Time for opening the driver: without persistence mode every GPU is initialised first, which takes seconds each."""
REAP_S = 0.2
"""A killed child that is not in the driver is reaped within milliseconds."""
LAST_REAP_S = 2.0
"""At the end there is no next time: on a busy machine milliseconds may be many."""


class NoGpuProbe:
    """The probe of an agent whose owner switched GPUs off."""

    async def snapshot(self) -> GpuReport:
        return GpuReport(detail="GPUs are switched off in the configuration (gpu.enabled)")

    async def settled(self) -> GpuReport:
        return await self.snapshot()

    async def close(self) -> None:
        return None


class NvmlProbe:
    """Implements `ports.GpuProbe`. At most one child works, and at most one more is dying."""

    def __init__(
        self,
        clock: Clock,
        *,
        library: Path | None = None,
        deadline_s: float = 2.0,
        open_patience_s: float = OPEN_PATIENCE_S,
        command: Sequence[str] = (),
        bus: Path | None = None,
        proc: Path | None = None,
        kernel_log: Path = KMSG,
    ) -> None:
        """`library`: path of libnvidia-ml, None for the loader's. `command` replaces the child's command line.

        `bus`, `proc`: folders of the PCI devices and of /proc, None for the kernel's; `proc` comes with a `bus`.
        """
        self._clock = clock
        self._deadline_s = deadline_s
        self._open_patience_s = open_patience_s
        self._command = tuple(command) or worker_command(library, bus, proc)
        self._kernel_log = KernelLog(kernel_log)
        self._around = Surroundings()
        self._on_bus: frozenset[str] = frozenset()
        """Addresses that the bus listed at any time."""
        self._child: Child | None = None
        self._dying: Child | None = None
        self._born_at = 0.0
        self._flight: asyncio.Task[GpuReport] | None = None
        self._closed = False
        self._known: dict[str, Gpu] = {}
        self._failures = 0
        self._retry_at = 0.0
        self._failed = GpuReport()

    @property
    def child_pid(self) -> int | None:
        """The working child, or None while there is none."""
        return self._child.pid if self._child else None

    async def snapshot(self) -> GpuReport:
        """One reading of all GPUs, within the deadline; callers at the same time share it. Never raises."""
        if self._closed:
            return GpuReport(fault=GpuFault.TRANSIENT, detail="The GPU probe is closed")
        if self._flight is None or self._flight.done():
            self._flight = asyncio.create_task(self._take())
        return await asyncio.shield(self._flight)

    async def settled(self) -> GpuReport:
        """Like `snapshot`, but waits for a driver that is still opening, within the patience for that."""
        report = await self.snapshot()
        while self._child is not None and not self._child.opened:
            events = report.events
            report = await self.snapshot()
            report = replace(report, events=(*events, *report.events))
        return report

    async def close(self) -> None:
        """Kill the child. Waits for it no longer than a healthy one takes to die."""
        self._closed = True
        self._retire()  # which also ends a snapshot under way
        if self._flight is not None:
            await asyncio.wait({self._flight}, timeout=REAP_S)
        if self._dying is not None:
            await self._dying.wait_gone(LAST_REAP_S)
        self._kernel_log.close()

    async def _take(self) -> GpuReport:
        report = await self._read()
        if self._child is not None:
            self._look_around(self._child)
        return self._completed(report)

    def _look_around(self, child: Child) -> None:
        if child.around is not None:
            self._around = child.around
            self._on_bus |= {bus_address(device.address) for device in child.around.bus}

    def _completed(self, report: GpuReport) -> GpuReport:
        """With what is known beside the driver, which may be silent: its kernel module's lines, and the bus."""
        events = (*report.events, *self._kernel_log.events())
        absent = report.absent | ({"kernel_log": self._kernel_log.reason} if self._kernel_log.reason else {})
        return with_surroundings(replace(report, events=events, absent=absent), self._around, self._on_bus)

    async def _read(self) -> GpuReport:
        if self._clock.monotonic() < self._retry_at:
            return self._failed
        try:
            async with asyncio.timeout(self._deadline_s):
                child = await self._living_child()
                return self._judged(await child.report())
        except TimeoutError:
            return self._overdue()
        except ChildEnded as end:
            return self._fail(GpuFault.WORKER_CRASHED, str(end))
        except OSError as error:  # no memory, no more processes
            return self._fail(GpuFault.TRANSIENT, f"the probe process cannot be started: {error}")

    async def _living_child(self) -> Child:
        if self._child is None:
            if self._dying is not None and not await self._dying.wait_gone(min(REAP_S, self._deadline_s / 2)):
                raise TimeoutError
            self._dying = None
            self._child = await Child.start(self._command, worker_environment())
            self._born_at = self._clock.monotonic()
            if self._closed:  # while the child was being born
                self._child.kill()
        return self._child

    def _judged(self, report: GpuReport) -> GpuReport:
        if report.fault:
            return self._gave_up(report)
        self._failures = 0
        self._known |= {gpu.uuid: gpu for gpu in report.gpus if not gpu.fault}
        return with_known(report, self._known)

    def _overdue(self) -> GpuReport:
        silence = f"the driver has not answered for {self._deadline_s:g} s"
        if self._child is None:
            return self._fail(
                GpuFault.DRIVER_UNRESPONSIVE,
                "the last probe process cannot be killed: it is stuck inside the driver",
            )
        if not self._child.opened and self._clock.monotonic() - self._born_at < self._open_patience_s:
            what = (
                f"{silence}; it is still opening, which may take {self._open_patience_s:g} s without persistence mode"
            )
            report = GpuReport(
                fault=GpuFault.DRIVER_UNRESPONSIVE, detail=codes.explain(GpuFault.DRIVER_UNRESPONSIVE, what)
            )
            return with_known(report, self._known)
        return self._fail(GpuFault.DRIVER_UNRESPONSIVE, silence)

    def _fail(self, fault: GpuFault, what: str) -> GpuReport:
        return self._gave_up(GpuReport(fault=fault, detail=codes.explain(fault, what)))

    def _gave_up(self, report: GpuReport) -> GpuReport:
        """Drop the child and keep `report` until it is time for the next."""
        assert report.fault
        self._retire()
        self._failures += 1
        self._retry_at = self._clock.monotonic() + retry_delay_s(report.fault, self._failures)
        self._failed = with_known(report, self._known)
        return self._failed

    def _retire(self) -> None:
        if self._child is not None:
            self._look_around(self._child)
            self._child.kill()
            self._child, self._dying = None, self._child
