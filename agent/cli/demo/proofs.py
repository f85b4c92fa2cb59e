"""The demo's proof: an answer that another node checks, and a node that cheats and is caught."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import msgspec

from agent.cli.demo.daemon import Daemon, Line
from agent.cli.demo.narrator import Narrator
from agent.cli.demo.parts import Home, write_config
from agent.cli.demo.screen import Screen
from agent.cli.demo.tasks import Done, Tasks
from agent.core.errors import AgentError
from agent.core.model import TaskKind
from agent.core.payloads import Judgement
from agent.devnet.coordinator import Coordinator
from agent.devnet.core.asking import SamplingAsked
from agent.devnet.core.rules import ProofRules
from agent.devnet.proof_views import CaseView, Stage, TaskProof
from agent.devnet.requester import Requester
from agent.devnet.views import NodeView
from agent.edges.models import demo as demo_model
from agent.edges.models.quantised import quantised

RULES = ProofRules(epoch_s=2.0, leaves=2, validators=1, escalations=0, suspicions=1, canary_micros=0)
"""So that everything can be watched: one look by one other node decides."""
ALWAYS_MICROS = 1_000_000
CHEAPER = "Q2_K"
QUESTIONS = ("Tell me a story about a fox who learns to count.", "Tell me a story about a lighthouse in a storm.")
SAMPLED, TOKENS = SamplingAsked(), 64
NEIGHBOUR, CHEAT = "neighbour", "cheat"
LIMIT_S = 180.0
POLL_S = 0.2
STOP_LIMIT_S = 30.0


class ProofAct:
    """Needs a node that answers and validates."""

    def __init__(
        self, screen: Screen, home: Home, coordinator: Coordinator, requester: Requester, tasks: Tasks, first: NodeView
    ) -> None:
        self._screen = screen
        self._home = home
        self._coordinator = coordinator
        self._requester = requester
        self._tasks = tasks
        self._first = first
        self._names = {first.node_id: first.name}

    async def play(self, weights: Path) -> bool:
        """Whether the honest node passed and the dishonest one was caught."""
        self._screen.act("Proof: is the answer the model's? Another node checks")
        async with self._node(weights, NEIGHBOUR) as neighbour:
            self._coordinator.sample(ALWAYS_MICROS)
            self._screen.fact("sampling", "from now on every result is challenged (normally about 3 in 100)", "note")
            passed = await self._checked(QUESTIONS[0]) is Judgement.PASSED
            self._screen.act("A cheat: a node that runs cheaper weights than it was paid for")
            caught = await self._catch(weights, [self._first, neighbour])
        return passed and caught

    async def _catch(self, weights: Path, honest: Sequence[NodeView]) -> bool:
        cheaper = await asyncio.to_thread(quantised, weights, CHEAPER, self._home.cache / "models")
        self._screen.fact("weights", f"{CHEAPER} of the same model: smaller, faster, and worse", "note")
        async with self._node(cheaper, CHEAT, self._lies()):
            async with self._paused(honest):  # so that the question goes to the cheat
                done = await self._tasks.ask(QUESTIONS[1], SAMPLED, TOKENS)
            self._screen.fact("", "seed, signatures and commitment are all in order: only the model can tell", "note")
            caught = await self._verdict(done) is Judgement.FAILED
            repeated = (
                "--model",
                weights,
                "--model-name",
                demo_model.NAME,
                "--chat-template",
                demo_model.CHAT_TEMPLATE,
            )
            line = ("./run", "verify", self._kept(done.task_id), *repeated, "--threads", "1")
            self._screen.fact("repeat it", shlex.join(map(str, line)), "do")
            return caught

    def _lies(self) -> tuple[str, ...]:
        """The dishonest agent, and what it claims: just what the honest node is."""
        assert self._first.fingerprint is not None
        pool = self._first.fingerprint.pools[0]
        return ("agent.cli.demo.cheat", "--digest", pool.model_digest, "--determinism", pool.determinism)

    # ------------------------------------------------------------------ nodes

    @contextlib.asynccontextmanager
    async def _node(self, weights: Path, name: str, run: Sequence[str] = ("agent", "run")) -> AsyncIterator[NodeView]:
        """Another node, as long as this is entered."""
        token = self._coordinator.enrol_token()
        config = write_config(self._home, self._coordinator.url, token, weights, name, validates=name == NEIGHBOUR)
        narrator = Narrator(self._screen, name)
        narrator.quiet = True
        heard = _nothing if name == CHEAT else narrator.hear  # what it has to complain of is no trouble of ours
        daemon = Daemon(config, self._home.home / f"{name}.log", heard, run)
        await daemon.start()
        try:
            node = await self._seen(lambda it: it.name == name and _serves(it), daemon)
            assert node.fingerprint is not None
            checks = ", checks what others claim" if TaskKind.VERIFY in node.fingerprint.pools[0].kinds else ""
            self._names[node.node_id] = name
            self._screen.fact("joined", f"{name}, {node.node_id}: claims the same model{checks}")
            yield node
        finally:
            await daemon.stop(STOP_LIMIT_S)

    @contextlib.asynccontextmanager
    async def _paused(self, nodes: Sequence[NodeView]) -> AsyncIterator[None]:
        for node in nodes:
            self._coordinator.direct(node.node_id, "pause")
        for node in nodes:
            await self._seen(_is(node, "paused"))
        try:
            yield
        finally:
            for node in nodes:
                self._coordinator.direct(node.node_id, "resume")

    async def _seen(self, matches: Callable[[NodeView], bool], daemon: Daemon | None = None) -> NodeView:
        """The node that matches, as soon as there is one. Raises AgentError."""
        try:
            async with asyncio.timeout(LIMIT_S):
                while daemon is None or not daemon.ended:
                    for node in (await self._requester.nodes()).nodes:
                        if matches(node):
                            return node
                    await asyncio.sleep(POLL_S)
        except TimeoutError as error:
            raise AgentError("a node did not do as it was told in time", remedy="See the logs in the folder") from error
        assert daemon is not None
        raise AgentError(f"a node ended; its last lines:\n{daemon.last_words()}", remedy="Try `./run doctor`")

    # ------------------------------------------------------------------ cases

    async def _checked(self, question: str) -> Judgement | None:
        return await self._verdict(await self._tasks.ask(question, SAMPLED, TOKENS))

    async def _verdict(self, done: Done) -> Judgement | None:
        """Follow a result's case to its end; None when it did not come to one in time."""
        told: set[Stage] = set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LIMIT_S):
                while True:
                    proof = (await self._requester.task(done.task_id)).proof
                    if proof is not None and proof.stage not in told:
                        told.add(proof.stage)
                        self._tell(done, proof)
                    if proof is not None and proof.stage is Stage.JUDGED:
                        return await self._judged(done)
                    await asyncio.sleep(POLL_S)
        self._screen.fact("no verdict", f"within {LIMIT_S:.0f} s", "bad")
        return None

    def _tell(self, done: Done, proof: TaskProof) -> None:
        match proof.stage:
            case Stage.PROMISED:
                self._screen.fact("committed", "before anybody knows what the beacon will draw", "do")
            case Stage.CHALLENGED:
                self._screen.fact(
                    "challenged", f"the beacon drew it: {self._names[done.node_id]} must open its transcript", "do"
                )
            case Stage.CHECKING:
                self._screen.fact("opened", "it is what was committed to; another node repeats what was drawn", "do")
            case Stage.REVEALING:
                self._screen.fact("sealed", "the validator has committed to its verdict, and is asked to show it", "do")
            case _:
                pass

    async def _judged(self, done: Done) -> Judgement | None:
        case = await self._case(done.task_id)
        by = ", ".join(self._names.get(node_id, node_id) for node_id in case.validators) or "the coordinator"
        if case.judgement is Judgement.PASSED:
            self._screen.fact("passed", f"checked by {by}: this model says these tokens, seed and end are right")
        else:
            self._doubted(case, by)
            standings = (await self._requester.proofs()).standings
            stake = next(it.stake_micros for it in standings if it.node_id == done.node_id) / 1e6
            left = f"{stake:g} of {RULES.stake_micros / 1e6:g} are left"
            self._screen.fact("", f"{self._names[done.node_id]} loses stake: {left}", "note")
        await self._keep(done.task_id)
        return case.judgement

    def _doubted(self, case: CaseView, by: str) -> None:
        caught = case.judgement is Judgement.FAILED
        how = ", who ran the paid model on the same words: they are not what it would have said"
        says = f"by {by}{how if case.validators else ''}"
        self._screen.fact("caught" if caught else "judged", says, "ok" if caught else "bad")
        self._screen.fact("", case.detail, "note")
        if caught:
            self._screen.fact("", "in the demo one suspicion by one validator is enough", "note")

    async def _keep(self, task_id: str) -> None:
        """The receipt with what was opened, for anybody to check."""
        bundle = await self._requester.proof(task_id)
        path = self._kept(task_id)
        await asyncio.to_thread(_write, path, msgspec.json.encode(bundle))
        self._screen.fact("look", f"./run verify {shlex.quote(str(path))}", "do")

    def _kept(self, task_id: str) -> Path:
        return self._home.home / "proofs" / f"{task_id}.json"

    async def _case(self, task_id: str) -> CaseView:
        return next(case for case in (await self._requester.proofs()).cases if case.task_id == task_id)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)


def _nothing(_line: Line) -> None:
    pass


def _serves(node: NodeView) -> bool:
    return node.fingerprint is not None and any(pool.ready for pool in node.fingerprint.pools)


def _is(node: NodeView, state: str) -> Callable[[NodeView], bool]:
    return lambda it: it.node_id == node.node_id and it.state == state
