"""Holds GPUs to their owner's power limit, and gives back what they had. For root: the agent itself may not.

What a GPU had is in a file before it is changed, so that a run that was killed can be made good by the next.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pynvml

from agent.core.errors import AgentError
from agent.core.power import Kept, Limits, lowered, to_restore
from agent.edges.durable import replace_file
from agent.edges.gpu import nvml
from agent.edges.gpu.reader import LIBRARIES

FILE_NAME = "limits.json"
_UNTOLD = (nvml.Absent, nvml.GpuError, nvml.DriverError)


class PowerError(AgentError):
    """A limit could not be set or given back."""


class PowerLimits:
    """The limits of all GPUs of this machine. Blocks in the driver, which may hang: whoever runs this must bound it."""

    def __init__(self, library: Path | None, directory: Path) -> None:
        """`directory`: where what they had is kept, gone with a reboot, as the limits are. Raises PowerError."""
        self._file = directory / FILE_NAME
        try:
            directory.mkdir(mode=0o700, exist_ok=True)
            nvml.open_driver((str(library),) if library else LIBRARIES)
        except nvml.DriverError as error:
            raise PowerError(str(error)) from error
        except OSError as fault:
            raise PowerError(f"{directory} cannot be made: {fault.strerror}", remedy="It takes root") from fault

    def hold(self, wanted_w: int) -> Iterator[str]:
        """Lower every GPU that may draw more than `wanted_w`; yields what was done, in words. Raises PowerError when
        the driver refuses. A card without a limit that can be set, as in many laptops, is told and left alone."""
        kept = self._kept()
        for uuid, handle in _gpus():
            try:
                limits = _limits(handle)
            except _UNTOLD as reason:
                yield f"{uuid}: has no power limit that can be set: {reason}"
                continue
            if (limit := lowered(wanted_w, limits)) is None:
                yield f"{uuid}: {limits.now_mw / 1000:g} W, not above {wanted_w} W"
                continue
            before_mw = kept[uuid].before_mw if uuid in kept else limits.now_mw
            kept[uuid] = Kept(before_mw=before_mw, set_mw=limit)
            self._keep(kept)
            _set(uuid, handle, limit)
            lowest = ", the least that its driver takes" if limit > wanted_w * 1000 else ""
            yield f"{uuid}: {limit / 1000:g} W instead of {limits.now_mw / 1000:g} W{lowest}"

    def give_back(self) -> Iterator[str]:
        """Every GPU the limit that it had; yields what was done, in words. Raises PowerError when one refuses, after
        all were tried."""
        kept, refused = self._kept(), list[PowerError]()
        for uuid, handle in _gpus():
            if (mine := kept.get(uuid)) is None:
                continue
            try:
                yield self._restored(uuid, handle, mine)
            except PowerError as error:
                refused.append(error)
                continue
            del kept[uuid]
            self._keep(kept)
        if kept:
            missing = ", ".join(kept)
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

    def _kept(self) -> dict[str, Kept]:
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=dict[str, Kept])
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.DecodeError) as fault:
            raise PowerError(
                f"{self._file} cannot be read: {fault}", remedy="Remove it; a reboot gives every GPU its own limit back"
            ) from fault

    def _keep(self, kept: dict[str, Kept]) -> None:
        try:
            replace_file(self._file, msgspec.json.encode(kept))
        except OSError as fault:
            raise PowerError(f"{self._file} cannot be written: {fault.strerror}; nothing was changed") from fault


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
        raise PowerError(
            f"the driver does not set {uuid} to {limit_mw / 1000:g} W: {reason}", remedy="It takes root"
        ) from reason
