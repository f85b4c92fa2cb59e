"""What a sandbox needs for its GPUs, and for no others: device nodes, driver libraries, and which card CUDA may see."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import structlog
from msgspec.structs import replace

from agent.core.cdi import LIBRARIES, ROOTS, CdiError, CdiSpec, device_for, take
from agent.core.errors import SandboxError
from agent.core.gpu import GpuPlace
from agent.edges import loader
from agent.edges.sandbox import cdi
from agent.ports import SandboxSpec

PlaceOf = Callable[[str], GpuPlace | None]
"""Where a GPU or MIG slice, named by UUID, is; None for one that the driver does not tell."""
_SHARED = ("nvidiactl", "nvidia-uvm")
_INSIDE = ("/usr", "/lib", "/lib64", "/lib32")
"""What the sandbox has of the host anyway."""
_CUDA = "libcuda.so.1"
_DRIVER_LIBRARIES = ("libcuda", "libnvidia-ml", "libnvidia-ptxjitcompiler", "libnvidia-nvvm", "libnvidia-gpucomp")
"""What CUDA itself loads; a toolkit's libraries come with the engine."""
_log = structlog.get_logger("sandbox")


class Host(NamedTuple):
    """Where things lie on this machine."""

    dev: Path = Path("/dev")
    proc: Path = Path("/proc/driver/nvidia")
    cache: Path = loader.CACHE
    cdi_folders: tuple[Path, ...] = cdi.FOLDERS
    library_folders: tuple[Path, ...] = tuple(
        map(Path, ("/usr/local/nvidia/lib64", "/usr/local/nvidia/lib", "/run/opengl-driver/lib", "/usr/lib/wsl/lib"))
    )
    """Looked at where neither the loader nor a specification knows the driver: cloud images, NixOS, WSL 2."""
    library_roots: tuple[str, ...] = ROOTS


HERE = Host()


class GpuParts(NamedTuple):
    """What one sandbox gets."""

    devices: tuple[Path, ...] = ()
    """Bound where they lie."""
    mounts: tuple[tuple[Path, str], ...] = ()
    env: dict[str, str] = {}  # noqa: RUF012 (never changed)

    def equip(self, spec: SandboxSpec) -> SandboxSpec:
        """`spec` with these libraries and variables; the devices are bound apart."""
        return replace(spec, ro_mounts=(*spec.ro_mounts, *self.mounts), env=spec.env | self.env)


def gpu_parts(gpus: Sequence[str], place_of: PlaceOf, host: Host = HERE) -> GpuParts:
    """What a sandbox with these GPUs or slices (UUIDs) gets. Raises SandboxError when one is unknown or a node missing.

    Other GPUs stay out by their absent nodes alone: a variable could be changed by the program inside. CUDA wants it
    all the same, to find a MIG slice.
    """
    if not gpus:
        return GpuParts()
    places = {uuid: _place(uuid, place_of, host) for uuid in gpus}
    nodes = [host.dev / name for name in _SHARED]
    for place in places.values():
        nodes += _nodes(place, host)
    for node in nodes:
        _require(node)
    mounts = tuple(_libraries(places, host))
    env = {"CUDA_VISIBLE_DEVICES": ",".join(gpus), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    if mounts:
        env["LD_LIBRARY_PATH"] = LIBRARIES
    return GpuParts(devices=tuple(dict.fromkeys(nodes)), mounts=mounts, env=env)


# --------------------------------------------------------------------------- nodes


def _place(uuid: str, place_of: PlaceOf, host: Host) -> GpuPlace:
    place = place_of(uuid)
    listed = _listed_minor(uuid, host)
    if place is None and listed is not None:
        return GpuPlace(minor=listed)
    if place is None:
        raise SandboxError(f"GPU {uuid} is not on this machine", remedy="`gpu-agent gpus` lists those that are")
    if listed is not None and listed != place.minor:
        raise SandboxError(
            f"NVML says that GPU {uuid} is /dev/nvidia{place.minor}, the kernel that it is /dev/nvidia{listed}",
            remedy="Reboot: driver library and kernel module disagree",
        )
    return place


def _listed_minor(uuid: str, host: Host) -> int | None:
    """The minor number by the kernel module's own list; None where that does not name the GPU."""
    for about in host.proc.glob("gpus/*/information"):
        text = _read(about)
        minor = re.search(r"^Device Minor:\s*(\d+)$", text, re.MULTILINE)
        if minor and re.search(rf"^GPU UUID:\s*{re.escape(uuid)}$", text, re.MULTILINE):
            return int(minor[1])
    return None


def _nodes(place: GpuPlace, host: Host) -> Iterator[Path]:
    yield host.dev / f"nvidia{place.minor}"
    if place.gpu_instance is None:
        return
    instance = host.proc / f"capabilities/gpu{place.minor}/mig/gi{place.gpu_instance}"
    for access in (instance / "access", instance / f"ci{place.compute_instance}" / "access"):
        number = re.search(r"^DeviceFileMinor:\s*(\d+)$", _read(access), re.MULTILINE)
        if number is None:
            raise SandboxError(
                f"{access} does not tell the device node of a MIG slice", remedy="`nvidia-smi mig -lgi` lists slices"
            )
        yield host.dev / "nvidia-caps" / f"nvidia-cap{number[1]}"


def _require(node: Path) -> None:
    try:
        found = stat.S_ISCHR(node.lstat().st_mode)
    except FileNotFoundError:
        found = False
    if not found:
        raise SandboxError(
            f"{node} is missing, so the GPU cannot be used in a sandbox",
            remedy="`sudo nvidia-modprobe -u -c 0` makes the device nodes",
        )


def _read(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""


# --------------------------------------------------------------------------- libraries


def _libraries(places: dict[str, GpuPlace], host: Host) -> Iterator[tuple[Path, str]]:
    """Driver libraries that the sandbox would not see, each under the names by which it is looked for."""
    if _seen_by_loader(host):
        return
    for spec in reversed(cdi.gpu_specs(host.cdi_folders)):
        found = _of_specification(spec, places, host)
        if _CUDA in found:
            yield from ((file, f"{LIBRARIES}/{name}") for name, file in found.items())
            return
    found = _of_folders(host.library_folders)
    if _CUDA not in found:
        raise SandboxError(
            "the driver's libcuda.so.1 was not found",
            remedy="Install the driver's user-space libraries, or write a CDI file: `nvidia-ctk cdi generate`",
        )
    yield from ((file, f"{LIBRARIES}/{name}") for name, file in found.items())


def _seen_by_loader(host: Host) -> bool:
    try:
        path = loader.cached(host.cache.read_bytes()).get(_CUDA, "")
    except OSError:
        return False
    return path.startswith(_INSIDE) and Path(path).resolve().is_relative_to("/usr") and Path(path).is_file()


def _of_specification(spec: CdiSpec, places: dict[str, GpuPlace], host: Host) -> dict[str, Path]:
    devices = [device_for(spec, uuid, place.minor) for uuid, place in places.items()]
    try:
        taken = take(spec, filter(None, devices), host.library_roots)
    except CdiError as reason:
        raise SandboxError(f"the CDI specification is refused: {reason}", remedy="Write it anew with nvidia-ctk") from (
            reason
        )
    _log.debug("cdi.passed_over", what=taken.passed_over)
    found = _named(map(Path, taken.libraries))
    for name, target in taken.aliases:
        if target in found:
            found.setdefault(name, found[target])
    return found


def _of_folders(folders: Sequence[Path]) -> dict[str, Path]:
    for folder in folders:
        files = (file for name in _DRIVER_LIBRARIES for file in sorted(folder.glob(f"{name}.so*")))
        if _CUDA in (found := _named(files)):
            return found
    return {}


def _named(files: Iterator[Path]) -> dict[str, Path]:
    """Libraries by the name that programs ask for; what is no library of this kind of machine is left out."""
    real = (file.resolve() for file in files)
    return {name: file for file in real if (name := loader.soname(file)) is not None and "/" not in name}
