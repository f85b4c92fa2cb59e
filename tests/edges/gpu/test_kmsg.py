"""The kernel's log, read without waiting."""

from __future__ import annotations

import os
from pathlib import Path

from agent.edges.gpu.kmsg import KMSG, KernelLog

XID = "4,{n},{n}000000,-;NVRM: Xid (PCI:0000:3b:00): {n}, pid=1\n SUBSYSTEM=pci\n"


def test_what_was_logged_since_boot_comes_first_and_then_what_is_added(tmp_path: Path) -> None:
    file = tmp_path / "kmsg"
    file.write_text("6,1,1,-;booting\n" + XID.format(n=31))
    log = KernelLog(file)

    before = [event.code for event in log.events()]
    with file.open("a") as kernel:
        kernel.write(XID.format(n=79))
    after = [event.code for event in log.events()]

    assert (before, after, log.events(), log.reason) == ([31], [79], (), "")
    log.close()


def test_a_log_without_anything_new_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "kmsg")
    writer = os.open(tmp_path / "kmsg", os.O_RDWR)  # keeps it open, so that a reader that blocks would wait for ever
    log = KernelLog(tmp_path / "kmsg")

    assert log.events() == ()
    os.write(writer, XID.format(n=13).encode())
    assert [event.code for event in log.events()] == [13]
    log.close()
    os.close(writer)


def test_a_log_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    log = KernelLog(tmp_path / "absent")

    assert log.events() == ()
    assert "No such file" in log.reason


def test_a_folder_in_place_of_the_log_ends_the_reading_with_a_reason(tmp_path: Path) -> None:
    log = KernelLog(tmp_path)

    assert log.events() == ()
    assert "Is a directory" in log.reason


def test_the_log_of_this_machine_is_read_or_says_why_not() -> None:
    log = KernelLog()

    events = log.events()

    assert (log.reason == "") == os.access(KMSG, os.R_OK)
    assert all(event.source == "kernel" for event in events)
    log.close()
