"""What `ask` and `submit` share: a coordinator, asked as its requester; tasks that are taken back when nobody waits."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import click
import msgspec

from agent.cli.options import Where
from agent.core.errors import AgentError, IdentityError, LinkError, LinkFault
from agent.core.text import counted, line
from agent.core.wire import ReceiptBundle, RefusalCode
from agent.devnet.core.rules import Refused
from agent.devnet.requester import Requester
from agent.edges.link.tls import Endpoint, client_context

TAKE_BACK_S = 5.0
"""For taking tasks back: a user who pressed Ctrl-C waits for no coordinator that is away."""
PATIENCE_S = 60.0
"""For a coordinator that answered and then does not: it may restart."""
RETRY = 75
"""EX_TEMPFAIL of sysexits(3)."""


class TryAgain(AgentError):
    """Not now, and perhaps later."""

    exit_code = RETRY


@asynccontextmanager
async def asking(where: Where) -> AsyncIterator[Requester]:
    """The requester's side of a coordinator. Raises AgentError, and what click shows, for all that it refuses."""
    endpoint = _endpoint(where.url)
    tls = client_context(where.ca_file) if endpoint.secure else None
    try:
        async with Requester(str(endpoint.url()), _token(where.token_file), tls=tls) as requester:
            yield requester
    except Refused as refused:
        raise _told(refused, where) from refused


def _endpoint(url: str) -> Endpoint:
    try:
        return Endpoint(url)
    except LinkError as error:
        wanted = "expected https://host[:port], or http:// on this machine"
        raise click.BadParameter(f"{line(error.message, 300)}; {wanted}", param_hint="--coordinator") from error


def _token(file: Path) -> str:
    try:
        token = file.read_text(encoding="utf-8").strip()
    except FileNotFoundError as error:
        told = f"{file} does not exist; a coordinator keeps it as requester.token in its state directory"
        raise click.BadParameter(told, param_hint="--token-file") from error
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "not text"
        raise IdentityError(f"{file} cannot be read: {why}", remedy="Ask as the user to whom it belongs") from error
    if not token.isprintable() or not token.isascii() or not token:
        raise IdentityError(f"{file} holds no token", remedy="It is the one line of the coordinator's requester.token")
    return token


def _told(refused: Refused, where: Where) -> AgentError:
    words = f"the coordinator refuses: {line(refused.message, 1000)}"
    match refused.code:
        case RefusalCode.BAD_TOKEN | RefusalCode.FORBIDDEN:
            return IdentityError(words, remedy=f"Is {where.token_file} from the coordinator at {where.url}?")
        case RefusalCode.BUSY | RefusalCode.INTERNAL:
            return TryAgain(words, remedy="Try again later")
        case _:
            return AgentError(words)


@asynccontextmanager
async def wanted(requester: Requester, tasks: Collection[str]) -> AsyncIterator[None]:
    """Whoever leaves early leaves no task behind: with Ctrl-C, because nobody reads what is written, or because the
    coordinator takes but a part of what was asked."""
    try:
        yield
    except (asyncio.CancelledError, OSError, Refused):
        if tasks:
            click.echo(await _take_back(requester, tasks), err=True)
        raise


async def submitted(requester: Requester, submitting: Coroutine[Any, Any, str]) -> str:
    """The id of the task that `submitting` queues: the coordinator may have it already when Ctrl-C is pressed."""
    asked = asyncio.ensure_future(submitting)
    try:
        return await asyncio.shield(asked)
    except asyncio.CancelledError:
        with contextlib.suppress(AgentError, Refused, TimeoutError):  # then there is none, or nobody knows of it
            async with asyncio.timeout(TAKE_BACK_S):
                click.echo(await _take_back(requester, (await asked,)), err=True)
        raise


async def _take_back(requester: Requester, tasks: Collection[str]) -> str:
    """What came of it, in words."""
    try:
        async with asyncio.timeout(TAKE_BACK_S):
            await asyncio.gather(*map(requester.cancel, tasks))
    except (AgentError, Refused, TimeoutError) as error:
        why = line(str(error), 200) or "no answer"
        return f"{counted(len(tasks), 'task')} may go on: the coordinator was not told ({why})"
    return f"cancelled {counted(len(tasks), 'task')}"


class Outage:
    """Says once that the coordinator is away, and gives up when it stays away."""

    def __init__(self, task_id: str) -> None:
        self._task_id = task_id
        self._since: float | None = None

    def over(self) -> None:
        """It was heard."""
        self._since = None

    def lost(self, why: str) -> None:
        """It was not, again. Raises LinkError(UNREACHABLE)."""
        now = asyncio.get_running_loop().time()
        if self._since is None:
            self._since = now
            click.echo(f"the coordinator does not answer ({line(why, 200)}); trying again", err=True)
        if now - self._since > PATIENCE_S:
            told = f"the coordinator was away for {PATIENCE_S:.0f} s; task {self._task_id} may go on without you"
            raise LinkError(LinkFault.UNREACHABLE, told)


def write_receipt(bundle: ReceiptBundle, file: Path) -> None:
    """For `gpu-agent verify`. Raises OSError."""
    file.write_bytes(msgspec.json.format(msgspec.json.encode(bundle), indent=2) + b"\n")
