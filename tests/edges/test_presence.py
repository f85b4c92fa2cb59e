"""Whether somebody is there, asked of a logind on a real message bus, and of one that is the bus by itself."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.config import OwnerConfig
from agent.core.model import Reason
from agent.edges import presence
from agent.edges.owner import Machine, owner_policy
from tests.fakes.logind import Logind, by_itself, on_a_bus


@pytest.fixture(params=["on a dbus-daemon", "by itself"])
def logind(request: pytest.FixtureRequest, short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Logind]:
    if request.param == "by itself":
        made = by_itself(short_dir)
    elif shutil.which("dbus-daemon") is None:
        pytest.skip("no dbus-daemon is installed")
    else:
        made = on_a_bus(short_dir)
    with made as served:
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", served.address)
        yield served


def test_while_a_session_is_active_nobody_is_away(logind: Logind) -> None:
    logind.since_us = 1
    assert presence.away_s() == 0.0


def test_away_is_counted_from_the_last_sign_of_somebody(logind: Logind) -> None:
    logind.idle, logind.since_us = True, int((time.monotonic() - 90.0) * 1e6)
    assert 90.0 <= presence.away_s() < 100.0
    logind.since_us = 0  # nobody was ever logged in
    assert presence.away_s() == pytest.approx(time.monotonic(), abs=10.0)


def test_what_the_machine_sees_becomes_the_gate(logind: Logind) -> None:
    machine, policy = Machine((), battery=False, presence=True), owner_policy(OwnerConfig(idle_only=True))
    (gate,) = policy.gates(machine.look(0.0))
    assert (gate.reason, gate.detail.partition(";")[0]) == (Reason.OWNER_ACTIVE, "somebody is at the machine")
    logind.idle = True
    assert policy.gates(machine.look(0.0)) == []
    logind.error = "Sender is not authorized"
    (gate,) = policy.gates(machine.look(0.0))
    assert "cannot be told: logind does not answer: Sender is not authorized" in gate.detail
    assert Machine((), battery=False).look(0.0).unknown == "", "who does not ask is not told"


def test_a_logind_without_the_hint_is_no_answer(logind: Logind) -> None:
    logind.untold = {"IdleHint"}
    with pytest.raises(presence.Unknown, match="tells no IdleHint"):
        presence.away_s()


def test_without_a_bus_nobody_can_tell(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={short_dir / 'none'}")
    with pytest.raises(presence.Unknown, match="No such file or directory"):
        presence.away_s()


@pytest.mark.parametrize("says", [b"", b"REJECTED EXTERNAL\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n" * 9])
def test_a_bus_that_hangs_or_speaks_nonsense_costs_its_limit_and_no_more(
    says: bytes, short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={short_dir / 'bus'}")
    held = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(short_dir / "bus"))
        listener.listen()

        def answer() -> None:
            held.append(listener.accept()[0])
            held[0].sendall(says)

        peer = threading.Thread(target=answer)
        peer.start()
        with pytest.raises(presence.Unknown, match="cannot be asked over D-Bus"):
            presence.away_s(limit_s=0.2)
        peer.join()
        held[0].close()
