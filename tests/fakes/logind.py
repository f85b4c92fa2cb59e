"""logind's manager as far as the agent asks it: on a bus of its own (a real dbus-daemon), or as a bus by itself."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jeepney import Message, MessageType, Parser, message_bus, new_error, new_method_return
from jeepney.auth import BEGIN
from jeepney.io.blocking import open_dbus_connection

NAME = "org.freedesktop.login1"
_POLICY = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path={path}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_type="method_call"/>
<allow send_destination="*"/><allow receive_sender="*"/></policy></busconfig>
"""


class Logind:
    """What it says; a test changes it at will."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.idle = False
        self.since_us = 0
        self.error = ""
        self.untold: set[str] = set()

    def reply(self, asked: Message) -> Message:
        """To GetAll of the manager's properties."""
        if self.error:
            return new_error(asked, "org.freedesktop.DBus.Error.AccessDenied", "s", (self.error,))
        told: dict[str, tuple[str, Any]] = {
            "IdleHint": ("b", self.idle),
            "IdleSinceHintMonotonic": ("t", self.since_us),
            "NAutoVTs": ("u", 6),
        }
        return new_method_return(asked, "a{sv}", ({k: v for k, v in told.items() if k not in self.untold},))


@contextlib.contextmanager
def on_a_bus(folder: Path) -> Iterator[Logind]:
    """A real message bus, and a service with logind's name on it."""
    (folder / "bus.conf").write_text(_POLICY.format(path=folder / "bus"))
    arguments = ["dbus-daemon", f"--config-file={folder / 'bus.conf'}", "--nofork", "--nopidfile", "--print-address"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as daemon:
        assert daemon.stdout is not None
        daemon.stdout.readline()  # it listens
        logind = Logind(f"unix:path={folder / 'bus'}")
        connection = open_dbus_connection(logind.address)
        connection.send_and_get_reply(message_bus.RequestName(NAME))

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    asked = connection.receive()
                    if asked.header.message_type is MessageType.method_call:
                        connection.send(logind.reply(asked))

        serving = threading.Thread(target=serve)
        serving.start()
        try:
            yield logind
        finally:
            daemon.kill()
            serving.join()
            connection.close()


@contextlib.contextmanager
def by_itself(folder: Path) -> Iterator[Logind]:
    """The protocol of a bus and of the service behind it, on one socket: for machines without a dbus-daemon."""
    logind = Logind(f"unix:path={folder / 'bus'}")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "bus"))
        listener.listen()
        serving = threading.Thread(target=_accept, args=(listener, logind))
        serving.start()
        try:
            yield logind
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            serving.join()


def _accept(listener: socket.socket, logind: Logind) -> None:
    with contextlib.suppress(OSError):
        while True:
            peer, _ = listener.accept()
            with peer, contextlib.suppress(OSError):
                _converse(peer, logind)


def _converse(peer: socket.socket, logind: Logind) -> None:
    lines = b""
    while BEGIN not in lines:
        if not (chunk := peer.recv(4096)):
            return
        lines += chunk
        if b"AUTH EXTERNAL" in chunk:
            peer.sendall(b"OK 0123456789abcdef0123456789abcdef\r\n")
    parser, serial = Parser(), 0
    parser.add_data(lines.partition(BEGIN)[2])
    while True:
        while (asked := parser.get_next_message()) is None:
            if not (chunk := peer.recv(4096)):
                return
            parser.add_data(chunk)
        serial += 1
        hello = str(asked.header.fields).count("Hello")
        answer = new_method_return(asked, "s", (":1.1",)) if hello else logind.reply(asked)
        peer.sendall(answer.serialise(serial=serial))
