"""Supply: bring what a program needs, its bundle and its inputs, before it starts."""

from __future__ import annotations

import asyncio

import structlog

from agent.core.errors import EngineError, LinkError, StorageError
from agent.core.model import ExecInput, LeaseKey, Reason
from agent.ports import Incoming, Stock
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
                        await self._fetch(incoming, size)
                        await incoming.settle()
                except StorageError as error:
                    reason = Reason.STORAGE_FULL if error.full else Reason.ENGINE_UNAVAILABLE
                    raise EngineError(reason, error.message, remedy=error.remedy) from error
                self._log.info("blob.brought", task=key.task_id, name=name, bytes=size)

    async def _fetch(self, incoming: Incoming, size: int) -> None:
        failures = 0
        while True:
            try:
                return await self._caller.link.get_blob(incoming.sha256, size, incoming.write)
            except LinkError as error:
                if not passes(error):
                    raise EngineError(Reason.BLOB_UNAVAILABLE, f"{incoming.sha256}: {error.message}") from error
                await self._caller.back_off(failures, error, cap_s=RETRY_CAP_S)
                failures += 1
                incoming.restart()
