"""The link over plain requests: what always works, through every proxy. A pull is a long poll."""

from __future__ import annotations

import re
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress

import msgspec

from agent.core import wire
from agent.core.errors import LinkError
from agent.core.refusals import code_of
from agent.edges.link.describe import described
from agent.edges.link.dial import Answer, Dialer
from agent.edges.link.faults import broken, refused, too_large
from agent.edges.link.limits import LinkLimits
from agent.edges.link.mailbox import Mailbox
from agent.edges.link.session import Gate, Session, checked, greet, packed
from agent.edges.link.tls import Endpoint
from agent.ports import Clock, Greeter

_SHA256 = re.compile(r"[0-9a-f]{64}")


class HttpLink:
    """Implements `ports.Link` by long polling. Beats and pulls run in parallel over a kept-alive pool."""

    def __init__(
        self, url: str, greeter: Greeter, clock: Clock, *, tls: ssl.SSLContext | None = None, limits: LinkLimits
    ) -> None:
        """Raises LinkError(INSECURE) for plain text beyond loopback; nothing is sent before the first call."""
        self._dialer = Dialer(Endpoint(url), tls)
        self._greeter = greeter
        self._clock = clock
        self._limits = limits
        self._gate: Gate[Session] = Gate(self._greeted, lambda session: session.fresh(clock.monotonic()))
        self._mailbox = Mailbox()

    async def call(self, message: wire.UpMessage) -> wire.DownMessage:
        """Send and await the reply. Raises LinkError."""
        return await self._gate.run(lambda session: self._ask(session, message))

    async def post(self, message: wire.Chunk) -> None:
        """Send in an open session, and wait for the line so that chunks keep their order; lost when it fails."""
        if (session := self._gate.current) is not None:
            with suppress(LinkError):  # lossy by contract: the result carries the whole text
                await self._ask(session, message)

    async def put_blob(self, sha256: str, body: bytes) -> None:
        """Upload `body` under its own digest. Raises LinkError."""
        await self._gate.run(lambda session: upload(self._dialer, self._limits, session.token, sha256, body))

    async def get_blob(self, sha256: str, size: int, write: Callable[[bytes], None]) -> None:
        """Download a blob that a task of this node names. Raises LinkError."""
        await self._gate.run(lambda session: download(self._dialer, self._limits, session.token, sha256, size, write))

    def pushes(self) -> AsyncIterator[wire.Push]:
        """Silent: what the coordinator wants comes with the next beat. Ends when the link is closed."""
        return self._mailbox.read()

    def describe(self) -> Mapping[str, str]:
        """Transport, state, last fault and clock offset."""
        return described("poll", self._dialer.endpoint, self._gate, self._gate.current)

    async def close(self) -> None:
        """Give up what is under way; every waiting call raises CLOSED."""
        await self._gate.close()
        self._mailbox.close()
        await self._dialer.close()

    async def _greeted(self) -> Session:
        async def exchange(frame: wire.UpFrame) -> wire.DownFrame:
            return await self._post("hello", packed(frame), limit_s=self._limits.open_s)

        opening = await self._post("nonce", b"", limit_s=self._limits.open_s)
        return await greet(opening, exchange, self._greeter, self._clock, self._dialer.endpoint)

    async def _ask(self, session: Session, message: wire.UpMessage) -> wire.DownMessage:
        seq = session.next_seq()
        raw = packed(wire.UpFrame(seq=seq, msg=message))
        limit_s = self._limits.reply_limit_s(message)
        frame = await self._post(wire.tag_of(message), raw, limit_s=limit_s, token=session.token)
        return checked(frame, seq, message, self._dialer.endpoint)

    async def _post(self, route: str, raw: bytes, *, limit_s: float, token: str = "") -> wire.DownFrame:
        answer = await self._dialer.request("POST", route, raw, limit_s=limit_s, token=token)
        return read_answer(self._dialer, answer)


def read_answer(dialer: Dialer, answer: Answer) -> wire.DownFrame:
    """The frame in a response. Raises LinkError: REFUSED for a refusal, or for a bare status that says as much."""
    try:
        frame = wire.decode_down(answer.body)
    except msgspec.DecodeError as error:
        raise _no_frame(dialer, answer, error) from error
    if isinstance(frame.msg, wire.Refusal):
        raise refused(frame.msg, header_retry_s=answer.retry_after_s)
    if answer.status != 200:
        raise broken(dialer.endpoint, f"it answers HTTP {answer.status} with {wire.tag_of(frame.msg)}")
    return frame


def _no_frame(dialer: Dialer, answer: Answer, error: msgspec.DecodeError) -> LinkError:
    code = code_of(answer.status)
    if code is None:
        what = f"its answer is malformed ({error})" if answer.status == 200 else f"it answers HTTP {answer.status}"
        return broken(dialer.endpoint, what)
    bare = wire.Refusal(code=code, message=f"HTTP {answer.status}", retry_after_s=answer.retry_after_s)
    return refused(bare)


async def download(
    dialer: Dialer, limits: LinkLimits, token: str, sha256: str, size: int, write: Callable[[bytes], None]
) -> None:
    """`GET /v1/blobs/{sha256}`; the same for every transport. Raises LinkError, and what `write` raises."""
    limit_s = limits.blob_limit_s(size)
    answer = await dialer.download(f"blobs/{sha256}", write, most=size, limit_s=limit_s, token=token)
    if answer.status != 200:
        read_answer(dialer, answer)
        raise broken(dialer.endpoint, f"it answers a blob with HTTP {answer.status}")


async def upload(dialer: Dialer, limits: LinkLimits, token: str, sha256: str, body: bytes) -> None:
    """`PUT /v1/blobs/{sha256}`; the same for every transport. Raises LinkError."""
    if not _SHA256.fullmatch(sha256):
        raise ValueError(f"not a hex SHA-256: {sha256!r}")
    if len(body) > wire.MAX_BLOB_BYTES:
        raise too_large(len(body), wire.MAX_BLOB_BYTES)
    limit_s = limits.blob_limit_s(len(body))
    answer = await dialer.request(
        "PUT", f"blobs/{sha256}", body, limit_s=limit_s, token=token, content="application/octet-stream"
    )
    if answer.status not in (200, 201, 204):
        read_answer(dialer, answer)
        raise broken(dialer.endpoint, f"it answers a blob with HTTP {answer.status}")
