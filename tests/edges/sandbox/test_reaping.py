"""Waiting for what was killed, which the kernel may put off."""

import subprocess

from agent.edges.sandbox.processes import reap


def test_a_monitor_that_does_not_die_is_waited_for_no_longer_than_was_said():
    with subprocess.Popen(["sleep", "600"]) as monitor:
        assert not reap(monitor, -1, limit_s=0.01)
        monitor.kill()
        assert reap(monitor, -1)
    assert monitor.returncode == -9
