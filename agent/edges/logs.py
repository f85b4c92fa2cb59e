"""Log lines: JSON for machines, text for people. What strangers send gets neither secrets nor control codes through."""

from __future__ import annotations

import functools
import json
import logging
import os
import re
import sys
import threading
from collections.abc import Mapping, MutableMapping
from enum import Enum
from typing import Any, BinaryIO

import orjson
import structlog

from agent.config import LogFormat, LogLevel, LogsConfig
from agent.core.text import plain

Event = MutableMapping[str, Any]

MAX_VALUE_CHARACTERS = 4096
MAX_TRACE_CHARACTERS = 16384
MAX_ITEMS = 64
MAX_DEPTH = 4
I64_MAX, I64_MIN = (1 << 63) - 1, -(1 << 63)

REDACTED = "[redacted]"
_SECRET_WORDS = frozenset(
    {"token", "secret", "password", "passphrase", "authorization", "bearer", "cookie", "credential", "key"}
)
_PUBLIC = frozenset({"public_key", "coordinator_key", "node_key", "idem_key", "lease_key"})
"""Names that end in `key` and may be read by anybody."""
_SECRET_TEXT = re.compile(
    r"(?i:\bbearer\s+)[^\s\"',;]+"  # an Authorization header quoted in an error
    r"|\bga1\.[A-Za-z0-9_-]+\.[0-9a-fA-F]+"  # an enrolment token
    r"|(?<=://)[^/\s@\"']+:[^/\s@\"']+(?=@)"  # user and password of a URL
)

_PLAIN_WORD = re.compile(r"[\w/+-]{0,128}(?:\.[a-z_]{1,32})?", re.ASCII)
"""Most values: ids, states and reasons. Nothing of `_SECRET_TEXT` matches in it, and no control code stands in it."""

_PRIORITY = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
"""syslog levels, as sd-daemon(3) wants them in front of a line."""
_COLOUR = {"debug": "\x1b[2m", "info": "\x1b[32m", "warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[31m"}
_RESET, _DIM, _BOLD = "\x1b[0m", "\x1b[2m", "\x1b[1m"
_LEVELS = {
    LogLevel.DEBUG: logging.DEBUG,
    LogLevel.INFO: logging.INFO,
    LogLevel.WARNING: logging.WARNING,
    LogLevel.ERROR: logging.ERROR,
}


def configure(logs: LogsConfig, stream: BinaryIO | None = None, environ: Mapping[str, str] | None = None) -> None:
    """Send every log line of this process to `stream` (standard error). May be called again after a reload."""
    stream = sys.stderr.buffer if stream is None else stream
    environ = os.environ if environ is None else environ
    terminal = stream.isatty()
    as_text = logs.format is LogFormat.CONSOLE or (logs.format is LogFormat.AUTO and terminal)
    colours = terminal and "NO_COLOR" not in environ
    level = _LEVELS[logs.level]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.format_exc_info,
            harmless,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
            _Console(colours) if as_text else _as_json,
            _Prefix(enabled=under_journald(stream, environ)),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_Sink(stream),
        # Not cached: a reload changes the level of loggers that live already.
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(handlers=[_Bridge()], level=max(level, logging.WARNING), force=True)
    logging.getLogger("agent").setLevel(level)  # for who asks before a line is made
    logging.captureWarnings(capture=True)


def under_journald(stream: BinaryIO, environ: Mapping[str, str]) -> bool:
    """Whether `stream` is the journal's own socket ($JOURNAL_STREAM, systemd.exec(5))."""
    try:
        status = os.fstat(stream.fileno())
    except OSError:  # io.UnsupportedOperation too: a stream in memory
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def harmless(_logger: object, _method: str, event: Event) -> Event:
    """Redact secrets, drop fields that are None, and make every text plain."""
    return {name: _field(name, value, depth=0) for name, value in event.items() if value is not None}


@functools.lru_cache(maxsize=512)
def is_secret(name: str) -> bool:
    """Whether a field of this name is never written. `key_file` names a file; `tokens` counts."""
    lowered = name.lower().replace("-", "_")
    words = lowered.split("_")
    return lowered not in _PUBLIC and words[-1] not in {"file", "path"} and not _SECRET_WORDS.isdisjoint(words)


def _field(name: str, value: Any, depth: int) -> Any:
    if is_secret(name) and not isinstance(value, bool | int | float):
        return REDACTED
    return _value(value, MAX_TRACE_CHARACTERS if name == "exception" else MAX_VALUE_CHARACTERS, depth)


def _value(value: Any, limit: int, depth: int) -> Any:
    """JSON types only, bounded in size and depth."""
    if type(value) is str and _PLAIN_WORD.fullmatch(value):
        return value
    if isinstance(value, Enum):
        value = value.value
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if I64_MIN <= value <= I64_MAX else str(value)[:limit]
    if depth < MAX_DEPTH and isinstance(value, Mapping):
        return {plain(str(k), 64): _field(str(k), v, depth + 1) for k, v in list(value.items())[:MAX_ITEMS]}
    if depth < MAX_DEPTH and isinstance(value, list | tuple | set | frozenset):
        return [_value(item, limit, depth + 1) for item in list(value)[:MAX_ITEMS]]
    return _SECRET_TEXT.sub(REDACTED, plain(value if isinstance(value, str | bytes) else str(value), limit))


def _as_json(_logger: object, _method: str, event: Event) -> bytes:
    head = {name: event.pop(name) for name in ("at", "level", "event") if name in event}
    return orjson.dumps({**head, **event})


class _Console:
    """`12:34:56.789 warning pull.failed pool=main detail="no route"`."""

    def __init__(self, colours: bool) -> None:
        self._colours = colours

    def __call__(self, _logger: object, _method: str, event: Event) -> bytes:
        at, level, name = event.pop("at"), event.pop("level"), event.pop("event")
        trace = event.pop("exception", "")
        fields = " ".join(f"{self._paint(_DIM, key + '=')}{_word(value)}" for key, value in event.items())
        clock = self._paint(_DIM, at[11:23])
        line = f"{clock} {self._paint(_COLOUR[level], f'{level:<7}')} {self._paint(_BOLD, _word(name))} {fields}"
        return (line.rstrip() + (f"\n{trace}" if trace else "")).encode()

    def _paint(self, code: str, text: str) -> str:
        return f"{code}{text}{_RESET}" if self._colours else text


def _word(value: Any) -> str:
    """A value that cannot be mistaken for the next field."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if re.fullmatch(r"[^\s=\"']+", text) else json.dumps(value, ensure_ascii=False)


class _Prefix:
    """Puts `<N>` before each line for the journal."""

    def __init__(self, *, enabled: bool) -> None:
        self._enabled = enabled

    def __call__(self, _logger: object, method: str, rendered: Any) -> bytes:
        line: bytes = rendered
        if not self._enabled:
            return line
        prefix = b"<%d>" % _PRIORITY.get({"exception": "error", "warn": "warning"}.get(method, method), 6)
        return b"\n".join(prefix + part for part in line.split(b"\n"))


class _Sink:
    """Writes whole lines, from any thread."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def __call__(self, *_names: object) -> _Sink:
        return self

    def write(self, line: bytes) -> None:
        with self._lock:
            try:
                self._stream.write(line + b"\n")
                self._stream.flush()
            except (OSError, ValueError):
                # The reader of the log has gone. There is nowhere left to say so, and work must not stop for it.
                return

    debug = info = warning = warn = error = critical = exception = fatal = msg = log = write


class _Bridge(logging.Handler):
    """What libraries log (asyncio, aiohttp), as events named after their logger."""

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger(record.name)
        try:
            text = record.getMessage()
        except (TypeError, ValueError, KeyError):  # a library's own mistake in its format string
            text = str(record.msg)
        log.log(record.levelno, f"library.{record.name}", detail=text, exc_info=record.exc_info)
