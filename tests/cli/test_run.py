"""What the daemon holds in memory for nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
LOOK = """
import os, ssl, sys
from agent.edges.lean import import_for_the_daemon
read = ssl.SSLContext.set_default_verify_paths
before = dict(os.environ)
import_for_the_daemon()
import agent.app, structlog
assert "rich" not in sys.modules and "frozenlist._frozenlist" not in sys.modules
assert "cryptography.hazmat.primitives.serialization" not in sys.modules
for_some = "yaml", "tarfile", "psutil", "zoneinfo", "agent.edges.programs.build", "agent.edges.sandbox.oci.backend"
assert not sys.modules.keys() & set(for_some), sys.modules.keys() & set(for_some)
for needed_by_none in ("aiohttp.web", "difflib", "importlib.resources", "sysconfig"):
    assert needed_by_none not in sys.modules, needed_by_none
assert "agent.devnet" not in sys.modules and "agent.cli.demo" not in sys.modules
import rich, aiohttp.connector
assert aiohttp.connector._SSL_CONTEXT_VERIFIED.verify_mode is ssl.CERT_REQUIRED
assert ssl.SSLContext.set_default_verify_paths is read and dict(os.environ) == before
"""


def test_the_daemon_imports_no_ballast_and_what_was_left_out_works_afterwards() -> None:
    done = subprocess.run([sys.executable, "-c", LOOK], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
