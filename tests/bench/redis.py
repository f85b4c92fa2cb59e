"""A Redis of its own for the peers, and the peers' programs."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench.node import ROOT
from tests.bench.noop import Rate

PEERS = {"arq": "arq", "SAQ": "saq", "Celery": "celery", "Ray": "ray"}
"""Name and package; the program is `peers/<package>_peer.py`."""
_PYTHON = ROOT / ".cache/peers/bin/python"
LIMIT_S = 60


def peer_version(package: str) -> str:
    """Empty when it is not installed."""
    if not _PYTHON.exists():
        return ""
    ask = f"import importlib.metadata as m; print(m.version({package!r}))"
    done = subprocess.run([_PYTHON, "-c", ask], capture_output=True, text=True, check=False)
    return done.stdout.strip()


@contextlib.contextmanager
def redis_server() -> Iterator[str]:
    """Its URL, or "" where Redis is not installed. As delivered: it writes a snapshot now and then, nothing at once."""
    binary = shutil.which("redis-server")
    if binary is None:
        yield ""
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as home:
        server = subprocess.Popen(
            [binary, "--port", str(port), "--bind", "127.0.0.1", "--dir", home], stdout=subprocess.DEVNULL
        )
        try:
            time.sleep(0.5)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            server.terminate()
            server.wait()


def measure_peer(package: str, in_flight: int, tasks: int, redis_url: str) -> Rate | str:
    """Its figures, or why there are none."""
    if not peer_version(package):
        return "not installed"
    if package != "ray" and not redis_url:
        return "no redis-server here"
    here = Path(__file__).parent / "peers"
    environ = {**os.environ, "REDIS_URL": redis_url, "IN_FLIGHT": str(in_flight), "PYTHONPATH": str(here)}
    try:
        done = subprocess.run(
            [_PYTHON, str(here / f"{package}_peer.py"), str(tasks)],
            cwd=here,
            env=environ,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"not done within {LIMIT_S} s"
    for line in reversed(done.stdout.splitlines()):
        if line.startswith("{"):
            return Rate(**json.loads(line))
    last = done.stderr.strip().splitlines()
    return f"failed: {last[-1][:120] if last else done.returncode}"
