"""Bundles and tasks for the tests of programs."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import resource
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from agent.core.archive import END, Entry, head, padding
from agent.core.model import Blob, ExecInput, TaskSpec
from agent.core.program import RUNTIME, sign_bundle
from agent.edges.programs.stock import Stock
from agent.edges.signing import KeyPair
from tests import builders
from tests.patience import PATIENCE_S

PUBLISHER = KeyPair.generate()


def archive(files: dict[str, bytes], *, executable: bool = True) -> bytes:
    """What a publisher's tool makes of these files."""
    raw = b""
    for path, content in sorted(files.items()):
        raw += head(Entry(path.encode(), len(content), executable)) + content + bytes(padding(len(content)))
    return raw + END


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def blob(content: bytes) -> Blob:
    return Blob(sha256=sha256(content), bytes=len(content))


def program(bundle: bytes, *, keys: KeyPair = PUBLISHER, inputs: dict[str, bytes] | None = None, **changes: Any):
    """A program of this bundle, properly signed."""
    signed = sign_bundle(sha256(bundle), len(bundle), keys.public_key, keys.sign)
    named = {name: blob(content) for name, content in (inputs or {}).items()}
    return ExecInput(**{"bundle": signed, "argv": ("/bundle/run",), "inputs": named, **changes})


def task(asked: ExecInput) -> TaskSpec:
    return builders.task(task_input=asked, model=RUNTIME, max_tokens=0)


async def bring(stock: Stock, asked: ExecInput, *contents: bytes) -> None:
    """Put what the task lacks into the stock."""
    known = {sha256(content): content for content in contents}
    for name, size in stock.lacking(asked).items():
        with await stock.incoming(name, size) as incoming:
            incoming.write(known[incoming.sha256])
            await incoming.settle()


class HeldThreads(ThreadPoolExecutor):
    """The loop's threads, which wait for `go` before or after each piece of work."""

    def __init__(self, when: str) -> None:
        super().__init__(1)
        self._when = when
        self.waits, self.go = threading.Event(), threading.Event()

    def submit(self, work: Any, /, *args: Any, **named: Any) -> Future[Any]:
        return super().submit(self._held, work, *args, **named)

    async def until_one_waits(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not self.waits.is_set():
                await asyncio.sleep(0.001)

    def _held(self, work: Any, *args: Any, **named: Any) -> Any:
        if self._when == "before":
            self._wait()
        try:
            return work(*args, **named)
        finally:
            if self._when == "after":
                self._wait()

    def _wait(self) -> None:
        self.waits.set()
        assert self.go.wait(5)


@contextlib.contextmanager
def no_file_larger_than(limit_bytes: int) -> Iterator[None]:
    """For this process: a write beyond fails with EFBIG."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
