"""The real logind on a real system bus, asked from within the agent's unit with all its hardening."""

from __future__ import annotations

import pytest

from tests.systemd.box import Box
from tests.systemd.installed import UNIT as UNIT_FILE
from tests.systemd.installed import VENV

pytestmark = pytest.mark.slow

UNIT = "asking-logind.service"
ASK = "from agent.edges import presence; print('away', presence.away_s())"
ONCE = f"""[Service]
Type=oneshot
Restart=no
WatchdogSec=0
WorkingDirectory=/opt/source
StandardOutput=truncate:/run/away.txt
ExecStart=
ExecStart={VENV}/bin/python -c "{ASK}"
"""


def test_logind_tells_the_agent_in_its_unit_that_nobody_is_there(box: Box) -> None:
    started = box.run("systemctl", "start", "dbus.service", "systemd-logind.service", check=False)
    if started.returncode:
        pytest.skip(f"no D-Bus or logind here: {started.stderr.strip()}")
    box.write(f"/etc/systemd/system/{UNIT}", UNIT_FILE.read_text())
    box.write(f"/etc/systemd/system/{UNIT}.d/once.conf", ONCE)
    box.run("systemctl", "daemon-reload")
    done = box.run("systemctl", "start", UNIT, check=False)
    assert done.returncode == 0, box.story(UNIT)
    word, seconds = box.run("cat", "/run/away.txt").stdout.split()
    assert (word, float(seconds) > 0) == ("away", True)
