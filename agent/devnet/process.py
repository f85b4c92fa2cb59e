"""The coordinator as a process: announces itself, serves, and stops on SIGTERM."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from pathlib import Path

from agent.core.errors import FORBIDDEN, StorageError
from agent.core.model import Value
from agent.devnet.coordinator import Coordinator, Options
from agent.devnet.core.rules import ProofRules
from agent.devnet.keys import write_secret


class Serving(Value):
    """What to serve, and from where."""

    state_dir: Path
    host: str
    port: int
    options: Options
    token_file: Path | None = None


class TokenFileError(StorageError):
    """The enrolment token cannot be put where it was asked for: nobody could join."""

    exit_code = 69


class TokenFileForbiddenError(TokenFileError):
    """The user may not write it."""

    exit_code = FORBIDDEN


def serve(serving: Serving, say: Callable[[str], object]) -> None:
    """Serve until SIGTERM or SIGINT; `say` prints a line. Raises AgentError when it cannot start or go on."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    logging.getLogger("agent.devnet").setLevel(logging.INFO)  # what was judged, good or bad, and why
    asyncio.run(_serve(serving, say))


async def _serve(serving: Serving, say: Callable[[str], object]) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    coordinator = Coordinator(serving.state_dir, host=serving.host, port=serving.port, options=serving.options)
    async with coordinator:
        if serving.token_file:
            _write_token(serving.token_file, coordinator.enrol_token())
        for line in _announcement(coordinator, serving):
            say(line)
        waits = [asyncio.create_task(event.wait()) for event in (stopped, coordinator.failed)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
    if coordinator.failed.is_set():
        raise coordinator.desk.fault or StorageError("the state could not be written")
    say("stopped; every accepted task and result is on the disk")


def _write_token(path: Path, token: str) -> None:
    """Raises TokenFileError."""
    try:
        write_secret(path, token)
    except OSError as error:
        remedy = "Name a --token-file in a directory that you may write to"
        fault = TokenFileForbiddenError if isinstance(error, PermissionError) else TokenFileError
        raise fault(f"cannot write {path}: {error.strerror}", remedy=remedy) from error


def _announcement(coordinator: Coordinator, serving: Serving) -> list[str]:
    token = serving.state_dir / "requester.token"
    making = f'curl -X POST -H "Authorization: Bearer $(cat {token})" {coordinator.url}/v1/enrol-tokens'
    return [
        f"serving {coordinator.url}",
        f"coordinator key {coordinator.public_key}",
        f"requester token in {token}",
        f"to ask: gpu-agent ask --coordinator {coordinator.url} --token-file {token} QUESTION",
        f"enrolment token in {serving.token_file}" if serving.token_file else f"to make an enrolment token: {making}",
        _challenges(serving.options.rules.proofs),
    ]


def _challenges(rules: ProofRules) -> str:
    if not rules.rate_micros:
        return "no result is challenged"
    return f"{rules.rate_micros / 10_000:g} % of results are challenged, drawn by {rules.beacon.value}"
