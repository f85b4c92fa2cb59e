"""Holds GPUs to their owner's power limit, and gives back what they had. For root: the agent itself may not.

What a GPU had is in a file before it is changed, so that a run that was killed can be made good by the next.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pynvml
from msgspec.structs import replace

from agent.core.errors import FORBIDDEN, AgentError
from agent.core.power import Kept, Limits, Notes, lowered, noted, to_restore
from agent.edges.durable import replace_file
from agent.edges.gpu import nvml
from agent.edges.gpu.reader import LIBRARIES

FILE_NAME = "limits.json"
_UNTOLD = (nvml.Absent, nvml.GpuError, nvml.DriverError)


class PowerError(AgentError):
    """A limit could not be set or given back."""


class NotRootError(PowerError):
    """Only root may."""

    exit_code = FORBIDDEN


class _Refused(PowerError):
    """By one GPU, which says nothing of the others."""


class PowerLimits:
    """The limits of all GPUs of this machine. Blocks in the driver, which may hang: whoever runs this must bound it."""

    def __init__(self, directory: Path) -> None:
        """`directory`: where what they had is kept, gone with a reboot, as the limits are. Raises PowerError."""
        self._file = directory / FILE_NAME
        try:
            directory.mkdir(mode=0o700, exist_ok=True)
        except PermissionError as fault:
            raise NotRootError(f"{directory} cannot be made: {fault.strerror}", remedy="It takes root") from fault
        except OSError as fault:
            raise PowerError(f"{directory} cannot be made: {fault.strerror}") from fault

    def hold(self, wanted_w: int, library: Path | None) -> Iterator[str]:
        """Lower every GPU that may draw more than `wanted_w`; yields what was done, in words. A card that refuses, or
        has no limit that can be set, as in many laptops, is told and left alone. Raises PowerError when the driver
        refuses all of them, and when what a GPU had cannot be noted."""
        notes = replace(self._notes(), library=str(library or ""))
        _open(notes)
        held, refused = 0, list[PowerError]()
        for uuid, handle in _gpus():
            try:
                yield self._held(uuid, handle, wanted_w, notes)
                held += 1
            except _UNTOLD as reason:
                yield f"{uuid}: has no power limit that can be set: {reason}"
            except _Refused as error:
                refused.append(error)
                yield str(error)
        if refused and not held:
            raise refused[0]

    def _held(self, uuid: str, handle: nvml.Handle, wanted_w: int, notes: Notes) -> str:
        limits = _limits(handle)
        if (limit := lowered(wanted_w, limits)) is None:
            return f"{uuid}: {limits.now_mw / 1000:g} W, not above {wanted_w} W"
        earlier = notes.gpus.get(uuid)
        notes.gpus[uuid] = noted(limit, limits, earlier)
        self._keep(notes)
        try:
            _set(uuid, handle, limit)
        except _Refused:
            del notes.gpus[uuid]
            notes.gpus.update({uuid: earlier} if earlier else {})
            self._keep(notes)
            raise
        lowest = ", the least that its driver takes" if limit > wanted_w * 1000 else ""
        return f"{uuid}: {limit / 1000:g} W instead of {limits.now_mw / 1000:g} W{lowest}"

    def give_back(self) -> Iterator[str]:
        """Every GPU the limit that it had; yields what was done, in words. Raises PowerError when one refuses, after
        all were tried."""
        notes, refused = self._notes(), list[PowerError]()
        if not notes.gpus:
            return
        _open(notes)
        for uuid, handle in _gpus():
            if (mine := notes.gpus.get(uuid)) is None:
                continue
            try:
                yield self._restored(uuid, handle, mine)
            except PowerError as error:
                refused.append(error)
                continue
            del notes.gpus[uuid]
            self._keep(notes)
        if notes.gpus:
            missing = ", ".join(notes.gpus)
            raise refused[0] if refused else PowerError(f"no longer there to be given back their limits: {missing}")

    def _restored(self, uuid: str, handle: nvml.Handle, mine: Kept) -> str:
        try:
            now_mw = _limits(handle).now_mw
        except _UNTOLD as reason:
            raise PowerError(f"{uuid} does not tell its power limit any more: {reason}") from reason
        if (before_mw := to_restore(mine, now_mw)) is None:
            return f"{uuid}: stays at {now_mw / 1000:g} W, which somebody else has set since"
        _set(uuid, handle, before_mw)
        return f"{uuid}: {before_mw / 1000:g} W again"

    def _notes(self) -> Notes:
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=Notes)
        except FileNotFoundError:
            return Notes()
        except PermissionError as fault:
            raise NotRootError(f"{self._file} cannot be read: {fault.strerror}", remedy="It takes root") from fault
        except (OSError, msgspec.DecodeError) as fault:
            raise PowerError(
                f"{self._file} cannot be read: {fault}", remedy="Remove it; a reboot gives every GPU its own limit back"
            ) from fault

    def _keep(self, notes: Notes) -> None:
        try:
            replace_file(self._file, msgspec.json.encode(notes))
        except OSError as fault:
            raise PowerError(f"{self._file} cannot be written: {fault.strerror}; nothing was changed") from fault


def _open(notes: Notes) -> None:
    try:
        nvml.open_driver((notes.library,) if notes.library else LIBRARIES)
    except nvml.DriverError as error:
        raise PowerError(str(error)) from error


def _gpus() -> Iterator[tuple[str, nvml.Handle]]:
    """Those that can be used; one that is lost draws nothing."""
    try:
        for index in range(nvml.count()):
            try:
                handle = nvml.handle_of(index)
            except nvml.GpuError:
                continue
            if uuid := nvml.identity_of(handle):
                yield uuid, handle
    except nvml.DriverError as error:
        raise PowerError(str(error)) from error


def _limits(handle: nvml.Handle) -> Limits:
    """Raises what _UNTOLD lists."""
    lowest, _ = nvml.ask(lambda: pynvml.nvmlDeviceGetPowerManagementLimitConstraints(handle))
    now = nvml.ask(lambda: pynvml.nvmlDeviceGetPowerManagementLimit(handle))
    return Limits(now_mw=now, lowest_mw=lowest)


def _set(uuid: str, handle: nvml.Handle, limit_mw: int) -> None:
    try:
        nvml.ask(lambda: pynvml.nvmlDeviceSetPowerManagementLimit(handle, limit_mw))
    except _UNTOLD as reason:
        raise _Refused(
            f"the driver does not set {uuid} to {limit_mw / 1000:g} W: {reason}", remedy="It takes root"
        ) from reason
