"""The Container Device Interface: what of a specification a sandbox takes over. Nothing in it is ever executed.

A container runtime runs the hooks of a specification as root on the host (CVE-2025-23266 came of it). Here they are
read: `create-symlinks` tells names under which a library is looked for; the others set up what a sandbox has not (a
loader cache, modes of /dev/dri, compatibility libraries of an image) and are passed over.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath

import msgspec

from agent.core.model import Value

GPU_KIND = "nvidia.com/gpu"
LIBRARIES = "/opt/nvidia/lib"
"""Where a sandbox finds libraries that lie outside its /usr."""
VERSIONS = frozenset({"0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0"})
_LIBRARY = re.compile(r"lib[A-Za-z0-9_.+-]{1,80}\.so(\.[0-9]+)*\Z")
ROOTS = ("/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/local", "/lib", "/lib64", "/opt", "/run", "/nix/store")
"""Where driver libraries lie on some distribution; a specification that names another place is refused."""


class CdiError(Exception):
    """The specification is not one, or asks for what no sandbox is given; the message says what."""


class DeviceNode(Value, rename="camel"):
    """A device node; `host_path` where it differs from the path inside."""

    path: str
    host_path: str = ""


class Mount(Value, rename="camel"):
    """A file or folder of the host."""

    host_path: str
    container_path: str


class Hook(Value, rename="camel"):
    """A program that a container runtime would run."""

    hook_name: str = ""
    path: str = ""
    args: tuple[str, ...] = ()


class Edits(Value, rename="camel"):
    """What a runtime does to a container."""

    device_nodes: tuple[DeviceNode, ...] = ()
    mounts: tuple[Mount, ...] = ()
    hooks: tuple[Hook, ...] = ()


class CdiDevice(Value, rename="camel"):
    """One device of a specification, and what it takes beside the common edits."""

    name: str
    container_edits: Edits = Edits()


class CdiSpec(Value, rename="camel"):
    """One specification. Unknown members are ignored: what they ask for is not done."""

    cdi_version: str
    kind: str
    devices: tuple[CdiDevice, ...] = ()
    container_edits: Edits = Edits()


class Taken(Value):
    """What a sandbox takes over from a specification. Nodes are not: driver and kernel tell which ones a GPU has."""

    libraries: tuple[str, ...]
    """Files of the host."""
    aliases: tuple[tuple[str, str], ...]
    """Further names of libraries: the name that is looked for, and the name of the file or alias that it means."""
    passed_over: tuple[str, ...]
    """What was left out, for the log: names of hooks and paths."""


def parse(content: object) -> CdiSpec:
    """A specification from the values that its JSON or YAML text has. Raises CdiError."""
    try:
        spec = msgspec.convert(content, CdiSpec)
    except msgspec.ValidationError as error:
        raise CdiError(str(error)) from error
    if spec.cdi_version not in VERSIONS:
        raise CdiError(f"version {spec.cdi_version!r} of the Container Device Interface is not known")
    return spec


def device_for(spec: CdiSpec, uuid: str, minor: int | None) -> CdiDevice | None:
    """The device of one GPU or MIG slice: by its UUID, or as the only one that has /dev/nvidia`minor` and no other."""
    for device in spec.devices:
        if device.name == uuid:
            return device
    if minor is None or uuid.startswith("MIG-"):
        return None
    return next((device for device in spec.devices if _cards(device) == {f"/dev/nvidia{minor}"}), None)


def take(spec: CdiSpec, devices: Iterable[CdiDevice], roots: Sequence[str] = ROOTS) -> Taken:
    """What a sandbox with these devices takes over. Raises CdiError for a library that lies outside `roots`."""
    edits = [spec.container_edits, *(device.container_edits for device in devices)]
    mounts = [mount for edit in edits for mount in edit.mounts]
    hooks = [hook for edit in edits for hook in edit.hooks]
    libraries = [_library(mount, roots) for mount in mounts if _is_library(mount.container_path)]
    aliases = dict(alias for hook in hooks if _name(hook) == "create-symlinks" for alias in _aliases(hook))
    passed_over = [mount.container_path for mount in mounts if not _is_library(mount.container_path)]
    passed_over += [name for hook in hooks if (name := _name(hook)) != "create-symlinks"]
    return Taken(
        libraries=tuple(dict.fromkeys(libraries)),
        aliases=tuple(aliases.items()),
        passed_over=tuple(dict.fromkeys(passed_over)),
    )


def _cards(device: CdiDevice) -> set[str]:
    nodes = {node.path for node in device.container_edits.device_nodes}
    return {node for node in nodes if re.fullmatch(r"/dev/nvidia\d+", node)}


def _is_library(path: str) -> bool:
    return _LIBRARY.match(PurePosixPath(path).name) is not None


def _library(mount: Mount, roots: Sequence[str]) -> str:
    host = mount.host_path
    if not _is_library(host) or not _plain(host) or not any(host.startswith(f"{root}/") for root in roots):
        raise CdiError(f"library {mount.container_path} is said to be {host!r} on the host")
    return host


def _plain(path: str) -> bool:
    """Absolute, and meaning what it says."""
    parts = path.split("/")
    return path.startswith("/") and "\0" not in path and not {"", ".", ".."} & set(parts[1:])


def _name(hook: Hook) -> str:
    """The hook's verb: `nvidia-cdi-hook create-symlinks …`, or `nvidia-ctk hook create-symlinks …` of older tools."""
    words = [word for word in hook.args[1:] if word != "hook"]
    return words[0] if words else hook.path


def _aliases(hook: Hook) -> Iterator[tuple[str, str]]:
    """Links beside libraries. Others, such as those in /dev/dri, are of no use in a sandbox."""
    for option, value in itertools.pairwise(hook.args):
        target, separator, link = value.partition("::")
        names = (PurePosixPath(link).name, PurePosixPath(target).name)
        if option == "--link" and separator and all(map(_is_library, names)) and names[0] != names[1]:
            yield names
