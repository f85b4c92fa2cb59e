"""Waiting for file descriptors on the running loop."""

from __future__ import annotations

import asyncio
import os


async def readable(fd: int) -> None:
    """Until `fd` is readable, at its end, or in error. On a pidfd: until the process is dead. On the writing end of a
    pipe: until nobody holds the reading end."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        loop.remove_reader(fd)
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(fd, wake)
    try:
        await ready
    finally:
        loop.remove_reader(fd)


async def writable(fd: int) -> None:
    """Until `fd` takes a byte, or nobody holds the other end."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        loop.remove_writer(fd)
        if not ready.done():
            ready.set_result(None)

    loop.add_writer(fd, wake)
    try:
        await ready
    finally:
        loop.remove_writer(fd)


async def read_until(fd: int, end: bytes, limit: int) -> bytes:
    """What comes until it ends with `end`, the other side closes, or `limit` bytes are there."""
    received = b""
    while len(received) < limit and not received.endswith(end):
        await readable(fd)
        chunk = os.read(fd, limit - len(received))
        if not chunk:
            break
        received += chunk
    return received


class Tail(asyncio.Protocol):
    """Reads a pipe to its end and keeps the last `limit` bytes, however much comes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept = bytearray()
        self._cut = False
        self.closed = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self._kept += data
        if len(self._kept) > 2 * self._limit:
            self._trim()

    def connection_lost(self, _exc: Exception | None) -> None:
        self.closed.set()

    def read(self) -> bytes:
        """The tail; whole lines only, where something before it was dropped."""
        if len(self._kept) > self._limit:
            self._trim()
        if not self._cut:
            return bytes(self._kept)
        _, newline, rest = self._kept.partition(b"\n")
        return bytes(rest if newline and rest else self._kept)

    def _trim(self) -> None:
        del self._kept[: -self._limit or None]
        self._cut = True
