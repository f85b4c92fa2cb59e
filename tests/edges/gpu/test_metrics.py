"""The metrics of a fake driver's readings, read by Prometheus' own parser; their page and dashboard; over HTTP."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent.config import MetricsConfig
from agent.core.attest.consistency import Doubt
from agent.core.attest.messages import Attestation, Standing
from agent.core.findings import Advice, Finding, Severity
from agent.core.gates import IDLE_REASONS
from agent.core.gpu import GpuReport
from agent.core.health import HealthState
from agent.core.metrics import CONTENT_TYPE, FAMILIES, Scene, exposition
from agent.core.model import Outcome, Reason
from agent.core.status import Ended, Gate, GpuStatus, Totals
from agent.edges.gpu.reader import Reader
from agent.edges.local_http import serve
from agent.edges.metrics import MetricsServer
from tests import metrics_page
from tests.cli.test_status import STATUS
from tests.patience import within

ROOT = Path(__file__).parents[3]
LOST = Finding(
    code="xid_79", severity=Severity.LOSES, gpu_uuid="GPU-9", evidence="off", advice=Advice.REBOOT, source="nvml"
)
DOUBT = Doubt(code="pci_bar", evidence="a window of 1 KiB", advice="look again")
SAID = Attestation(
    device="GPU-9", standing=Standing.TOO_SLOW, gops=1_500, memory_bytes=3 << 30, judged_at=1_700_000_000, detail="late"
)
Values = dict[str, dict[tuple[tuple[str, str], ...], float]]


def report(in_process, scenario: str = "h200x8") -> GpuReport:
    in_process(scenario, lambda: 2.0)
    reader = Reader(monotonic=lambda: 2.0)
    reader.open()
    return reader.read()


def scene(seen: GpuReport, **changes: object) -> Scene:
    gpus = tuple(
        GpuStatus(uuid=gpu.uuid, name=gpu.name, index=gpu.index, state=HealthState.HEALTHY) for gpu in seen.gpus
    )
    if gpus:
        first = msgspec.structs.replace(gpus[0], state=HealthState.LOST, findings=(LOST,), paused=True)
        gpus = (msgspec.structs.replace(first, doubts=(DOUBT, DOUBT), attestation=SAID), *gpus[1:])
    totals = msgspec.structs.replace(
        STATUS.totals,
        ended=(Ended(outcome=Outcome.FAILED, reason=Reason.ENGINE_CRASHED, count=3),),
    )
    pools = tuple(
        msgspec.structs.replace(
            pool, gates=(Gate(reason=Reason.POOL_NOT_READY),) * 2, measured_bytes=3 << 30, expected_bytes=2 << 30
        )
        for pool in STATUS.pools
    )
    status = msgspec.structs.replace(STATUS, **{"gpus": gpus, "totals": totals, "pools": pools, **changes})
    return Scene(status, seen, 'a "quoted\\host\n')


def parsed(text: str) -> Values:
    found: Values = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = tuple(sorted(sample.labels.items()))
            assert labels not in found.get(sample.name, {}), f"{sample.name}{labels} twice"
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


@pytest.fixture
def values(in_process) -> Values:
    return parsed(exposition(scene(report(in_process))))


def one(values: Values, name: str, **labels: str) -> float:
    (value,) = [value for found, value in values[name].items() if labels.items() <= dict(found).items()]
    return value


def test_every_family_is_read_by_prometheus_parser_with_the_kind_it_was_given(in_process) -> None:
    read = {family.name: family for family in text_string_to_metric_families(exposition(scene(report(in_process))))}
    for family in FAMILIES:  # the parser takes _total off a counter's name
        told = read.get(family.name) or read[family.name.removesuffix("_total")]
        assert (told.type, bool(told.documentation)) == (family.kind, True)
        assert told.samples
    assert len(read) == len(FAMILIES)


def test_a_gpus_readings_have_the_names_units_and_labels_of_dcgm_exporter(values: Values) -> None:
    for name, value in {
        "DCGM_FI_DEV_FB_USED": 76293,
        "DCGM_FI_DEV_GPU_TEMP": 55,
        "DCGM_FI_DEV_GPU_UTIL": 97,
        "DCGM_FI_DEV_MEM_COPY_UTIL": 40,
    }.items():
        assert one(values, name, gpu="0") == value
        assert len(values[name]) == 8
    (labels,) = [dict(found) for found in values["DCGM_FI_DEV_GPU_TEMP"] if ("gpu", "0") in found]
    assert labels == {
        "gpu": "0",
        "UUID": "GPU-3f1c0c2e-0000-4000-8000-000000000000",
        "pci_bus_id": "00000000:10:00.0",
        "device": "nvidia0",
        "modelName": "NVIDIA H200",
        "Hostname": 'a "quoted\\host\n',
    }


def test_what_a_card_does_not_tell_is_left_out_and_never_0(in_process) -> None:
    seen = report(in_process, "wsl")
    values = parsed(exposition(scene(seen)))
    assert seen.gpus[0].condition.energy_mj is None
    assert "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION" not in values
    assert "DCGM_FI_DEV_FB_USED" in values


def test_a_node_without_a_gpu_tells_of_its_tasks_all_the_same(in_process) -> None:
    values = parsed(exposition(scene(GpuReport())))
    assert not any(name.startswith("DCGM") for name in values)
    assert values["gpu_agent_attempts_running"] == {(): 2}


def test_every_reason_to_be_idle_is_a_series_and_those_that_hold_are_1(values: Values) -> None:
    told = {dict(labels)["reason"]: value for labels, value in values["gpu_agent_idle_reason"].items()}
    assert told == {reason.value: float(reason in (Reason.PAUSED, Reason.POOL_NOT_READY)) for reason in IDLE_REASONS}


def test_the_path_of_a_task_is_told_in_base_units(values: Values) -> None:
    assert one(values, "gpu_agent_tasks_total", outcome="failed", reason="engine_crashed") == 3
    assert one(values, "gpu_agent_tasks_total", outcome="succeeded", reason="completed") == 0
    assert one(values, "gpu_agent_earned_total", currency="TEST") == 1.5
    assert one(values, "gpu_agent_outbox_waiting") == 3
    assert one(values, "gpu_agent_link_up") == 1
    assert one(values, "gpu_agent_clock_offset_seconds") == -0.5
    assert one(values, "gpu_agent_node_state", state="serving") == 1
    assert sum(values["gpu_agent_node_state"].values()) == 1
    assert one(values, "gpu_agent_pool_slots", pool="main") == 2
    assert one(values, "gpu_agent_pool_idle_reason", pool="main", reason="pool_not_ready") == 1


def test_what_engines_take_of_memory_stands_beside_what_was_expected(values: Values) -> None:
    assert one(values, "gpu_agent_pool_memory_bytes", pool="main") == 3 << 30
    assert one(values, "gpu_agent_pool_memory_expected_bytes", pool="main") == 2 << 30


def test_the_health_of_a_gpu_is_one_of_its_states_and_its_findings_say_what_to_do(values: Values) -> None:
    assert one(values, "gpu_agent_gpu_health", gpu="0", state="lost") == 1
    assert one(values, "gpu_agent_gpu_health", gpu="1", state="healthy") == 1
    assert sum(values["gpu_agent_gpu_health"].values()) == 8
    assert one(values, "gpu_agent_gpu_finding", gpu="0", code="xid_79", advice="reboot") == 1
    assert one(values, "gpu_agent_gpu_paused", gpu="0") == 1


def test_what_the_coordinator_said_of_a_gpu_is_one_standing_with_its_figures_and_nothing_before_it_did(
    values: Values,
) -> None:
    told = values["gpu_agent_gpu_attestation"]
    assert {dict(labels)["standing"]: value for labels, value in told.items()} == {
        standing.value: float(standing is Standing.TOO_SLOW) for standing in Standing
    }
    assert {dict(labels)["gpu"] for labels in told} == {"0"}
    assert one(values, "gpu_agent_gpu_attestation_time_seconds", gpu="0") == 1_700_000_000
    assert one(values, "gpu_agent_gpu_attestation_operations_per_second", gpu="0") == 1.5e12
    assert one(values, "gpu_agent_gpu_attestation_memory_bytes", gpu="0") == 3 << 30


def test_a_doubt_is_told_once_by_its_code_without_its_words(values: Values) -> None:
    assert one(values, "gpu_agent_gpu_doubt", gpu="0", code="pci_bar") == 1
    assert len(values["gpu_agent_gpu_doubt"]) == 1


def test_what_the_driver_lets_a_gpu_draw_is_told_and_left_out_where_it_does_not_say(values: Values, in_process) -> None:
    assert one(values, "gpu_agent_gpu_power_limit_watts", gpu="0") == 700
    assert "gpu_agent_gpu_power_limit_watts" not in parsed(exposition(scene(report(in_process, "laptop"))))


def test_the_last_xid_is_told_and_0_means_none_where_somebody_would_have_told(in_process) -> None:
    seen = report(in_process)
    gpus = tuple(
        GpuStatus(
            uuid=gpu.uuid,
            name=gpu.name,
            index=gpu.index,
            state=HealthState.HEALTHY,
            last_xid=31 if gpu.index == 2 else None,
        )
        for gpu in seen.gpus
    )
    told = parsed(exposition(scene(seen, gpus=gpus)))
    assert one(told, "DCGM_FI_DEV_XID_ERRORS", gpu="2") == 31
    assert one(told, "DCGM_FI_DEV_XID_ERRORS", gpu="0") == 0
    deaf = msgspec.structs.replace(seen, absent={"events": "not supported", "kernel_log": "no permission"})
    assert len(parsed(exposition(scene(deaf, gpus=gpus)))["DCGM_FI_DEV_XID_ERRORS"]) == 1


def test_no_task_makes_a_series(in_process) -> None:
    text = exposition(scene(report(in_process)))
    assert not any(attempt.task_id in text for attempt in STATUS.attempts)
    fewer = exposition(scene(report(in_process), attempts=(), totals=Totals(currency="TEST")))
    assert {name: len(found) for name, found in parsed(text).items() if name != "gpu_agent_tasks_total"} == {
        name: len(found) for name, found in parsed(fewer).items() if name != "gpu_agent_tasks_total"
    }


def test_the_page_lists_what_is_served() -> None:
    assert metrics_page.written() == metrics_page.table(), "make docs"


def test_the_dashboard_asks_for_nothing_that_is_not_served(values: Values) -> None:
    board = json.loads((ROOT / "docs/grafana/gpu-agent.json").read_text())
    asked = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    asked += [variable["query"]["query"] for variable in board["templating"]["list"] if variable["type"] == "query"]
    assert len(asked) > 10
    names = {name for text in asked for name in re.findall(r"\b(?:gpu_agent|DCGM)_\w+", text)}
    assert names - set(values) == set()
    labels = {key for found in values.values() for series in found for key, _ in series} | {"instance"}
    for text in asked:
        assert set(re.findall(r"[{,](\w+)=", text)) <= labels, text
        for group in re.findall(r"by \(([^)]*)\)", text):
            assert set(group.split(", ")) <= labels, text


def test_the_alerts_of_the_page_name_what_is_served(values: Values) -> None:
    text = (ROOT / "docs/metrics.md").read_text()
    names = set(re.findall(r"expr:.*?\b((?:gpu_agent|DCGM)_\w+)", text))
    assert names
    assert names <= set(values)


# --------------------------------------------------------------------------- over HTTP


@pytest.fixture
async def server(in_process) -> AsyncIterator[MetricsServer]:
    shown = scene(report(in_process))
    served = MetricsServer("127.0.0.1:0", lambda: shown)
    await served.start()
    yield served
    await served.close()


async def get(url: str, host: str | None = None) -> tuple[int, str, str]:
    headers = {"Host": host} if host else {}
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as answer:
        return answer.status, answer.headers["Content-Type"], await answer.text()


async def test_prometheus_gets_the_text_format_at_slash_metrics(server: MetricsServer) -> None:
    status, kind, text = await get(server.url)
    assert (status, kind) == (200, CONTENT_TYPE)
    assert "gpu_agent_build_info" in parsed(text)
    assert (await get(server.url.removesuffix("/metrics") + "/"))[0] == 404


@pytest.mark.parametrize(("host", "status"), [("localhost:9410", 200), ("[::1]:1", 200), ("evil.example", 421)])
async def test_on_loopback_nobody_asks_by_another_name(server: MetricsServer, host: str, status: int) -> None:
    assert (await get(server.url, host))[0] == status


async def test_an_address_that_is_taken_costs_the_metrics_alone(server: MetricsServer) -> None:
    taken = server.url.removeprefix("http://").removesuffix("/metrics")
    second = MetricsServer(taken, lambda: pytest.fail("nobody asks"))
    await second.start()
    assert second.url == ""
    assert (await get(server.url))[0] == 200


async def test_an_address_that_was_taken_is_tried_again_by_a_reload(server: MetricsServer) -> None:
    settings = MetricsConfig(listen=server.url.removeprefix("http://").removesuffix("/metrics"))
    built, places, changed = list[MetricsServer](), asyncio.Queue[str](), asyncio.Event()

    def build(listen: str) -> MetricsServer:
        built.append(MetricsServer(listen, lambda: scene(GpuReport())))
        return built[-1]

    serving = asyncio.create_task(serve(lambda: settings, build, changed, places.put_nowait))
    try:
        assert await within(places.get()) == ""
        await server.close()
        changed.set()
        while not (url := await within(places.get())):
            pass
        assert (await get(url))[0] == 200
        assert len(built) == 2
    finally:
        serving.cancel()
        await asyncio.wait([serving])
