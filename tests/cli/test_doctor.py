"""`gpu-agent doctor` as a real process, and each of its readings against the real thing."""

from __future__ import annotations

import asyncio
import json
import os
import re
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
import trustme

from agent.config import Config, EngineKind, EngineProfile, ModelConfig, PoolConfig, ProofConfig, SandboxConfig
from agent.core.doctor import Finding, Severity
from agent.edges.doctor import coordinator, engines, machine
from agent.edges.doctor.checkup import examine, local
from agent.edges.sandbox.build import build_sandbox
from tests import calibrations
from tests.patience import within
from tests.tiny_model import write_tiny_model


async def gpu_agent(*arguments: str, **environment: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "agent", *arguments),
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = await within(process.communicate())
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "m.gguf").write_bytes(b"weights")
    file = tmp_path / "config.toml"
    file.write_text(
        f"""
        [node]
        state_dir = "{tmp_path}/state"
        cache_dir = "{tmp_path}/cache"
        runtime_dir = "{tmp_path}/run"
        [gpu]
        enabled = false
        [[models]]
        name = "m"
        path = "{tmp_path}/m.gguf"
        [[pools]]
        name = "main"
        model = "m"
        device = "cpu"
        """
    )
    return file


async def test_the_report_has_a_line_for_each_check_and_a_remedy_where_one_is_needed(config: Path) -> None:
    code, out, err = await gpu_agent("doctor", "--json", "--config", str(config))
    assert err == ""
    told = json.loads(out)
    found = {finding["id"]: finding for finding in told["findings"]}
    assert {
        "python.version", "config.valid", "config.pools", "state.writable", "cache.writable", "key.mode", "disk.free",
        "clock.sane", "limits.open_files", "sandbox.bwrap", "sandbox.works", "cgroup.delegated", "gpu.driver",
        "engine.main", "model.m", "coordinator.reachable", "service.state",
    } <= set(found)  # fmt: skip
    assert all(finding["remedy"] for finding in found.values() if finding["severity"] != "ok")
    assert not [finding for finding in found.values() if "check itself broke" in finding["actual"]]
    assert found["state.writable"]["severity"] == "ok"
    assert found["model.m"]["severity"] == "warn"
    assert code == told["exit_status"] == (1 if any(f["severity"] == "fail" for f in found.values()) else 0)


async def test_with_a_container_engine_the_report_is_about_that(config: Path) -> None:
    _, out, _ = await gpu_agent("doctor", "--json", "--config", str(config), "--set", "sandbox.backend=podman")
    found = {finding["id"]: finding for finding in json.loads(out)["findings"]}
    assert "sandbox.bwrap" not in found
    assert "podman" in found["sandbox.engine"]["actual"]
    assert found["sandbox.engine"]["severity"] == "ok" or found["sandbox.engine"]["remedy"]
    assert not [finding for finding in found.values() if "check itself broke" in finding["actual"]]


async def test_a_broken_configuration_is_one_finding_among_the_others(config: Path) -> None:
    config.write_text("[node]\nnam = 'x'\n")
    code, out, _ = await gpu_agent("doctor", "--config", str(config))
    assert code == 1
    assert "FAIL  config.valid" in out
    assert "nam" in out
    assert "python.version" in out


async def test_the_report_for_people_counts(config: Path) -> None:
    _, out, _ = await gpu_agent("doctor", "--config", str(config))
    lines = out.splitlines()
    assert re.search(r"ok, (1 warning|\d+ warnings), (1 failure|\d+ failures)$", lines[-1])
    assert sum(line.startswith("warn") for line in lines) == int(lines[-1].split(" ok, ")[1].split()[0])


# ------------------------------------------------------------------ one check never hides another


def fine() -> Finding:
    return Finding(id="fine", actual="a", required="r", severity=Severity.OK, purpose="p")


async def test_a_check_that_breaks_or_hangs_hides_no_other() -> None:
    async def hangs() -> Finding:
        await asyncio.Event().wait()
        raise AssertionError

    def breaks() -> Finding:
        raise KeyError("surprise")

    looks = [("hangs", hangs), ("breaks", local(breaks)), ("fine", local(fine))]
    found = await examine(looks, limit_s=0.5)
    assert [finding.id for finding in found] == ["hangs", "breaks", "fine"]
    assert [finding.severity for finding in found] == [Severity.FAIL, Severity.FAIL, Severity.OK]
    assert "KeyError" in found[1].actual


# ------------------------------------------------------------------ readings


def test_a_directory_that_is_not_there_yet_is_judged_by_its_parent(tmp_path: Path) -> None:
    found = machine.directory("state.writable", tmp_path / "a" / "b", "keys")
    assert found.severity is Severity.OK
    assert not (tmp_path / "a").exists(), "a check changes nothing"


def test_a_state_directory_open_to_others_is_noticed(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    assert machine.directory("state.writable", tmp_path, "keys").severity is Severity.WARN


def test_a_place_that_cannot_be_written_is_noticed() -> None:
    assert machine.directory("state.writable", Path("/proc/nothing"), "keys").severity is Severity.FAIL


@pytest.mark.parametrize(("mode", "severity"), [(0o600, Severity.OK), (0o604, Severity.FAIL)])
def test_the_key_file_must_be_private(tmp_path: Path, mode: int, severity: Severity) -> None:
    key = tmp_path / "node.key"
    key.write_text("secret")
    key.chmod(mode)
    assert machine.key_file(key).severity is severity


@pytest.mark.parametrize(("mode", "severity"), [(0o440, Severity.OK), (0o444, Severity.FAIL)])
def test_a_credential_that_systemd_guards_by_an_access_list_is_private(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, severity: Severity
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    key = tmp_path / "node.key"
    key.touch()
    key.chmod(mode)
    assert machine.key_file(key).severity is severity


def test_an_engine_that_is_not_there_is_noticed(tmp_path: Path) -> None:
    pool = PoolConfig(name="main", model="m", binary=str(tmp_path / "llama-server"))
    assert engines.engine(pool).severity is Severity.FAIL


def test_calibrations_that_are_not_relied_upon_are_named(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text("{}")
    finding = engines.calibrations(ProofConfig(calibrations=tmp_path))
    assert finding.severity is Severity.WARN
    assert finding.actual.startswith("mine.json: it is no calibration")
    assert engines.calibrations(ProofConfig()).severity is Severity.OK


def test_several_slots_without_a_calibration_are_told_to_be_unverifiable(tmp_path: Path) -> None:
    digest = "sha256:" + "ab" * 32
    pool = PoolConfig(name="wide", model="m", slots=2)

    def told(digest: str | None, **proof: object) -> tuple[Severity, str]:
        models = (ModelConfig(name="m", path=tmp_path, digest=digest),)
        found = engines.verifiable(Config(models=models, pools=(pool,), proof=ProofConfig(**proof)), pool)  # type: ignore[arg-type]
        return found.severity, found.actual

    assert told(digest) == (Severity.WARN, "no calibration: its work is unverifiable")
    assert told(None)[0] is Severity.OK
    calibrations.written(tmp_path, digest)
    trusted = {"calibrations": tmp_path, "calibration_keys": (calibrations.KEYS.public_key,)}
    assert told(digest, **trusted) == (Severity.OK, f"measured with {calibrations.ENGINE}")


def test_which_pools_check_others_is_told_and_what_they_lack(tmp_path: Path) -> None:
    def told(digest: str | None, pool: PoolConfig, **proof: object) -> tuple[Severity, str]:
        models = (ModelConfig(name="m", path=tmp_path, digest=digest),)
        found = engines.validators(Config(models=models, pools=(pool,), proof=ProofConfig(**proof)))  # type: ignore[arg-type]
        return found.severity, found.actual

    digest, pool = "sha256:" + "ab" * 32, PoolConfig(name="main", model="m")
    assert told(digest, pool) == (Severity.OK, "off: no pool checks other nodes")
    severity, words = told(None, pool, validate=True)
    assert (severity, words.partition("; ")[2]) == (
        Severity.OK,
        "main: calibrated or not is not known without models.digest",
    )
    severity, actual = told(digest, PoolConfig(name="main", model="m", validate=True))
    assert (severity, actual.endswith("no calibration for the model of main")) == (Severity.WARN, True)
    assert told(digest, PoolConfig(name="main", model="m", validate=False), validate=True)[0] is Severity.OK
    unable = PoolConfig(name="main", model="m", engine=EngineKind.EXTERNAL, profile=EngineProfile.OLLAMA)
    assert told(digest, unable, validate=True)[1].startswith("off")


def test_an_external_engine_is_known_by_its_address() -> None:
    pool = PoolConfig(name="main", model="m", engine=EngineKind.EXTERNAL, url="http://127.0.0.1:8000")
    assert "127.0.0.1:8000" in engines.engine(pool).actual


def test_a_model_without_its_file_is_noticed(tmp_path: Path) -> None:
    found = engines.model(ModelConfig(name="m", path=tmp_path / "gone.gguf"))
    assert found.severity is Severity.FAIL
    assert "No such file" in found.actual


# ------------------------------------------------------------------ the coordinator


async def answering(head: str, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head.encode())
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=tls) as server:
        yield server.sockets[0].getsockname()[1]


def head_at(moment: datetime) -> str:
    return f"HTTP/1.1 200 OK\r\nDate: {format_datetime(moment, usegmt=True)}\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize(("ahead", "severity"), [(0, Severity.OK), (60, Severity.WARN), (-4000, Severity.FAIL)])
async def test_the_clock_offset_is_read_from_the_coordinators_date(ahead: int, severity: Severity) -> None:
    async for port in answering(head_at(datetime.now(UTC) + timedelta(seconds=ahead))):
        reachable, offset = await coordinator.look(f"http://127.0.0.1:{port}", None)
        assert reachable.severity is Severity.OK
        assert offset.id == "clock.offset"
        assert offset.severity is severity


async def test_a_certificate_of_a_stranger_is_refused_in_words(tmp_path: Path) -> None:
    authority, other = trustme.CA(), trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    for name, issuer in (("ours.pem", authority), ("theirs.pem", other)):
        issuer.cert_pem.write_to_path(str(tmp_path / name))
    async for port in answering(head_at(datetime.now(UTC)), context):
        reachable, _ = await coordinator.look(f"https://localhost:{port}", tmp_path / "ours.pem")
        assert reachable.severity is Severity.OK
        refused, _ = await coordinator.look(f"https://localhost:{port}", tmp_path / "theirs.pem")
        assert refused.severity is Severity.FAIL
        assert "certificate is refused" in refused.actual


async def test_nobody_there_is_told_apart(unused_port: int) -> None:
    reachable, offset = await coordinator.look(f"http://127.0.0.1:{unused_port}", None)
    assert reachable.severity is Severity.FAIL
    assert offset.severity is Severity.WARN


async def test_plain_text_beyond_this_machine_is_refused_before_anything_is_sent() -> None:
    reachable, _ = await coordinator.look("http://coordinator.example", None)
    assert "plain text" in reachable.actual


@pytest.fixture
async def unused_port() -> int:
    async with await asyncio.start_server(lambda *_: None, "127.0.0.1", 0) as server:
        return int(server.sockets[0].getsockname()[1])


async def test_programs_are_tried_where_the_owner_runs_them(config: Path) -> None:
    with config.open("a") as file:
        file.write(f'[exec]\nenabled = true\ntrusted_keys = ["{"ab" * 32}"]\nmemory_mib = 64\n')
    _, out, _ = await gpu_agent("doctor", "--json", "--config", str(config))
    found = {finding["id"]: finding for finding in json.loads(out)["findings"]}
    assert found["config.pools"]["actual"] == "2 pools"
    # An ordinary user has no cgroup of his own: engines run all the same, strangers' programs do not.
    facts = await build_sandbox(SandboxConfig(), config.parent / "run").probe()
    evadable = any(limit.evadable for limit in facts.limits)
    usable = found["sandbox.works"]["severity"] == "ok" and not evadable
    told = found["exec.works"]
    assert told["severity"] == ("ok" if usable else "fail")
    assert ("1 trusted publisher;" in told["actual"]) == usable
    assert ("run the agent as its systemd service or as root" in told["actual"]) == evadable


async def test_an_engine_on_the_processor_that_does_not_fit_is_a_warning_with_the_numbers(config: Path) -> None:
    write_tiny_model(config.with_name("m.gguf"))
    _, out, _ = await gpu_agent("doctor", "--json", "--config", str(config))
    (found,) = [finding for finding in json.loads(out)["findings"] if finding["id"] == "engine.memory"]
    assert (found["severity"], "on the processor need" in found["actual"]) == ("ok", True)
    for setting in ("sandbox.engine_memory_mib=16", "owner.idle_only=true"):
        config.write_text(config.read_text() + "\n[{}]\n{}={}\n".format(*re.split("[.=]", setting)))
    config.write_text(
        config.read_text().replace('device = "cpu"', 'device = "cpu"\ncontext_tokens = 4000000\nslots = 64')
    )
    _, out, _ = await gpu_agent(
        "doctor", "--json", "--config", str(config), DBUS_SYSTEM_BUS_ADDRESS=f"unix:path={config.with_name('none')}"
    )
    found = {finding["id"]: finding for finding in json.loads(out)["findings"]}
    told = found["engine.memory"]
    assert (told["severity"], "main needs" in told["actual"], "64 × 4,000,000 tokens" in told["actual"]) == (
        "warn",
        True,
        True,
    )
    assert "0.0 GiB for each (sandbox.engine_memory_mib)" in told["required"]
    assert (found["owner.presence"]["severity"], "cannot be asked" in found["owner.presence"]["actual"]) == (
        "warn",
        True,
    )
