"""Host facts."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import psutil
import pytest

from agent.edges.host import Host, core_count, cpu_model, memory_limits

GIB = 1 << 30


def limit(root: Path, group: str, name: str, text: str) -> None:
    (root / group).mkdir(parents=True, exist_ok=True)
    (root / group / name).write_text(text + "\n")


def test_the_facts_of_this_machine_are_its_own() -> None:
    facts = Host().facts()

    assert facts.hostname == os.uname().nodename
    assert (facts.cpu.arch, facts.versions.kernel) == (platform.machine(), platform.release())
    assert (facts.cpu.cores, facts.cpu.threads) == (psutil.cpu_count(logical=False), psutil.cpu_count())
    assert 0 < facts.memory_bytes <= psutil.virtual_memory().total
    assert facts.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert (facts.versions.driver, facts.versions.cuda) == ("", "")


def test_a_container_that_hides_proc_still_has_facts(tmp_path: Path) -> None:
    facts = Host(proc=tmp_path / "absent", cgroups=tmp_path).facts()

    assert (facts.boot_id, facts.cpu.model) == ("", platform.machine())
    assert facts.memory_bytes == psutil.virtual_memory().total


@pytest.mark.parametrize(
    ("cpuinfo", "model"),
    [
        (
            "processor\t: 0\nmodel name\t: AMD EPYC 9654\nflags\t: fpu\nprocessor\t: 1\nmodel name\t: x\n",
            "AMD EPYC 9654",
        ),
        (
            "processor\t: 0\nBogoMIPS\t: 243.75\n\nModel\t\t: Raspberry Pi 5 Model B Rev 1.0\n",
            "Raspberry Pi 5 Model B Rev 1.0",
        ),
        ("processor\t: 0\nCPU implementer\t: 0x41\n", ""),
        ("", ""),
    ],
)
def test_the_processor_is_named_where_the_kernel_names_it(cpuinfo: str, model: str) -> None:
    assert cpu_model(cpuinfo) == model


def test_threads_of_one_core_count_once_and_a_hidden_sysfs_tells_nothing(tmp_path: Path) -> None:
    for thread, siblings in enumerate(["0,2", "1,3", "0,2", "1,3"]):
        (tmp_path / f"cpu{thread}/topology").mkdir(parents=True)
        (tmp_path / f"cpu{thread}/topology/thread_siblings_list").write_text(siblings + "\n")
    (tmp_path / "cpufreq").mkdir()

    assert core_count(tmp_path) == 2
    assert core_count(tmp_path / "absent") == 0


def test_a_v2_limit_of_any_ancestor_binds(tmp_path: Path) -> None:
    limit(tmp_path, "agent.slice/agent.service", "memory.max", "max")
    limit(tmp_path, "agent.slice", "memory.max", str(8 * GIB))

    assert list(memory_limits("0::/agent.slice/agent.service\n", tmp_path)) == [8 * GIB]


def test_a_v1_limit_binds_beside_an_empty_v2_hierarchy(tmp_path: Path) -> None:
    limit(tmp_path, "memory/docker/abc", "memory.limit_in_bytes", str(4 * GIB))
    limit(tmp_path, "memory", "memory.limit_in_bytes", str((1 << 63) - 4096))

    found = list(memory_limits("5:cpu,cpuacct:/\n4:memory:/docker/abc\n0::/\n", tmp_path))

    assert min(found) == 4 * GIB


def test_a_container_that_sees_only_its_own_root_finds_its_limit(tmp_path: Path) -> None:
    limit(tmp_path, "memory", "memory.limit_in_bytes", str(2 * GIB))

    assert list(memory_limits("4:memory:/docker/outside/our/view\n", tmp_path)) == [2 * GIB]


def test_the_smaller_of_machine_and_cgroup_counts(tmp_path: Path) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self/cgroup").write_text("0::/small\n")
    limit(tmp_path, "cgroups/small", "memory.max", "1048576")

    assert Host(proc=tmp_path, cgroups=tmp_path / "cgroups").facts().memory_bytes == 1 << 20
