"""Reads whether the coordinator can be reached, and how far its clock is from ours."""

from __future__ import annotations

import asyncio
import ssl
import time
from email.utils import parsedate_to_datetime
from pathlib import Path

from agent.core import judgements as judge
from agent.core.doctor import Finding
from agent.core.errors import LinkError
from agent.edges.link.tls import Endpoint, client_context

_LIMIT_S = 10.0
_HEAD_BYTES = 16 << 10


async def look(url: str | None, ca_file: Path | None) -> list[Finding]:
    """Connects, asks one question that needs no identity, and reads the answer's Date."""
    if url is None:
        return [judge.coordinator("", "")]
    try:
        async with asyncio.timeout(_LIMIT_S):
            head = await _head(Endpoint(url), ca_file)
    except TimeoutError:
        return _unreachable(url, f"no connection to {url} within {_LIMIT_S:.0f} s")
    except LinkError as fault:
        return _unreachable(url, fault.message)
    except ssl.SSLCertVerificationError as fault:
        return _unreachable(url, f"{url}: its certificate is refused: {fault.verify_message}")
    except OSError as fault:
        return _unreachable(url, f"{url}: {fault.strerror or fault}")
    return [judge.coordinator(url, ""), _offset(head)]


def _unreachable(url: str, fault: str) -> list[Finding]:
    return [judge.coordinator(url, fault), judge.clock_offset(None, "the coordinator is not reachable")]


async def _head(endpoint: Endpoint, ca_file: Path | None) -> str:
    target = endpoint.url("healthz")
    assert target.host is not None
    assert target.port is not None
    tls = client_context(ca_file) if endpoint.secure else None
    reader, writer = await asyncio.open_connection(target.host, target.port, ssl=tls, limit=_HEAD_BYTES)
    try:
        request = f"HEAD {target.raw_path} HTTP/1.1\r\nHost: {target.host}\r\nConnection: close\r\n\r\n"
        writer.write(request.encode())
        return (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        return ""  # it is there, but speaks no HTTP: the agent itself will say so better
    finally:
        writer.close()


def _offset(head: str) -> Finding:
    dates = [line[5:].strip() for line in head.split("\r\n") if line[:5].lower() == "date:"]
    if not dates:
        return judge.clock_offset(None, "the coordinator tells no Date")
    try:
        there = parsedate_to_datetime(dates[0]).timestamp()
    except ValueError:
        return judge.clock_offset(None, "the coordinator's Date is not readable")
    return judge.clock_offset(there + 0.5 - time.time(), "")  # Date is cut to whole seconds: half of one on average
