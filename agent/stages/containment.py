"""One fault, one attempt: whatever goes wrong with one, even a bug of ours, ends that attempt and no other."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from agent.core import events as ev
from agent.core.attempt import Event
from agent.core.errors import EngineError
from agent.core.model import LeaseKey, Reason
from agent.stages.spine import Spine

_log = structlog.get_logger("attempt")


async def contained(spine: Spine, key: LeaseKey, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Do `work` for one attempt; a failure becomes its outcome. It is called only here: a task that is cancelled before
    it began leaves no coroutine behind that nobody awaits.
    """
    try:
        await work()
    except EngineError as error:
        spine.feed(ev.Happened(key=key, event=Event.FAILED, reason=error.reason, detail=str(error)))
    except Exception as error:  # noqa: BLE001  (a bug must not end the owner's other tasks; it is told in full)
        _log.exception("attempt.fault", task=key.task_id, attempt=key.attempt)
        detail = f"{type(error).__name__} in the agent; see its log"
        spine.feed(ev.Happened(key=key, event=Event.FAILED, reason=Reason.INTERNAL, detail=detail))
