"""Whether somebody is at this machine, as systemd-logind knows: its IdleHint, asked over the system's D-Bus."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Any

from agent.core.text import cause

if TYPE_CHECKING:
    from jeepney import Message

LIMIT_S = 2.0
"""For all of one question: a bus that hangs must not look like a loop of ours that does."""
_CHUNK_BYTES = 1 << 16
_NAME, _PATH, _INTERFACE = "org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager"


class Unknown(Exception):
    """Nobody can tell; the message says why."""


def away_s(limit_s: float = LIMIT_S) -> float:
    """Seconds for which no session has been active, 0 while one is. Blocks for `limit_s` at most. Raises Unknown.

    The hint is that of all sessions: a desktop sets its own when its screen saver would begin, a terminal's turns
    after some minutes without a key, and what inhibits idling (a film, a presentation) counts as activity.
    """
    told = _manager(limit_s)
    if not _value(told, "IdleHint", bool):
        return 0.0
    # logind's clock is CLOCK_MONOTONIC, as Python's on Linux; 0 where nobody was ever logged in.
    since_us: int = _value(told, "IdleSinceHintMonotonic", int)
    return max(time.monotonic() - since_us / 1e6, 0.0)


def _value(told: dict[str, Any], name: str, kind: type) -> Any:
    if not isinstance(found := told.get(name), kind):
        raise Unknown(f"what answers as logind tells no {name}")
    return found


def _manager(limit_s: float) -> dict[str, Any]:
    """All properties of logind's manager. Raises Unknown."""
    from jeepney import DBusAddress, MessageType, Properties, message_bus  # noqa: PLC0415  (for who asks for it)

    try:
        with _Line(limit_s) as line:
            line.ask(message_bus.Hello())
            manager = DBusAddress(_PATH, bus_name=_NAME, interface=_INTERFACE)
            answer = line.ask(Properties(manager).get_all())
    except Exception as fault:  # refused, hung, or what a peer that speaks no D-Bus makes of the parser: no answer
        raise Unknown(f"logind cannot be asked over D-Bus: {cause(fault)}") from fault
    said = answer.body[0] if answer.body else None
    if answer.header.message_type is MessageType.error:
        raise Unknown(f"logind does not answer: {said}")
    return {name: value for name, (_, value) in said.items()} if isinstance(said, dict) else {}


class _Line:
    """A connection to the bus with one deadline for everything, which the library's own has not."""

    def __init__(self, limit_s: float) -> None:
        from jeepney import Parser  # noqa: PLC0415

        self._limit_s = limit_s
        self._deadline = time.monotonic() + limit_s
        self._parser = Parser()
        self._serial = 0
        self._socket = socket.socket(socket.AF_UNIX)

    def __enter__(self) -> _Line:
        try:
            self._connect()
        except BaseException:  # whatever the peer sent, its socket must not stay open
            self._socket.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def _connect(self) -> None:
        from jeepney.auth import BEGIN, Authenticator  # noqa: PLC0415
        from jeepney.bus import get_bus  # noqa: PLC0415

        self._bounded().connect(get_bus("SYSTEM"))
        authenticator = Authenticator(inc_null_byte=True)
        for line in authenticator:
            self._bounded().sendall(line)
            authenticator.feed(self._read())
        self._bounded().sendall(BEGIN)

    def ask(self, message: Message) -> Message:
        """The reply to a method call."""
        from jeepney import HeaderFields  # noqa: PLC0415

        self._serial += 1
        self._bounded().sendall(message.serialise(serial=self._serial))
        while True:
            while (found := self._parser.get_next_message()) is None:
                self._parser.add_data(self._read())
            if found.header.fields.get(HeaderFields.reply_serial) == self._serial:
                return found

    def _read(self) -> bytes:
        if chunk := self._bounded().recv(_CHUNK_BYTES):
            return chunk
        raise ConnectionError("the bus closed the connection")

    def _bounded(self) -> socket.socket:
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError(f"no answer within {self._limit_s:g} s")
        self._socket.settimeout(left_s)
        return self._socket
