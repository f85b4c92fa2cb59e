"""Why an engine ended, from how its sandbox ended and its last words on stderr. Pure."""

from __future__ import annotations

import re
import signal

from agent.ports import ExitKind, SandboxExit

_LAST_LINES = 3
_LINE_CHARACTERS = 160

# llama-server begins a line with time, level and origin: `0.00.014.382 E srv  operator(): …`.
_PREFIX = re.compile(r"^[\d.]+ [A-Z] ")

# Said by every healthy llama-server on a unix socket.
_IDLE_TALK = re.compile(r"security: no API key is set|--cache-idle-slots requires")

_TOLD = (
    (re.compile(r"error while loading shared libraries: (\S+?):"), "the library {0} is missing or unreadable"),
    (re.compile(r"unknown model architecture: '?([\w.-]{1,40})"), "it does not know the model architecture {0}"),
    (re.compile(r"invalid magic|failed to load GGUF|gguf_init_from|not a GGUF", re.I), "the file is not a GGUF model"),
    (
        re.compile(r"failed to (?:open|read)|tensor .{1,80} data is not within|corrupt", re.I),
        "the model file is damaged",
    ),
    (re.compile(r"out of memory|failed to allocate|cannot allocate|bad_alloc", re.I), "there is not enough memory"),
    (re.compile(r"(?:error loading|failed to load) model", re.I), "it could not load the model"),
    (re.compile(r"couldn't bind", re.I), "it could not make its socket"),
    (re.compile(r"(?:invalid|unknown) (?:argument|option): (\S{1,40})", re.I), "it does not know the argument {0}"),
)
"""Most telling first: a failed load ends in the same general words whatever its cause."""


def explain(end: SandboxExit, stderr: str) -> str:
    """One sentence, then the last lines that the engine wrote."""
    told = _told(stderr)
    sentence = f"the engine ended: {_cause(end)}" + (f"; {told}" if told else "")
    last = last_lines(stderr)
    return f"{sentence} (it said: {last})" if last else sentence


def last_lines(stderr: str) -> str:
    """The last few non-empty lines, joined by ` | `."""
    lines = [_PREFIX.sub("", line).strip()[:_LINE_CHARACTERS] for line in stderr.splitlines()]
    return " | ".join([line for line in lines if line and not _IDLE_TALK.search(line)][-_LAST_LINES:])


def _told(stderr: str) -> str:
    for pattern, words in _TOLD:
        if found := pattern.search(stderr):
            return words.format(*found.groups())
    return ""


def _cause(end: SandboxExit) -> str:
    if end.kind is ExitKind.SIGNALLED and end.code == signal.SIGILL:
        return "this CPU lacks instructions that it was built for (SIGILL); use another build of the engine"
    if end.kind is ExitKind.OUT_OF_MEMORY:
        return f"{end.detail}; a smaller model or context, or a larger sandbox.engine_memory_mib, may help"
    if end.kind is ExitKind.OUT_OF_GPU_MEMORY:
        return f"it {end.detail}; a smaller model or context, or a larger gpu_memory_mib of the pool, may help"
    return end.detail or end.kind.value
