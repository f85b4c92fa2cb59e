"""What the driver tells unasked: Xids, double-bit errors, a changed MIG layout. A thread of the child waits for it."""

from __future__ import annotations

import ctypes
import threading
from collections import deque
from collections.abc import Mapping
from typing import Any

import pynvml

from agent.core.gpu import GpuEvent, GpuEventKind
from agent.edges.gpu.nvml import Absent, DriverError, GpuError, Handle, ask, refusal

KINDS: Mapping[int, GpuEventKind] = {
    pynvml.nvmlEventTypeXidCriticalError: GpuEventKind.XID,
    pynvml.nvmlEventTypeDoubleBitEccError: GpuEventKind.ECC_DOUBLE_BIT,
    pynvml.nvmlEventMigConfigChange: GpuEventKind.MIG_CHANGED,
    pynvml.nvmlEventTypeGpuUnavailableError: GpuEventKind.UNAVAILABLE,
    pynvml.nvmlEventTypeGpuRecoveryAction: GpuEventKind.RECOVERY_ACTION,
}
WAIT_MS = 1000
"""Longest wait of the thread in the driver; after it the thread sees whether it is still wanted."""
_KEPT = 1024
"""Events kept between two snapshots; a card that dies tells a few dozen."""


class EventSet:
    """Events of one set of GPUs."""

    def __init__(self, handles: Mapping[str, Handle]) -> None:
        """Raises Absent when the driver or none of these GPUs tells events."""
        self._uuids = {_address(handle): uuid for uuid, handle in handles.items()}
        try:
            self._set = ask(pynvml.nvmlEventSetCreate)
            reasons = [reason for handle in handles.values() if (reason := self._register(handle))]
        except (DriverError, GpuError) as error:
            raise Absent(str(error)) from error
        if len(reasons) == len(handles):
            raise Absent(reasons[0] if reasons else "no GPU")

    def wait(self, timeout_ms: int) -> GpuEvent | None:
        """The next event; None when none came. Raises Absent, DriverError, GpuError."""
        try:
            told = pynvml.nvmlEventSetWait_v2(self._set, timeout_ms)
        except pynvml.NVMLError as error:
            if error.value == pynvml.NVML_ERROR_TIMEOUT:
                return None
            raise refusal(error.value) from error
        if (kind := KINDS.get(told.eventType)) is None:  # one that was not asked for
            return None
        return GpuEvent(
            kind=kind,
            source="nvml",
            gpu_uuid=self._uuids.get(_address(told.device), ""),
            code=told.eventData if told.eventType == pynvml.nvmlEventTypeXidCriticalError else None,
        )

    def free(self) -> None:
        """Give the set back. Nobody may wait on it."""
        pynvml.nvmlEventSetFree(self._set)

    def _register(self, handle: Handle) -> str:
        """Empty when done; why not otherwise."""
        try:
            wanted = ask(lambda: pynvml.nvmlDeviceGetSupportedEventTypes(handle)) & sum(KINDS)
            if wanted:
                ask(lambda: pynvml.nvmlDeviceRegisterEvents(handle, wanted, self._set))
        except (Absent, GpuError) as reason:
            return str(reason)
        return "" if wanted else "this card tells no events"


class EventWatch:
    """Keeps what comes until it is taken. `reason` says why nothing can come, or is empty."""

    def __init__(self) -> None:
        self.reason = ""
        self._found: deque[GpuEvent] = deque(maxlen=_KEPT)
        self._followed: frozenset[str] = frozenset()
        self._unwanted = threading.Event()

    def follow(self, handles: Mapping[str, Handle]) -> None:
        """Wait for events of these GPUs (by UUID) from now on, in place of those before."""
        if self._followed == frozenset(handles):
            return
        self._followed = frozenset(handles)
        self._unwanted.set()
        if not handles:
            return
        self._unwanted = threading.Event()
        try:
            events, self.reason = EventSet(handles), ""
        except Absent as reason:
            self.reason = str(reason)
            return
        # A daemon: one that hangs in the driver keeps nobody from ending the process.
        threading.Thread(target=self._wait, args=(events, self._unwanted), name="events", daemon=True).start()

    def take(self) -> tuple[GpuEvent, ...]:
        """What came since the last call, oldest first."""
        return tuple(self._found.popleft() for _ in range(len(self._found)))

    def _wait(self, events: EventSet, unwanted: threading.Event) -> None:
        while not unwanted.is_set():
            try:
                event = events.wait(WAIT_MS)
            except GpuError:  # one GPU of the set is lost, which its sample tells; the others still have events
                unwanted.wait(WAIT_MS / 1000)
                continue
            except (Absent, DriverError) as error:
                self.reason = str(error)
                return
            if event is not None:
                self._found.append(event)
        events.free()


def _address(handle: Any) -> int | None:
    return ctypes.cast(handle, ctypes.c_void_p).value
