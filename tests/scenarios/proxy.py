"""The network between one node and its coordinator, in a test's hand: cut, silent, one-way, slow, held."""

from __future__ import annotations

import asyncio
import re
import time
from urllib.parse import urlsplit

_POST = re.compile(rb"^POST (/\S+) HTTP")


class Hold:
    """Stops one kind of call on the long-poll transport: before the coordinator sees it, or before it answers."""

    def __init__(self, path: str, *, before: bool) -> None:
        self.path = path
        self.before = before
        self.caught = asyncio.Event()
        """A call stands still now. With `before` unset, the coordinator has acted on it."""
        self.go = asyncio.Event()


class Proxy:
    """Forwards TCP to `target` (http://host:port)."""

    def __init__(self, target: str) -> None:
        self._target = urlsplit(target)
        self._pipes: set[asyncio.Task[None]] = set()
        self._ends: set[asyncio.StreamWriter] = set()
        self._holds: list[Hold] = []
        self._up, self._down = asyncio.Event(), asyncio.Event()
        self.refusing = False
        """New connections are closed at once."""
        self.delay_s = 0.0
        self.posts: list[tuple[float, str]] = []
        """Monotonic time and path of every call on the long-poll transport."""
        self.heal()

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self._server.close()
        self.reset()
        for pipe in self._pipes:
            pipe.cancel()
        await asyncio.gather(*self._pipes, return_exceptions=True)

    # ------------------------------------------------------------------ faults

    def heal(self) -> None:
        """Let everything pass again; what was held back arrives late, as after a retransmission."""
        self.refusing, self.delay_s = False, 0.0
        self._up.set()
        self._down.set()

    def reset(self) -> None:
        """Break every connection; what was held back is lost."""
        for end in self._ends:
            end.transport.abort()

    def cut(self) -> None:
        """No connection stands and none can be made."""
        self.refusing = True
        self.reset()

    def silence(self, *, up: bool = True, down: bool = True) -> None:
        """Swallow bytes: `up` what the node says, `down` what the coordinator answers. Connections stay."""
        if up:
            self._up.clear()
        if down:
            self._down.clear()

    def hold(self, path: str, *, before: bool = False) -> Hold:
        """Stop calls of this path from now on, until `go` is set or the connection breaks."""
        hold = Hold(path, before=before)
        self._holds.append(hold)
        return hold

    # ------------------------------------------------------------------ forwarding

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pipe = asyncio.create_task(self._carry(reader, writer))
        self._pipes.add(pipe)
        pipe.add_done_callback(self._pipes.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._ends.add(writer)
        try:
            if not self.refusing:
                await self._join(reader, writer)
        except OSError:
            pass  # the coordinator is down, or either side went: that is what this is for
        finally:
            writer.transport.abort()
            self._ends.discard(writer)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(self._target.hostname, self._target.port)
        self._ends.add(far_writer)
        talk = _Talk(self)
        try:
            async with asyncio.TaskGroup() as group:
                ways = [
                    group.create_task(self._pass(reader, far_writer, self._up, talk.said)),
                    group.create_task(self._pass(far_reader, writer, self._down, talk.answered)),
                ]
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                for way in ways:
                    way.cancel()
        except* OSError:
            pass
        finally:
            far_writer.transport.abort()
            self._ends.discard(far_writer)

    async def _pass(self, source, sink, way, look) -> None:
        while data := await source.read(1 << 16):
            await look(data)
            await way.wait()
            if self.delay_s:
                await asyncio.sleep(self.delay_s)  # the fault itself: a slow line
            sink.write(data)
            await sink.drain()


class _Talk:
    """One connection's place in its HTTP conversation."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._path = ""

    async def said(self, data: bytes) -> None:
        if found := _POST.match(data):
            self._path = found[1].decode()
            self._proxy.posts.append((time.monotonic(), self._path))
        await self._stop(before=True)

    async def answered(self, _data: bytes) -> None:
        await self._stop(before=False)

    async def _stop(self, *, before: bool) -> None:
        for hold in self._proxy._holds:
            if hold.path == self._path and hold.before is before and not hold.go.is_set():
                hold.caught.set()
                await hold.go.wait()
