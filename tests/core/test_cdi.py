"""What a sandbox takes over from a specification of the Container Device Interface, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.core.cdi import CdiError, CdiSpec, device_for, parse, take
from agent.edges.sandbox.cdi import read

RECORDED = Path(__file__).parents[1] / "hosts" / "cdi"
SLICE = "MIG-0f0e0000-aaaa-4bbb-8ccc-d00000000000"


def recorded(name: str) -> CdiSpec:
    return read(next(RECORDED.glob(f"{name}.*")))


def named(spec: CdiSpec, uuid: str, minor: int | None) -> str | None:
    device = device_for(spec, uuid, minor)
    return device.name if device else None


def test_libraries_and_their_further_names_are_taken_and_all_else_is_passed_over() -> None:
    spec = recorded("one-575")

    taken = take(spec, spec.devices[:1])

    assert taken.libraries == (
        "/usr/lib/x86_64-linux-gnu/libcuda.so.575.64.03",
        "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.575.64.03",
    )
    assert dict(taken.aliases) == {
        "libcuda.so": "libcuda.so.1",
        "libnvidia-opticalflow.so": "libnvidia-opticalflow.so.1",
    }
    assert set(taken.passed_over) == {
        "/run/nvidia-persistenced/socket",
        "/usr/bin/nvidia-smi",
        "/lib/firmware/nvidia/575.64.03/gsp_ga10x.bin",
        "/usr/share/glvnd/egl_vendor.d/10_nvidia.json",
        "enable-cuda-compat",
        "update-ldcache",
        "chmod",
    }


@pytest.mark.parametrize("name", ["one-575", "two-535", "mig-570", "driver-container-580"])
def test_every_recorded_version_brings_cuda(name: str) -> None:
    taken = take(recorded(name), ())

    assert any("/libcuda.so." in library for library in taken.libraries)


def test_an_older_tools_hooks_are_read_alike() -> None:
    assert take(recorded("two-535"), ()).aliases == (("libcuda.so", "libcuda.so.1"),)


def test_a_gpu_is_found_by_uuid_or_by_its_only_card() -> None:
    assert named(recorded("one-575"), "GPU-8d1e5f6a-1111-4222-8333-944444444444", 7) == (
        "GPU-8d1e5f6a-1111-4222-8333-944444444444"
    )
    assert named(recorded("two-535"), "GPU-unlisted", 1) == "1"
    assert named(recorded("two-535"), "GPU-unlisted", 2) is None
    assert named(recorded("two-535"), "GPU-unlisted", None) is None


def test_a_slice_is_found_by_uuid_alone() -> None:
    assert named(recorded("mig-570"), SLICE, 1) == SLICE
    assert named(recorded("mig-570"), "MIG-another", 1) is None


def with_mount(host: str, inside: str = "/usr/lib/libcuda.so.1") -> CdiSpec:
    edits = {"mounts": [{"hostPath": host, "containerPath": inside}]}
    return parse({"cdiVersion": "0.6.0", "kind": "nvidia.com/gpu", "containerEdits": edits})


@pytest.mark.parametrize(
    "host",
    [
        "/etc/shadow",
        "/root/.ssh/id_ed25519",
        "/usr/lib/../../etc/libshadow.so",
        "/usr/lib/./libcuda.so.1",
        "/home/me/libcuda.so.1",
        "usr/lib/libcuda.so.1",
        "/usr/library/libcuda.so.1",
        "/run/docker.sock",
        "/usr/lib/libcuda.so.1\0",
        "",
    ],
)
def test_a_library_that_is_another_file_of_the_host_is_refused(host: str) -> None:
    with pytest.raises(CdiError, match="on the host"):
        take(with_mount(host), ())


@pytest.mark.parametrize(
    "inside", ["/usr/bin/ssh", "/etc/ld.so.preload", "/sock/llm.sock", "/usr/lib/libx.so/../passwd"]
)
def test_what_is_no_library_inside_is_not_mounted(inside: str) -> None:
    assert take(with_mount("/usr/lib/libcuda.so.1", inside), ()).libraries == ()


def test_a_link_that_leads_to_no_library_is_no_alias() -> None:
    links = [
        "x",
        "create-symlinks",
        "--link",
        "/etc/shadow::/usr/lib/libcuda.so",
        "--link",
        "libcuda.so.1::/etc/passwd",
    ]
    edits = {"hooks": [{"hookName": "createContainer", "path": "/x", "args": links}]}
    spec = parse({"cdiVersion": "0.6.0", "kind": "nvidia.com/gpu", "containerEdits": edits})

    assert take(spec, ()).aliases == ()


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ([], "object"),
        ({"kind": "nvidia.com/gpu"}, "cdiVersion"),
        ({"cdiVersion": "9.9.9", "kind": "nvidia.com/gpu"}, "not known"),
        ({"cdiVersion": "0.5.0", "kind": "nvidia.com/gpu", "devices": {"0": {}}}, "array"),
    ],
)
def test_what_is_no_specification_is_refused(content: object, word: str) -> None:
    with pytest.raises(CdiError, match=word):
        parse(content)
