"""The scenario language of the fake driver, parsed here and nowhere else.

A scenario is INI text. Sections and what their keys mean:

    [scenario]    include = OTHER.ini       start from that file's sections
                  hide = nvmlA nvmlB_v3     symbols that this driver lacks (glob patterns)
    [system]      NVMLName = value          answers without a GPU; Init and Count may be given
    [gpu*]        NVMLName = value          a template of every GPU; `{i}` is its index
    [gpu0] …      NVMLName = value          one GPU; [mig0.1] is slice 1 of GPU 0
    [process]     gpu pid memory kind(Compute|Graphics|MPSCompute) instance(MIG) from until
                                            pid 0: the one in the file `pid` beside a compiled driver, while it lives
    [event]       gpu at type(number) data  what an event set tells once its time has come; in the order of time
    [fault]       fn(glob) gpu from until after(calls) ret delay_ms hang crash

NVMLName is the function's without `nvmlDeviceGet`/`nvmlSystemGet` and version suffix (the exact name wins), plus `.N`
for each number it is asked with: `Temperature.0`. A missing key answers NOT_SUPPORTED, and `!NAME` that error.
`31; @2 55; @6 !GPU_IS_LOST` is a timeline in seconds, `5000+76/s` a counter, `\\xNN` a byte.

`Scenario.table()` writes it in a flat form of tab-separated lines, which the compiled driver only has to look up.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pynvml

CODES = {name[11:]: getattr(pynvml, name) for name in dir(pynvml) if name.startswith("NVML_ERROR_")}
NOT_SUPPORTED = CODES["NOT_SUPPORTED"]
FOREVER = 1e18
_REPEATED = {"process", "event", "fault"}
_BYTE = re.compile(rb"\\x([0-9a-fA-F]{2})")


@dataclasses.dataclass(frozen=True)
class Answer:
    """What one key says from `at` seconds on: `text`, or the error `rc`."""

    at: float
    rc: int
    text: bytes

    def numbers(self, now: float) -> list[int]:
        """The numbers in `text`, counters advanced to `now`."""
        return [_advanced(word, now) for word in self.text.decode().split()]


@dataclasses.dataclass(frozen=True)
class Process:
    gpu: int
    kind: str
    pid: int
    memory: int
    instance: int
    start: float
    until: float


@dataclasses.dataclass(frozen=True)
class Event:
    """What an event set tells from `at` on; `type` is a bit of nvml.h's nvmlEventType."""

    gpu: int
    at: float
    type: int
    data: int


@dataclasses.dataclass(frozen=True)
class Fault:
    """What befalls calls whose name matches `fn`, on `gpu` (-1: on all), in a time, after some calls."""

    fn: str
    gpu: int
    start: float
    until: float
    after: int
    rc: int
    delay_s: float
    hang: bool
    crash: bool


@dataclasses.dataclass(frozen=True)
class Scenario:
    answers: dict[str, dict[str, list[Answer]]]
    """Section → key → timeline, templates already filled in."""
    processes: list[Process]
    events: list[Event]
    faults: list[Fault]
    hidden: list[str]

    @property
    def gpus(self) -> int:
        return sum(1 for section in self.answers if re.fullmatch(r"gpu\d+", section))

    def answer(self, section: str, key: str, now: float) -> Answer:
        """What `section` says to `key` at `now`."""
        timeline = self.answers.get(section, {}).get(key, [])
        return next((a for a in reversed(timeline) if a.at <= now), Answer(0, NOT_SUPPORTED, b""))

    def lacks(self, symbol: str) -> bool:
        return any(fnmatch.fnmatchcase(symbol, pattern) for pattern in self.hidden)

    def times(self) -> list[float]:
        """Moments at which something has just changed, 0 included."""
        moments = [a.at for keys in self.answers.values() for line in keys.values() for a in line]
        moments += [event.at for event in self.events]
        moments += [x for item in (*self.processes, *self.faults) for x in (item.start, item.until) if x < FOREVER]
        return sorted({0.0, *moments})

    def table(self) -> bytes:
        """The flat form for the compiled driver; see its `load`."""
        return b"".join(b"\t".join(map(_cell, row)) + b"\n" for row in self._rows())

    def _rows(self) -> Iterator[tuple[object, ...]]:
        for section, keys in self.answers.items():
            yield "section", section
            for key, timeline in keys.items():
                for a in timeline:
                    yield "answer", section, key, a.at, a.rc, a.text
        for p in self.processes:
            yield "process", p.gpu, p.kind, p.pid, p.memory, p.instance, p.start, p.until
        for e in self.events:
            yield "event", e.gpu, e.at, e.type, e.data
        for f in self.faults:
            yield "fault", f.fn, f.gpu, f.start, f.until, f.after, f.rc, f.delay_s, int(f.hang), int(f.crash)


def load(path: Path) -> Scenario:
    """The scenario in `path`, with what it includes."""
    return parse(path.read_text(), path.parent)


def parse(text: str, folder: Path = Path()) -> Scenario:
    """A scenario from its text; `include` looks in `folder`."""
    sections = _sections(text, folder)
    about = _merged(body for name, body in sections if name == "scenario")
    named: dict[str, dict[str, str]] = {}
    for name, body in sections:
        if name not in _REPEATED and name != "scenario":
            named.setdefault(name, {}).update(body)
    template = named.pop("gpu*", {})
    answers = {name: _filled(name, template, body) for name, body in {"system": {}, **named}.items()}
    return Scenario(
        answers,
        [_process(body) for name, body in sections if name == "process"],
        sorted((_event(body) for name, body in sections if name == "event"), key=lambda event: event.at),
        [_fault(body) for name, body in sections if name == "fault"],
        about.get("hide", "").split(),
    )


def _sections(text: str, folder: Path) -> list[tuple[str, dict[str, str]]]:
    found: list[tuple[str, dict[str, str]]] = []
    for number, line in enumerate(map(str.strip, text.splitlines()), 1):
        if not line or line.startswith("#"):
            continue
        if line.startswith("["):
            found.append((line.strip("[]"), {}))
            continue
        key, equals, value = map(str.strip, line.partition("="))
        if not equals or not found:
            raise ValueError(f"line {number}: neither a section nor `key = value`: {line}")
        if key == "include":
            found[:0] = _sections((folder / value).read_text(), folder)
        else:
            found[-1][1][key] = value
    return found


def _merged(bodies: Iterable[dict[str, str]]) -> dict[str, str]:
    return {key: value for body in bodies for key, value in body.items()}


def _filled(name: str, template: dict[str, str], body: dict[str, str]) -> dict[str, list[Answer]]:
    index = re.fullmatch(r"gpu(\d+)", name)
    whole = template | body if index else body
    return {key: _timeline(value.replace("{i}", index[1] if index else "")) for key, value in whole.items()}


def _timeline(value: str) -> list[Answer]:
    first, *later = map(str.strip, value.split(";"))
    moments = [part.removeprefix("@").partition(" ") for part in later]
    return [_answer(0, first), *(_answer(float(at), text.strip()) for at, _, text in moments)]


def _answer(at: float, text: str) -> Answer:
    if text.startswith("!"):
        return Answer(at, CODES[text[1:]], b"")
    return Answer(at, 0, _BYTE.sub(lambda match: bytes([int(match[1], 16)]), text.encode()))


def _process(body: dict[str, str]) -> Process:
    return Process(
        int(body["gpu"]),
        body.get("kind", "Compute"),
        int(body["pid"]),
        int(body.get("memory", "0"), 0),
        int(body.get("instance", "0xffffffff"), 0),
        float(body.get("from", 0)),
        float(body.get("until", FOREVER)),
    )


def _event(body: dict[str, str]) -> Event:
    return Event(int(body["gpu"]), float(body["at"]), int(body["type"], 0), int(body.get("data", "0"), 0))


def _fault(body: dict[str, str]) -> Fault:
    return Fault(
        body.get("fn", "*"),
        int(body.get("gpu", -1)),
        float(body.get("from", 0)),
        float(body.get("until", FOREVER)),
        int(body.get("after", 0)),
        CODES[body["ret"]] if "ret" in body else 0,
        float(body.get("delay_ms", 0)) / 1e3,
        "hang" in body,
        "crash" in body,
    )


def _advanced(word: str, now: float) -> int:
    base, _, rate = word.partition("+")
    return int(base, 0) + (int(float(rate.removesuffix("/s")) * now) if rate else 0)


def _cell(value: object) -> bytes:
    cell = value if isinstance(value, bytes) else str(value).encode()
    if b"\t" in cell or b"\n" in cell:
        raise ValueError(f"a tab or newline cannot be told: {cell!r}")
    return cell
