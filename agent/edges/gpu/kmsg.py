"""Reads the kernel's log from /dev/kmsg, without ever waiting: it tells of Xids even while the driver hangs."""

from __future__ import annotations

import os
from pathlib import Path

from agent.core.gpu import GpuEvent
from agent.core.kernel_log import gpu_event

KMSG = Path("/dev/kmsg")
_RECORD_BYTES = 8192
"""The kernel cuts records at 1 KiB and refuses to read one into less room than it needs."""
_RECORDS = 4096
"""Most that one call reads, some milliseconds; what is left comes with the next."""


class KernelLog:
    """The log since boot, then what is added. `reason` says why it cannot be read, or is empty."""

    def __init__(self, path: Path = KMSG) -> None:
        self.reason = ""
        self._fd: int | None = None
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except PermissionError:
            self.reason = f"no permission to read {path}: it takes root or the capability CAP_SYSLOG"
        except OSError as error:
            self.reason = f"{path}: {error.strerror}"

    def events(self) -> tuple[GpuEvent, ...]:
        """New records about GPUs, oldest first."""
        found: list[GpuEvent] = []
        for _ in range(_RECORDS):
            if not (record := self._read()):
                break
            found += filter(None, map(gpu_event, record.decode(errors="replace").splitlines()))
        return tuple(found)

    def close(self) -> None:
        """Idempotent."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _read(self) -> bytes:
        """One record, or nothing when there is none now."""
        while self._fd is not None:
            try:
                return os.read(self._fd, _RECORD_BYTES)
            except BlockingIOError:
                return b""
            except BrokenPipeError:
                continue  # told once for all records that the kernel dropped meanwhile; then the oldest left follows
            except OSError as error:
                self.reason = f"reading stopped: {error.strerror}"
                self.close()
        return b""
