"""The coordinator."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Protocol

from agent.core import wire


class Link(Protocol):
    """The coordinator. Opens and re-opens its session by itself, through the Greeter."""

    async def call(self, message: wire.UpMessage) -> wire.DownMessage:
        """Send and await the reply. Raises LinkError; a Refusal is raised as LinkFault.REFUSED."""
        ...

    async def post(self, message: wire.Chunk) -> None:
        """Send without a reply; may be lost."""
        ...

    async def put_blob(self, sha256: str, body: bytes) -> None:
        """Idempotent upload. Raises LinkError."""
        ...

    async def get_blob(self, sha256: str, size: int, write: Callable[[bytes], None]) -> None:
        """Download a blob that a task of this node names, at most `size` bytes of it. Raises LinkError.

        `write` gets the pieces; what it raises ends the download.
        """
        ...

    def pushes(self) -> AsyncIterator[wire.Push]:
        """What the coordinator sends unasked; ends when the link is closed."""
        ...

    def describe(self) -> Mapping[str, str]:
        """Transport, state, last fault and clock offset, for status."""
        ...

    async def close(self) -> None: ...


class Greeter(Protocol):
    """What a link needs to open a session; the node implements it."""

    def hello(self, nonce: str) -> wire.Hello: ...
    def welcomed(self, hello: wire.Hello, welcome: wire.Welcome) -> None:
        """`hello` is the one that was answered: two sessions may be opening at once."""
        ...
