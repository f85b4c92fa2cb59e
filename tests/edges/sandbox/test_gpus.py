"""What a sandbox gets for its GPUs on machines of several kinds."""

from __future__ import annotations

import ctypes.util
import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from agent.core.cdi import CdiError
from agent.core.errors import SandboxError
from agent.core.gpu import GpuPlace
from agent.edges import loader
from agent.edges.sandbox import cdi
from agent.edges.sandbox.gpus import Host, gpu_parts
from agent.ports import SandboxSpec
from tests.fakes.nvml.build import compiler
from tests.sandboxes import require_root

PLACES = {
    "GPU-a": GpuPlace(minor=0),
    "GPU-b": GpuPlace(minor=1),
    "MIG-c": GpuPlace(minor=1, gpu_instance=2, compute_instance=0),
}
NODES = ("nvidiactl", "nvidia-uvm", "nvidia0", "nvidia1", "nvidia-caps/nvidia-cap21", "nvidia-caps/nvidia-cap22")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A machine with two cards, whose driver the loader finds below /usr."""
    require_root()
    for number, name in enumerate(NODES):
        node = tmp_path / "dev" / name
        node.parent.mkdir(parents=True, exist_ok=True)
        os.mknod(node, 0o020666, os.makedev(195, number))
    slices = tmp_path / "proc/capabilities/gpu1/mig/gi2"
    (slices / "ci0").mkdir(parents=True)
    (slices / "access").write_text("DeviceFileMinor: 21\nDeviceFileMode: 292\nDeviceFileModify: 1\n")
    (slices / "ci0/access").write_text("DeviceFileMinor: 22\nDeviceFileMode: 292\n")
    (tmp_path / "cache").write_bytes(cache({"libcuda.so.1": real_library()}))
    return Host(
        dev=tmp_path / "dev",
        proc=tmp_path / "proc",
        cache=tmp_path / "cache",
        cdi_folders=(tmp_path / "cdi",),
        library_folders=(tmp_path / "elsewhere",),
        library_roots=(str(tmp_path),),
    )


def cache(libraries: dict[str, str]) -> bytes:
    """A loader's cache, as glibc writes it."""
    strings, entries = b"", b""
    start = 48 + 24 * len(libraries)
    for name, path in libraries.items():
        at = start + len(strings)
        entries += struct.pack("=iIIIQ", 0x303, at, at + len(name) + 1, 0, 0)
        strings += f"{name}\0{path}\0".encode()
    return struct.pack("=20sII20x", b"glibc-ld.so.cache1.1", len(libraries), len(strings)) + entries + strings


def real_library() -> str:
    """The C library of this machine, below /usr."""
    name = ctypes.util.find_library("c")
    assert name
    return loader.cached(loader.CACHE.read_bytes())[name]


def inside(parts) -> dict[str, str]:
    return {mount.removeprefix("/opt/nvidia/lib/"): source.name for source, mount in parts.mounts}


def names(parts) -> list[str]:
    return [node.name for node in parts.devices]


def test_a_gpu_brings_its_own_node_and_the_shared_ones(host: Host) -> None:
    parts = gpu_parts(["GPU-b"], PLACES.get, host)

    assert names(parts) == ["nvidiactl", "nvidia-uvm", "nvidia1"]
    assert parts.mounts == (), "the driver below /usr is there anyway"
    assert parts.env["CUDA_VISIBLE_DEVICES"] == "GPU-b"


def test_no_gpu_brings_nothing() -> None:
    assert gpu_parts([], PLACES.get) == ((), (), {})


def test_several_gpus_share_the_shared_nodes(host: Host) -> None:
    parts = gpu_parts(["GPU-b", "GPU-a"], PLACES.get, host)

    assert names(parts) == ["nvidiactl", "nvidia-uvm", "nvidia1", "nvidia0"]
    assert parts.env["CUDA_VISIBLE_DEVICES"] == "GPU-b,GPU-a"


def test_a_slice_brings_its_card_and_its_two_capabilities(host: Host) -> None:
    parts = gpu_parts(["MIG-c"], PLACES.get, host)

    assert names(parts) == ["nvidiactl", "nvidia-uvm", "nvidia1", "nvidia-cap21", "nvidia-cap22"]


def test_a_slice_without_a_capability_is_refused(host: Host) -> None:
    (host.proc / "capabilities/gpu1/mig/gi2/ci0/access").unlink()

    with pytest.raises(SandboxError, match="MIG slice"):
        gpu_parts(["MIG-c"], PLACES.get, host)


def test_an_unknown_gpu_and_a_missing_or_false_node_are_refused(host: Host) -> None:
    with pytest.raises(SandboxError, match="GPU-x is not on this machine"):
        gpu_parts(["GPU-x"], PLACES.get, host)
    with pytest.raises(SandboxError, match="nvidia7 is missing"):
        gpu_parts(["GPU-y"], {"GPU-y": GpuPlace(minor=7)}.get, host)
    (host.dev / "nvidia0").unlink()
    (host.dev / "nvidia0").symlink_to("/dev/null")
    with pytest.raises(SandboxError, match="nvidia0 is missing"):
        gpu_parts(["GPU-a"], PLACES.get, host)


def kernel_lists(host: Host, uuid: str, minor: int) -> None:
    about = host.proc / "gpus/0000:3b:00.0"
    about.mkdir(parents=True)
    text = (
        f"Model: \t\t NVIDIA H200\nIRQ:   \t\t 61\nGPU UUID: \t {uuid}\nDevice Minor: \t {minor}\nGPU Excluded:\t No\n"
    )
    (about / "information").write_text(text)


def test_the_kernels_list_names_a_gpu_whose_number_the_driver_does_not_tell(host: Host) -> None:
    kernel_lists(host, "GPU-z", 1)

    assert names(gpu_parts(["GPU-z"], PLACES.get, host))[-1] == "nvidia1"


def test_a_gpu_that_driver_and_kernel_number_differently_is_refused(host: Host) -> None:
    kernel_lists(host, "GPU-a", 1)

    with pytest.raises(SandboxError, match="disagree"):
        gpu_parts(["GPU-a"], PLACES.get, host)


def test_the_variables_reach_the_spec_and_what_it_sets_itself_stays(host: Host) -> None:
    spec = SandboxSpec(name="x", argv=("/bin/true",), gpus=("GPU-a",), env={"OMP_NUM_THREADS": "4"})

    equipped = gpu_parts(spec.gpus, PLACES.get, host).equip(spec)

    assert equipped.env == {
        "OMP_NUM_THREADS": "4",
        "CUDA_VISIBLE_DEVICES": "GPU-a",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }


# ---------------------------------------------------------------- libraries


@pytest.fixture
def libraries(tmp_path: Path) -> Path:
    """Small real libraries with the names of a driver's, outside /usr."""
    if (cc := compiler()) is None:
        pytest.skip("no C compiler here, so there is no library to make")
    folder = tmp_path / "driver/lib"
    folder.mkdir(parents=True)
    for file, soname in (("libcuda.so.580.1", "libcuda.so.1"), ("libnvidia-nvvm.so.580.1", "libnvidia-nvvm.so.4")):
        command = [cc, "-shared", "-nostdlib", "-x", "c", "/dev/null", f"-Wl,-soname,{soname}", "-o", folder / file]
        subprocess.run(command, check=True)
    (folder / "libnvidia-ml.so.1").write_text("INPUT(libcuda.so.1)\n")  # a linker script is no library
    return folder


def write_spec(host: Host, libraries: Path, name: str = "nvidia.yaml") -> Path:
    mounts = "".join(
        f"  - {{hostPath: {file}, containerPath: /usr/lib/{file.name}}}\n" for file in sorted(libraries.iterdir())
    )
    links = (
        "  - {hookName: createContainer, path: /h, args: [h, create-symlinks, --link, 'libcuda.so.1::/l/libcuda.so']}\n"
    )
    (host.cdi_folders[0]).mkdir(exist_ok=True)
    file = host.cdi_folders[0] / name
    file.write_text(f"cdiVersion: 0.6.0\nkind: nvidia.com/gpu\ncontainerEdits:\n  mounts:\n{mounts}  hooks:\n{links}")
    return file


def test_a_driver_outside_usr_is_mounted_under_the_names_that_programs_ask_for(host: Host, libraries: Path) -> None:
    host.cache.write_bytes(cache({"libcuda.so.1": f"{libraries}/libcuda.so.580.1"}))
    write_spec(host, libraries)

    parts = gpu_parts(["GPU-a"], PLACES.get, host)

    assert inside(parts) == {
        "libcuda.so.1": "libcuda.so.580.1",
        "libcuda.so": "libcuda.so.580.1",
        "libnvidia-nvvm.so.4": "libnvidia-nvvm.so.580.1",
    }
    assert parts.env["LD_LIBRARY_PATH"] == "/opt/nvidia/lib"


def test_without_a_specification_the_known_folders_are_looked_through(host: Host, libraries: Path) -> None:
    host.cache.unlink()
    shutil.copytree(libraries, host.library_folders[0])

    assert inside(gpu_parts(["GPU-a"], PLACES.get, host))["libcuda.so.1"] == "libcuda.so.580.1"


def test_a_machine_without_cuda_says_what_is_missing(host: Host) -> None:
    host.cache.unlink()

    with pytest.raises(SandboxError, match=r"libcuda\.so\.1 was not found"):
        gpu_parts(["GPU-a"], PLACES.get, host)


def test_a_specification_that_names_a_file_elsewhere_is_refused(host: Host, libraries: Path) -> None:
    host.cache.unlink()
    file = write_spec(host, libraries)
    file.write_text(file.read_text().replace(str(libraries), "/root"))

    with pytest.raises(SandboxError, match="CDI specification is refused"):
        gpu_parts(["GPU-a"], PLACES.get, host)


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda file: file.chmod(0o666), "others than root"),
        (lambda file: os.chown(file, 65534, 65534), "others than root"),
        (lambda file: file.write_text("a: &a [1]\nb: *a\n"), "aliases"),
        (lambda file: file.write_text("a: [1\n"), "not readable"),
        (lambda file: file.write_text("!!python/object/apply:os.system ['true']"), "not readable"),
        (lambda file: file.write_bytes(b"\xff\xfe\x00"), "not readable"),
        (lambda file: file.write_text("[" * 100_000), "nested too deeply"),
        (lambda file: file.write_text("x" * (cdi.FILE_BYTES + 1)), "too large"),
        (lambda file: (file.unlink(), file.mkdir()), "directory"),
    ],
)
def test_a_file_that_is_not_to_be_believed_is_refused_and_passed_over(host: Host, libraries, spoil, word: str) -> None:
    file = write_spec(host, libraries)
    spoil(file)

    with pytest.raises(CdiError, match=word):
        cdi.read(file)
    assert cdi.gpu_specs(host.cdi_folders) == []


def test_json_and_yaml_are_read_and_other_kinds_left_alone(host: Host, libraries: Path) -> None:
    write_spec(host, libraries)
    (host.cdi_folders[0] / "nic.json").write_text('{"cdiVersion": "0.6.0", "kind": "mellanox.com/nic"}')
    (host.cdi_folders[0] / "gpu.json").write_text('{"cdiVersion": "0.6.0", "kind": "nvidia.com/gpu"}')
    (host.cdi_folders[0] / "notes.txt").write_text("?")

    assert len(cdi.gpu_specs(host.cdi_folders)) == 2


# ---------------------------------------------------------------- the loader


def test_the_loaders_cache_of_this_machine_is_read_as_ldconfig_reads_it() -> None:
    listing = subprocess.run(["/sbin/ldconfig", "-p"], check=True, capture_output=True, text=True).stdout
    lines = [line.split() for line in listing.splitlines()[1:] if "=>" in line]
    first: dict[str, str] = {}
    for words in lines:
        first.setdefault(words[0], words[-1])

    assert loader.cached(loader.CACHE.read_bytes()) == first


def test_a_librarys_name_is_read_from_it() -> None:
    assert loader.soname(Path(real_library())) == ctypes.util.find_library("c")


@pytest.mark.parametrize("content", [b"", b"\x7fELF\x02\x01", b"\x7fELF\x02\x01" + b"\xff" * 200, b"text"])
def test_what_is_no_library_has_no_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.so").write_bytes(content)

    assert loader.soname(tmp_path / "x.so") is None
    assert loader.cached(content) == {}
