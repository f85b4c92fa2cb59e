"""A program's stdout, read only as fast as it is asked for and no further than allowed."""

from __future__ import annotations

import array
import asyncio
import fcntl
import os
import termios
from collections.abc import AsyncIterator, Callable

PIECE_BYTES = 64 << 10
"""Linux's default pipe holds as much; together they bound what one sandbox's output takes of our memory."""


class Output:
    """Reading end of a pipe with a bound on what comes through it.

    Nothing is read ahead: while nobody asks, the pipe fills and the program waits in its write.
    """

    def __init__(self, fd: int, limit: int, exceeded: Callable[[], None]) -> None:
        """`fd` is ours from now on; `exceeded` is called when more than `limit` bytes were read."""
        os.set_blocking(fd, False)
        self._fd = fd
        self._limit = limit
        self._exceeded = exceeded
        self._count = 0
        self._asked: asyncio.Future[None] | None = None

    async def pieces(self) -> AsyncIterator[bytes]:
        """What comes, up to the limit, until every writer is gone or `close` is called. One reader."""
        while self._count <= self._limit and (piece := await self._read()):
            room = self._limit - self._count
            self._count += len(piece)
            if len(piece) > room:
                self._exceeded()
                piece = piece[:room]
            if piece:
                yield piece

    def overrun(self) -> bool:
        """Whether more has come than allowed, what nobody read yet included."""
        return self._count + self._unread() > self._limit

    def close(self) -> None:
        """Give up what is unread; who reads comes to the end. Idempotent."""
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        if self._asked is not None:
            asyncio.get_running_loop().remove_reader(fd)
            self._wake()
        os.close(fd)

    async def _read(self) -> bytes:
        """An empty piece at the end."""
        while self._fd >= 0:
            try:
                return os.read(self._fd, PIECE_BYTES)
            except BlockingIOError:
                await self._readable()
        return b""

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        self._asked = loop.create_future()
        loop.add_reader(self._fd, self._wake)
        try:
            await self._asked
        finally:
            self._asked = None
            if self._fd >= 0:
                loop.remove_reader(self._fd)

    def _wake(self) -> None:
        if self._asked is not None and not self._asked.done():
            self._asked.set_result(None)

    def _unread(self) -> int:
        if self._fd < 0:
            return 0
        unread = array.array("i", [0])
        fcntl.ioctl(self._fd, termios.FIONREAD, unread)
        return unread[0]
