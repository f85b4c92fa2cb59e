"""The demo's play: parts, coordinator, node, tasks, summary."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import shlex
import signal
import time
from pathlib import Path

from agent.cli.demo.daemon import Daemon
from agent.cli.demo.narrator import Narrator
from agent.cli.demo.parts import Home, close_home, find_engine, get_model, open_home, write_config
from agent.cli.demo.proofs import RULES, ProofAct
from agent.cli.demo.screen import Screen
from agent.cli.demo.tasks import QUESTIONS, Done, Tasks
from agent.core.errors import AgentError
from agent.devnet.coordinator import Coordinator, Options
from agent.devnet.core.rules import Rules
from agent.devnet.requester import Requester
from agent.devnet.views import NodeView

READY_LIMIT_S = 180.0
"""A slow machine reads the model for a minute."""
POLL_S = 0.1
BEAT_S = 2.0
"""Brisk, so that nothing that is to be watched waits for a heartbeat."""
STOP_LIMIT_S = 90.0


async def play(*, keep: bool) -> int:
    """Returns the exit status."""
    screen, interrupted = Screen(), asyncio.Event()
    _listen_for_the_end(interrupted if keep else None)
    screen.title("gpu-agent demo: probe → advertise → pull → execute → prove → report, on this machine, for real")
    home = open_home()
    try:
        screen.act("Parts")
        find_engine(screen)
        weights = await get_model(home, screen)
        _log_to(home.home / "coordinator.log")
        options = Options(rules=Rules(beat_s=BEAT_S, proofs=RULES))
        async with Coordinator(home.home / "coordinator", options=options) as coordinator:
            return await _with_coordinator(screen, home, coordinator, weights, interrupted if keep else None)
    finally:
        close_home(home)


def _log_to(path: Path) -> None:
    """The embedded coordinator's log; the play tells in its own words what there is to see."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("agent.devnet")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


def _listen_for_the_end(interrupted: asyncio.Event | None) -> None:
    """Ctrl-C sets `interrupted`, or without it ends the demo at once; SIGTERM does. Its nodes never outlive it."""
    loop, played = asyncio.get_running_loop(), asyncio.current_task()
    assert played is not None
    loop.add_signal_handler(signal.SIGINT, interrupted.set if interrupted else played.cancel)
    loop.add_signal_handler(signal.SIGTERM, played.cancel)


async def _with_coordinator(
    screen: Screen, home: Home, coordinator: Coordinator, weights: Path, until: asyncio.Event | None
) -> int:
    screen.act("Coordinator, embedded")
    screen.fact("serving", f"{coordinator.url}, key {coordinator.public_key[:16]}…")
    screen.act("Node: the agent daemon, as a process of its own")
    narrator = Narrator(screen)
    config = write_config(home, coordinator.url, coordinator.enrol_token(), weights)
    daemon = Daemon(config, home.home / "agent.log", narrator.hear)
    await daemon.start()
    try:
        async with Requester(coordinator.url, coordinator.requester_token) as requester:
            node = await _registered(requester, daemon)
            _show_sandbox(screen, node)
            narrator.quiet = True
            tasks = Tasks(requester, screen, node, coordinator.public_key, home.home / "receipts")
            done = await _answer(screen, tasks, until)
            act = ProofAct(screen, home, coordinator, requester, tasks, node)
            proven = until is not None or await act.play(weights)
            return await _summary(screen, requester, daemon, home, done, proven=proven, keep=until is not None)
    finally:
        status = await daemon.stop(STOP_LIMIT_S)
        screen.fact("stopped", f"the agent drained and left with status {status}", "ok" if status == 0 else "bad")


async def _registered(requester: Requester, daemon: Daemon) -> NodeView:
    """Wait until the coordinator knows a node with a ready pool. Raises AgentError when the agent ends before."""
    deadline = time.monotonic() + READY_LIMIT_S
    while time.monotonic() < deadline and not daemon.ended:
        for node in (await requester.nodes()).nodes:
            if node.fingerprint is not None and any(pool.ready for pool in node.fingerprint.pools):
                return node
        await asyncio.sleep(POLL_S)
    what = "ended" if daemon.ended else f"was not ready within {READY_LIMIT_S:.0f} s"
    raise AgentError(f"the agent {what}; its last lines:\n{daemon.last_words()}", remedy="Try `./run doctor`")


def _show_sandbox(screen: Screen, node: NodeView) -> None:
    if node.fingerprint is None:
        return
    facts = node.fingerprint.sandbox
    enforced = ", ".join(limit.limit for limit in facts.limits if limit.enforced)
    screen.fact("sandboxed", f"{facts.backend}; enforced here: {enforced}")
    if missing := ", ".join(limit.limit for limit in facts.limits if not limit.enforced):
        screen.fact("", f"not enforceable here: {missing}", "note")
    cpu = node.fingerprint.cpu
    screen.fact(
        "registered", f"{node.node_id}: {cpu.model}, {cpu.threads} threads; {node.fingerprint.pools[0].slots} slots"
    )


async def _answer(screen: Screen, tasks: Tasks, until: asyncio.Event | None) -> list[Done]:
    screen.act("Tasks" + (", until Ctrl-C" if until else ""))
    if until is None:
        done = [await tasks.ask(question) for question in QUESTIONS[:-2]]
        return [*done, *await tasks.ask_at_once(QUESTIONS[-2:])]
    done = []
    for question in itertools.cycle(QUESTIONS):
        done.append(await tasks.ask(question))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await until.wait()
        if until.is_set():
            return done
    return done


async def _summary(
    screen: Screen, requester: Requester, daemon: Daemon, home: Home, done: list[Done], *, proven: bool, keep: bool
) -> int:
    screen.act("Summary")
    ledger = await requester.ledger()
    good = sum(one.verified for one in done)
    tokens = sum(one.tokens for one in done)
    failed = good < len(done) or daemon.ended or not proven
    screen.fact(
        "answered",
        f"{good} of {len(done)} tasks, {tokens} tokens, every receipt verified offline",
        "bad" if failed else "ok",
    )
    if not keep:
        told = "the honest answer passed, the cheat was caught" if proven else "not as it should be: see above"
        screen.fact("proved", told, "ok" if proven else "bad")
    earned = sum(line.amount_micros for line in ledger.lines if line.amount_micros > 0) / 1e6
    screen.fact("ledger", f"{len(ledger.lines)} lines, {earned:.6f} {ledger.currency} earned")
    for one in [one for one in done if one.verified][:1]:
        screen.fact("look", shlex.join(("./run", "verify", str(home.home / "receipts" / f"{one.task_id}.json"))), "do")
    screen.fact("", f"{home.home / 'agent.log'}, and coordinator.log beside it", "do")
    if not keep:
        screen.fact("stay", "./run demo --keep goes on until Ctrl-C", "do")
    return 1 if failed else 0
