"""Connecting to a socket that lies in a directory a sandbox may write to.

The sandbox could replace its socket by a link to another one of the host, such as a container engine's. So the path is
opened without following links, what was opened is checked to be a socket, and exactly that is connected to.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp.client_exceptions import UnixClientConnectorError
from aiohttp.client_proto import ResponseHandler


async def connect(path: Path) -> socket.socket:
    """A non-blocking stream connected to the socket at `path`, whose directory is trusted down to its last part.

    Raises OSError; what is not a socket is refused as if nobody listened.
    """
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW)
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            raise ConnectionRefusedError(errno.ECONNREFUSED, "not a socket", str(path))
        return await _connected(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


async def _connected(address: str) -> socket.socket:
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        stream.setblocking(False)
        await asyncio.get_running_loop().sock_connect(stream, address)
    except BaseException:  # cancelled too: the descriptor must not leak
        stream.close()
        raise
    return stream


class SandboxConnector(aiohttp.UnixConnector):
    """For aiohttp.ClientSession: every new connection goes through `connect`. Make it inside a running loop."""

    def __init__(self, path: Path, **options: Any) -> None:
        super().__init__(str(path), **options)

    # aiohttp has no public way to hand it a connected socket; tests/edges/sandbox/test_sockets.py notices if this one
    # is no longer called.
    async def _create_connection(
        self, req: aiohttp.ClientRequest, _traces: list[Any], timeout: aiohttp.ClientTimeout
    ) -> ResponseHandler:
        try:
            async with asyncio.timeout(timeout.sock_connect):
                stream = await connect(Path(self.path))
                _, protocol = await self._loop.create_unix_connection(self._factory, sock=stream)
        except TimeoutError:
            raise
        except OSError as error:
            raise UnixClientConnectorError(self.path, req.connection_key, error) from error
        return protocol
