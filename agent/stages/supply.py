"""Supply: bring what a program needs, its bundle and its inputs, before it starts."""

from __future__ import annotations

import asyncio
from typing import Protocol

import structlog

from agent.core.errors import EngineError, LinkError, StorageError
from agent.core.model import ExecInput, LeaseKey, Reason
from agent.ports import Stock
from agent.stages.calls import Caller, passes

RETRY_CAP_S = 8.0
"""Retries are quick: the lease is held meanwhile, and its deadline ends them."""


class Supply:
    """One download at a time: several would only share the line, and make one another late."""

    def __init__(self, caller: Caller, stock: Stock) -> None:
        self._caller = caller
        self._stock = stock
        self._line = asyncio.Lock()
        self._log = structlog.get_logger("supply")

    async def bring(self, key: LeaseKey, task: ExecInput) -> None:
        """All that `task` needs is here when this returns. Raises EngineError."""
        async with self._line:
            for name, size in self._stock.lacking(task).items():
                try:
                    with await self._stock.incoming(name, size) as incoming:
                        await fetch(self._caller, incoming, size)
                        await incoming.settle()
                except StorageError as error:
                    reason = Reason.STORAGE_FULL if error.full else Reason.ENGINE_UNAVAILABLE
                    raise EngineError(reason, error.message, remedy=error.remedy) from error
                self._log.info("blob.brought", task=key.task_id, name=name, bytes=size)


class Taker(Protocol):
    """Where a blob goes."""

    @property
    def sha256(self) -> str: ...
    def write(self, piece: bytes) -> None: ...
    def restart(self) -> None: ...


async def fetch(caller: Caller, taker: Taker, size: int) -> None:
    """Bring a blob of at most `size` bytes, however often the line breaks. Raises EngineError, or as `taker` does."""
    failures = 0
    while True:
        try:
            return await caller.link.get_blob(taker.sha256, size, taker.write)
        except LinkError as error:
            if not passes(error):
                raise EngineError(Reason.BLOB_UNAVAILABLE, f"{taker.sha256}: {error.message}") from error
            await caller.back_off(failures, error, cap_s=RETRY_CAP_S)
            failures += 1
            taker.restart()
