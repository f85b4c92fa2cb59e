"""The owner's page over real sockets: the words of `status`, and nothing that a stranger's text or page could use."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from html.parser import HTMLParser
from typing import Any

import aiohttp
import msgspec
import pytest
from msgspec.structs import replace

from agent.cli.status import screen
from agent.core.attest.consistency import Doubt
from agent.core.attest.messages import Attestation, Standing
from agent.core.findings import Advice, Finding, Severity
from agent.core.gates import IDLE_REASONS
from agent.core.gpu import Gpu, GpuProcess, GpuReport, GpuSample, MigSlice
from agent.core.health import HealthState
from agent.core.meanings import MEANINGS
from agent.core.metrics import Scene, exposition
from agent.core.model import Outcome, Reason
from agent.core.release import Released
from agent.core.status import Gate, GpuReadings, GpuStatus, RecentAttempt, Status, headline, readings
from agent.edges.page import PageServer
from agent.edges.page.markup import tag
from agent.edges.page.screen import document
from agent.edges.serving import MAX_CONNECTIONS
from tests.cli.test_status import STATUS

GIB = 1 << 30
XID = Finding(
    code="xid_79",
    severity=Severity.LOSES,
    gpu_uuid="GPU-1",
    evidence="fell off the bus",
    advice=Advice.REBOOT,
    source="nvml",
)
SICK = GpuStatus(
    uuid="GPU-1",
    name="NVIDIA H200",
    index=4,
    state=HealthState.LOST,
    findings=(XID,),
    paused=True,
    paused_s=5400.0,
    doubts=(Doubt(code="pci_model", evidence="another board", advice="ask the seller"),),
    attestation=Attestation(device="GPU-1", standing=Standing.TOO_SLOW, detail="took 9 s"),
    readings=GpuReadings(
        memory_total_bytes=24 * GIB,
        memory_used_bytes=9 * GIB,
        engines_bytes=6 * GIB,
        temperature_c=61,
        power_mw=287_000,
        power_limit_mw=450_000,
    ),
)
ENDED = RecentAttempt(
    task_id="t-0", pool="main", outcome=Outcome.FAILED, reason=Reason.ENGINE_CRASHED, seconds=4.25, detail="signal 6"
)
FREED = Released(held_bytes=9 * GIB, released_bytes=3 * GIB, seconds=1.0, done=False, detail="held by 7")
POOL = replace(STATUS.pools[0], released=FREED, gates=STATUS.why_idle, device="GPU-1")
FULL = replace(STATUS, gpus=(SICK,), pools=(POOL,), recent=(ENDED,), reboot="xid_79", schedule="open until 06:00")
"""A status of which no part is empty."""


class Page(HTMLParser):
    """What a browser finds: elements with their attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def page(status: Status) -> Page:
    return Page(document(status, 0.0))


# --------------------------------------------------------------------------- what stands on it


def test_every_reason_means_something_and_nothing_else_does() -> None:
    assert set(MEANINGS) == set(IDLE_REASONS)


@pytest.mark.parametrize("reason", IDLE_REASONS)
def test_a_reason_is_the_same_word_on_the_page_in_status_in_systemctl_and_in_metrics(reason: Reason) -> None:
    shut = replace(STATUS, why_idle=(Gate(reason=reason, detail="so it is"),))
    shown = page(shut)
    lines = list(screen(json.loads(msgspec.json.encode(shut))))
    assert f" {reason.value} " in f" {shown.text} "
    assert f"  {reason.value:<24}so it is" in lines
    assert headline(shut).split("; ")[1] == f"no new work: {reason.value}"
    assert f'gpu_agent_idle_reason{{reason="{reason.value}"}} 1' in exposition(Scene(shut, GpuReport(), "host"))
    sentence, remedy = MEANINGS[reason]
    plain = shown.text.replace(" .", ".")  # a command in it stands in an element of its own
    assert sentence in plain
    assert remedy.replace("`", "") in plain
    assert any(remedy in line for line in lines)


def test_all_gates_stand_there_and_the_most_telling_first() -> None:
    text = page(STATUS).text
    assert 0 < text.index("paused by the owner") < text.index("main: loading the model")


def test_a_gpu_says_what_it_reads_who_has_its_memory_and_what_to_do() -> None:
    text = page(FULL).text
    for fact in [
        "4 NVIDIA H200",
        "lost",
        "memory: 9.0 of 24.0 GiB; engines of this node 6.0, others 3.0",
        "61 °C",
        "287 of 450 W",
        "load –",
        "paused for another 1 h 30 min, or until gpu-agent resume --gpu GPU-1",
        "xid_79 fell off the bus advice: reboot",
        "pci_model does not fit together: another board ask the seller",
        "is it a GPU: too slow: took 9 s",
        "Once its tasks have ended, reboot this machine.",
    ]:
        assert fact in text


def test_pools_tasks_and_proofs_are_told_as_status_tells_them() -> None:
    text = page(FULL).text
    for fact in [
        "Working on 2 tasks, taking nothing new",
        "main gemma3 llama-server b1 GPU 4",
        "0/2 pool_not_ready paused",
        "3,072 of 9,216 MiB of GPU memory released: held by 7",
        "t-1 running main 12 tokens 1 min 1 s 30 s",
        "t-2 proving main – 1 s over",
        "t-0 failed engine_crashed main 4.2 s",
        "challenged 4 being answered 1 passed 2 failed 1 verdicts passed 5 stake 8.000000 slashed 2.000000",
        "earned since the start 1.500000 TEST",
        "not enforced here: memory pids",
        "schedule open until 06:00",
    ]:
        assert fact in text


def test_what_an_engine_said_of_a_task_is_not_shown() -> None:
    """It may repeat what it was asked, and every account of the machine can read the page."""
    ended = replace(ENDED, detail="HTTP 400: my prompt is too long")
    assert "my prompt" not in page(replace(FULL, recent=(ended,))).text


def test_a_task_shows_how_far_it_is() -> None:
    attempts = (replace(STATUS.attempts[0], max_tokens=48), replace(STATUS.attempts[1], tokens=99, max_tokens=48))
    bars = [dict(found)["width"] for name, found in page(replace(FULL, attempts=attempts)).elements if name == "rect"]
    assert {"25.00", "100.00"} <= set(bars), "never longer than the whole"


def test_a_node_that_waits_is_told_apart_from_one_that_is_kept_away() -> None:
    quiet = replace(STATUS, attempts=(), why_idle=())
    assert "Ready for work" in page(quiet).text
    assert "Ready, and nobody asks" in page(replace(quiet, why_idle=(Gate(reason=Reason.NO_DEMAND),))).text
    both = (Gate(reason=Reason.NO_DEMAND), Gate(reason=Reason.PAUSED))
    assert "No new work" in page(replace(quiet, why_idle=both)).text


MINE = GpuProcess(pid=1, kinds=("compute",), memory_bytes=GIB)


@pytest.mark.parametrize(
    ("sample", "engines_bytes"),
    [
        (GpuSample(processes=1, users=(MINE,)), 3 * GIB),
        (GpuSample(processes=0), 3 * GIB),
        (GpuSample(processes=1, users=(replace(MINE, memory_bytes=None),)), None),
        (GpuSample(), None),
    ],
)
def test_what_engines_take_is_shown_where_the_driver_tells_whose_memory_it_is(
    sample: GpuSample, engines_bytes: int | None
) -> None:
    part = MigSlice(uuid="MIG-1", name="1g", memory_total_bytes=GIB)
    gpu = Gpu(uuid="GPU-1", name="A", index=0, sample=sample, mig=(part,))
    assert readings(gpu, {"GPU-1": GIB, "MIG-1": 2 * GIB, "GPU-2": 9 * GIB}).engines_bytes == engines_bytes


# --------------------------------------------------------------------------- texts from outside


HOSTILE = {
    "an element": "</title></style></script><script>alert(1)</script>",
    "an attribute": "\"'><img src=x onerror=alert(1)>",
    "what is to be typed": '`"><svg onload=alert(1)>`',
    "entities": "<!-- ]]> {{7*7}} ${7*7} &lt;b&gt; &#60;b&#62; javascript:alert(1)",
    "control codes": "\x1b[2J\u202egnp.exe\x00\ud800",
    "a flood": "x" * 100_000,
}


def with_texts(value: Any, text: str) -> Any:
    """The same value with `text` for every string in it that is no word of a closed list."""
    if type(value) is str:
        return text
    if isinstance(value, tuple):
        return tuple(with_texts(item, text) for item in value)
    if isinstance(value, msgspec.Struct):
        return replace(value, **{name: with_texts(getattr(value, name), text) for name in value.__struct_fields__})
    return value


def built(found: Page) -> Iterator[tuple[str, frozenset[str]]]:
    """Elements and the names of their attributes; a text may mark what is to be typed, with backticks."""
    return ((name, frozenset(attributes)) for name, attributes in found.elements if name != "code")


@pytest.mark.parametrize("text", HOSTILE.values(), ids=list(HOSTILE))
def test_no_text_from_outside_becomes_anything_but_text(text: str) -> None:
    hostile, harmless = document(with_texts(FULL, text), 0.0), document(with_texts(FULL, "x"), 0.0)
    assert list(built(Page(hostile))) == list(built(Page(harmless)))
    assert [dict(at) for name, at in Page(hostile).elements if name == "script"] == [{"src": "/page.js", "defer": None}]
    hostile.encode()  # no lone surrogate is left
    assert not set(hostile) & set("\x1b\u202e\x00")
    assert len(hostile) < 60_000


def test_no_attribute_ends_before_its_quote() -> None:
    (found,) = Page(tag("p", "", title="\"><b class='", hidden=False)).elements
    assert found == ("p", {"title": "\"><b class='"})


def test_nothing_on_the_page_does_anything() -> None:
    names = {name for name, _ in page(FULL).elements}
    assert not names & {"form", "button", "input", "a", "iframe", "object", "style"}
    assert not any(key.startswith("on") or key == "style" for _, found in page(FULL).elements for key in found)


def test_a_daemon_without_the_page_has_none_of_it_in_memory() -> None:
    program = "import sys, agent.app; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "agent.edges.local_http" in loaded
    assert not [name for name in loaded if name.startswith(("agent.edges.page", "agent.core.meanings"))]


# --------------------------------------------------------------------------- over HTTP


@pytest.fixture
async def server() -> AsyncIterator[PageServer]:
    served = PageServer("127.0.0.1:0", lambda: FULL)
    await served.start()
    yield served
    await served.close()


async def get(url: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], str]:
    async with aiohttp.ClientSession() as session, session.request(method, url, headers=headers) as answer:
        return answer.status, dict(answer.headers), await answer.text()


async def test_everything_that_the_page_names_is_served_from_the_same_place(server: PageServer) -> None:
    status, headers, text = await get(server.url)
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    named = [value for _, found in Page(text).elements for key, value in found.items() if key in ("src", "href")]
    assert sorted(filter(None, named)) == ["/icon.svg", "/page.css", "/page.js"]
    for name in named:
        status, headers, text = await get(f"{server.url[:-1]}{name}")
        assert status == 200
        assert "://" not in text.replace("http://www.w3.org/2000/svg", ""), "nothing is fetched from elsewhere"


@pytest.mark.parametrize(("path", "method", "status"), [("", "GET", 200), ("x", "GET", 404), ("", "POST", 405)])
async def test_every_answer_forbids_other_origins_and_inline_code(
    server: PageServer, path: str, method: str, status: int
) -> None:
    found, headers, _ = await get(server.url + path, method)
    assert found == status
    policy = dict(rule.strip().split(" ", 1) for rule in headers["Content-Security-Policy"].split(";"))
    assert (policy["default-src"], policy["frame-ancestors"], policy["form-action"]) == ("'none'",) * 3
    assert {policy[rule] for rule in ("script-src", "style-src", "img-src", "connect-src")} == {"'self'"}
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"
    assert not any(name.startswith("Access-Control") for name in headers)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:9411", 200),
        ("127.0.0.1", 200),
        ("[::1]:9411", 200),
        ("evil.example:9411", 421),
        ("127.0.0.1.evil.example", 421),
        ("[evil]:9411", 421),
        ("", 421),
    ],
)
async def test_nobody_reads_it_under_another_name(server: PageServer, host: str, status: int) -> None:
    found, _, text = await get(server.url, Host=host)
    assert found == status
    assert ("rig-1" in text) == (status == 200)


@pytest.mark.parametrize(
    ("site", "mode", "status"),
    [
        ("none", "navigate", 200),
        ("same-origin", "cors", 200),
        ("cross-site", "navigate", 200),
        ("cross-site", "no-cors", 403),
        ("same-site", "cors", 403),
    ],
)
async def test_a_page_of_another_origin_may_link_to_it_and_no_more(
    server: PageServer, site: str, mode: str, status: int
) -> None:
    assert (await get(server.url, **{"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode}))[0] == status


async def test_who_opens_too_many_connections_costs_the_agent_no_more_files(server: PageServer) -> None:
    host, port = server.url.removeprefix("http://").rstrip("/").split(":")
    held = [await asyncio.open_connection(host, int(port)) for _ in range(MAX_CONNECTIONS)]
    async with asyncio.timeout(20):
        with pytest.raises(aiohttp.ClientError):
            await get(server.url)
        for _, writer in held:
            writer.close()
            await writer.wait_closed()
        while True:  # until the server has heard of it
            try:
                assert (await get(server.url))[0] == 200
                return
            except aiohttp.ClientError:
                await asyncio.sleep(0)
