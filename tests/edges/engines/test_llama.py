"""The real llama-server in the real sandbox, under supervision."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from agent.core.errors import EngineError, ModelError
from agent.core.model import (
    ChatInput,
    CompletionInput,
    EmbeddingInput,
    Message,
    Reason,
    Sampling,
    TaskInput,
    TaskKind,
    TaskSpec,
)
from agent.edges.clock import SystemClock
from agent.edges.engines.launch import LlamaSettings, find_llama_server
from agent.edges.engines.llama import EngineFacts, LlamaPool, Tempo
from agent.edges.engines.openai import Patience
from agent.edges.models.demo import CHAT_TEMPLATE
from agent.edges.sandbox.bubblewrap import Bubblewrap
from agent.edges.sandbox.oci.facts import EngineName
from agent.ports import EngineOutput, Finished, Limits, Piece, Vectors
from tests.calibrations import shelved
from tests.patience import PATIENCE_S
from tests.sandboxes import make_backend, require_sandbox
from tests.tiny_model import write_tiny_model

DIGEST = "sha256:" + "0" * 64
CHAT_PAGE = Path(__file__).parent / "question-answer.txt"
"""What the demo's template puts before the first question."""
TEMPO = Tempo(poll_s=0.05, health_every_s=0.1, health_s=0.2, misses=2, stop_s=0.2, restart_cap_s=0.1)
CHAT = ChatInput(messages=(Message(role="user", content="hello"),))


def task(given: TaskInput = CHAT, *, max_tokens: int = 8, seed: int = 7, stop: tuple[str, ...] = ()) -> TaskSpec:
    sampling = Sampling(seed=seed, stop=stop)
    return TaskSpec(task_id="t", model_digest="", input=given, sampling=sampling, max_tokens=max_tokens)


class Watched:
    """A pool that runs, and the history of what it told."""

    def __init__(self, pool: LlamaPool) -> None:
        self.pool = pool
        self.told: list[tuple[bool, str]] = []
        self._changed = asyncio.Condition()
        self._pending: set[asyncio.Task[None]] = set()
        self._running = asyncio.create_task(pool.run(self._note))

    def _note(self) -> None:
        self.told.append((self.pool.facts.ready, self.pool.facts.detail))
        wake = asyncio.create_task(self._wake())
        self._pending.add(wake)
        wake.add_done_callback(self._pending.discard)

    async def _wake(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def until(self, fact: Callable[[bool, str], bool]) -> str:
        """Wait for a state that was told from now on, or just now; returns its detail."""
        seen = max(len(self.told) - 1, 0)
        async with asyncio.timeout(PATIENCE_S), self._changed:
            await self._changed.wait_for(lambda: any(fact(*state) for state in self.told[seen:]))
        return next(detail for ready, detail in self.told[seen:] if fact(ready, detail))

    async def ready(self) -> None:
        await self.until(lambda ready, _: ready)

    async def ended(self) -> str:
        return await self.until(lambda ready, detail: not ready and "starting" not in detail)

    async def outputs(self, asked: TaskSpec) -> list[EngineOutput]:
        async with asyncio.timeout(PATIENCE_S):
            return [output async for output in self.pool.generate(asked)]

    async def close(self) -> None:
        self._running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._running


Start = Callable[..., Watched]


@pytest_asyncio.fixture
async def start(tiny_model: Path, short_dir: Path) -> AsyncIterator[Start]:
    await asyncio.to_thread(require_sandbox)
    started: list[Watched] = []

    async def measured() -> EngineFacts:
        return EngineFacts("e" * 64, "some processor")

    def make(**changes: Any) -> Watched:
        socket_dir = short_dir / f"pool{len(started)}"
        socket_dir.mkdir()
        measure = changes.pop("measure", measured)
        sandbox = changes.pop("sandbox", None) or Bubblewrap(short_dir)
        calibrations = changes.pop("calibrations", None)
        fields = {
            "name": "test",
            "binary": find_llama_server("auto"),
            "model": "tiny",
            "model_digest": DIGEST,
            "weights": tiny_model,
            "socket_dir": socket_dir,
            "slots": 2,
            "context_tokens": 512,
            "threads": 1,
            "limits": Limits(pids=64),
        } | changes
        pool = LlamaPool(
            LlamaSettings(**fields),
            sandbox=sandbox,
            clock=SystemClock(),
            measure=measure,
            calibrations=calibrations,
            top_logprobs=4,
            patience=Patience(idle_s=PATIENCE_S, first_token_s=PATIENCE_S),
            tempo=TEMPO,
            rand=lambda: 0.0,
        )
        started.append(Watched(pool))
        return started[-1]

    yield make
    for watched in started:
        await watched.close()


def engine_pid(watched: Watched) -> int:
    """The llama-server inside: the child of the sandbox's pid 1."""
    life = watched.pool._life  # the port has no pid on purpose
    assert life is not None
    return int(Path(f"/proc/{life.handle.pid}/task/{life.handle.pid}/children").read_text().split()[0])


async def test_a_chat_a_completion_and_what_the_pool_tells_of_itself(start: Start, tmp_path: Path) -> None:
    watched = start(calibrations=shelved(tmp_path, DIGEST))
    assert not watched.pool.facts.ready
    await watched.ready()
    facts = watched.pool.facts
    assert facts.engine.startswith("llama-server b")
    assert (facts.device, facts.slots, facts.context_tokens) == ("cpu", 2, 512)
    assert facts.determinism.startswith("F-")  # two slots: not bit-equal

    for given in (CHAT, CompletionInput(prompt="hello")):
        *pieces, finished = await watched.outputs(task(given))
        assert isinstance(finished, Finished)
        assert len(finished.prompt_sha256) == 64
        assert finished.usage.completion_tokens <= 8
        shown = [piece for piece in pieces if isinstance(piece, Piece) and piece.token_id is not None]
        assert shown
        assert all(len(piece.top_ids) == len(piece.top_logprobs) == 4 for piece in shown)
        assert all(list(piece.top_logprobs) == sorted(piece.top_logprobs, reverse=True) for piece in shown)


@pytest.mark.parametrize("name", [str(name) for name in EngineName])
async def test_an_engine_in_a_container_answers_the_same(start: Start, short_dir: Path, name: str) -> None:
    await asyncio.to_thread(require_sandbox, name)
    ours, contained = start(slots=1), start(slots=1, sandbox=make_backend(name, short_dir))
    for watched in (ours, contained):
        await watched.ready()
    first, again = [await watched.outputs(task(seed=7)) for watched in (ours, contained)]
    assert first == again
    os.kill(engine_pid(contained), signal.SIGKILL)
    await contained.ended()
    await contained.ready()


async def test_the_same_seed_gives_the_same_tokens_and_another_seed_others(start: Start) -> None:
    watched = start(slots=1)
    await watched.ready()
    assert watched.pool.facts.determinism.startswith("X-")
    first, again, other = [await watched.outputs(task(seed=seed, max_tokens=24)) for seed in (7, 7, 8)]
    assert first == again
    assert first[:-1] != other[:-1]


async def test_two_tasks_run_at_once_and_do_not_mix(start: Start) -> None:
    watched = start()
    await watched.ready()
    assert watched.pool.facts.determinism == "U"  # nobody measured how far several requests at once move it
    alone = await watched.outputs(task(max_tokens=200))
    long = [asyncio.create_task(watched.outputs(task(max_tokens=200))) for _ in range(2)]
    for got in await asyncio.gather(*long):
        assert isinstance(got[-1], Finished)
        assert got[-1].request_sha256 == alone[-1].request_sha256  # type: ignore[union-attr]


async def test_embeddings_come_from_a_pool_of_their_own(start: Start) -> None:
    # A generating model names no pooling of its own.
    watched = start(kinds=(TaskKind.EMBEDDING,), args=("--pooling", "mean"))
    await watched.ready()
    vectors, finished = await watched.outputs(task(EmbeddingInput(texts=("hello", "world"))))
    assert isinstance(vectors, Vectors)
    assert [len(row) for row in vectors.rows] == [32, 32]
    assert isinstance(finished, Finished)
    assert finished.usage.prompt_tokens > 0


def test_one_server_cannot_both_embed_and_generate(tiny_model: Path, short_dir: Path) -> None:
    with pytest.raises(ValueError, match="two pools"):
        LlamaSettings(
            name="x",
            binary=Path("/x"),
            model="m",
            model_digest="",
            weights=tiny_model,
            socket_dir=short_dir,
            kinds=(TaskKind.CHAT, TaskKind.EMBEDDING),
        )


async def test_a_prompt_of_no_tokens_is_declined(start: Start, tmp_path: Path) -> None:
    """The engine would say that max_tokens was reached before there was one: a lie that is its node's to answer for."""
    weights = write_tiny_model(tmp_path / "begins.gguf", begins=False)
    weights.chmod(0o644)
    watched = start(weights=weights)
    await watched.ready()
    await watched.pool.check(task(CompletionInput(prompt=" ")))
    with pytest.raises(EngineError) as refused:
        await watched.pool.check(task(CompletionInput(prompt="")))
    assert refused.value.reason is Reason.MALFORMED_OFFER


async def test_a_prompt_that_does_not_fit_is_told_before_the_lease(start: Start) -> None:
    watched = start()
    await watched.ready()
    await watched.pool.check(task(max_tokens=100))
    with pytest.raises(EngineError) as refused:
        await watched.pool.check(task(max_tokens=512))
    assert refused.value.reason is Reason.CONTEXT_TOO_LONG


async def test_the_demos_chat_template_renders_a_page_of_questions_and_answers(start: Start) -> None:
    watched = start(chat_template=CHAT_TEMPLATE, context_tokens=2048)
    await watched.ready()
    turns = (("user", "What is the sun?"), ("assistant", "A star."), ("user", " And the moon? "))
    chat = ChatInput(messages=tuple(Message(role=role, content=text) for role, text in turns))
    page = (
        CHAT_PAGE.read_text().rstrip("\n")
        + "\n\nQuestion: What is the sun?\nAnswer: A star.\n\nQuestion: And the moon?\nAnswer:"
    )
    *_, rendered = await watched.outputs(task(chat))
    *_, plain = await watched.outputs(task(CompletionInput(prompt=page)))
    assert isinstance(rendered, Finished)
    assert isinstance(plain, Finished)
    assert rendered.prompt_sha256 == plain.prompt_sha256 != ""


async def test_closing_a_generation_frees_its_slot(start: Start) -> None:
    watched = start(slots=1)
    await watched.ready()
    generation = watched.pool.generate(task(max_tokens=400))
    await anext(generation)
    await generation.aclose()
    assert isinstance((await watched.outputs(task(max_tokens=2)))[-1], Finished)


async def test_a_killed_engine_fails_its_tasks_says_why_and_comes_back(start: Start) -> None:
    watched = start()
    await watched.ready()
    generation = watched.pool.generate(task(max_tokens=480))
    await anext(generation)
    os.kill(engine_pid(watched), signal.SIGSTOP)  # so that it cannot finish before it dies
    os.kill(engine_pid(watched), signal.SIGKILL)
    with pytest.raises(EngineError) as crashed:
        async for _ in generation:
            pass
    assert crashed.value.reason is Reason.ENGINE_CRASHED
    assert "SIGKILL" in crashed.value.message
    assert "SIGKILL" in await watched.ended()
    await watched.ready()
    assert isinstance((await watched.outputs(task()))[-1], Finished)


async def test_an_engine_that_dies_while_it_repeats_a_claim_is_told_as_that(start: Start) -> None:
    watched = start()
    await watched.ready()

    async def killed_meanwhile() -> None:
        async with watched.pool.replayer() as replayer:
            assert await replayer.prompt_ids(CompletionInput(prompt="once"))
            os.kill(engine_pid(watched), signal.SIGKILL)
            await replayer.replay((1,), (300,) * 64, 4)

    with pytest.raises(EngineError) as crashed:
        await killed_meanwhile()
    assert crashed.value.reason is Reason.ENGINE_CRASHED
    await watched.ended()
    with pytest.raises(EngineError) as gone:
        async with watched.pool.replayer():
            pass
    assert gone.value.reason is Reason.ENGINE_UNAVAILABLE


async def test_an_engine_that_hangs_is_ended_and_started_anew(start: Start) -> None:
    watched = start()
    await watched.ready()
    stopped = engine_pid(watched)
    os.kill(stopped, signal.SIGSTOP)
    assert "stopped answering" in await watched.ended()
    await watched.ready()
    assert engine_pid(watched) != stopped


async def test_a_file_that_is_no_model_is_told_in_plain_words(start: Start, short_dir: Path) -> None:
    broken = short_dir / "broken.gguf"
    broken.write_bytes(b"not a model at all")
    broken.chmod(0o644)
    watched = start(weights=broken)
    detail = await watched.ended()
    assert "not a GGUF model" in detail or "could not load the model" in detail
    with pytest.raises(EngineError) as refused:
        await watched.outputs(task())
    assert refused.value.reason is Reason.ENGINE_UNAVAILABLE


async def test_a_crash_loop_keeps_telling_why_while_it_starts_again(start: Start) -> None:
    watched = start(args=("--no-such-flag",))
    again = await watched.until(lambda _, detail: "starting again" in detail)
    assert "--no-such-flag" in again


async def test_what_the_engine_leaves_in_its_socket_directory_does_not_stop_the_next_start(start: Start) -> None:
    watched = start()
    await watched.ready()
    life = watched.pool._life
    assert life is not None
    folder = next((watched.pool._settings.socket_dir).iterdir())
    (folder / "llm.sock").unlink()
    (folder / "llm.sock").mkdir()
    (folder / "llm.sock" / "rubbish").symlink_to("/etc")
    life.handle.kill()
    await watched.ended()
    await watched.ready()
    assert Path("/etc/passwd").exists()


async def test_an_unknown_argument_keeps_the_engines_own_words(start: Start) -> None:
    detail = await start(args=("--no-such-flag",)).ended()
    assert "--no-such-flag" in detail


async def test_a_model_that_changed_is_not_started_again(start: Start) -> None:
    async def refused() -> EngineFacts:
        raise ModelError("model tiny is sha256:1, expected sha256:2", remedy="Fetch the model again")

    detail = await start(measure=refused).ended()
    assert detail == "model tiny is sha256:1, expected sha256:2. Fetch the model again"


async def test_cancelling_the_pool_ends_the_engine_even_in_the_middle_of_a_task(start: Start) -> None:
    watched = start()
    await watched.ready()
    generation = watched.pool.generate(task(max_tokens=480))
    await anext(generation)
    pidfd = os.pidfd_open(engine_pid(watched))
    try:
        async with asyncio.timeout(PATIENCE_S):
            await watched.close()
        with pytest.raises(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, 0)
    finally:
        os.close(pidfd)
        await generation.aclose()


def test_an_engine_that_is_not_there_is_told_with_a_remedy() -> None:
    with pytest.raises(EngineError, match=r"no engine at /nowhere.*pools\.binary"):
        find_llama_server("/nowhere/llama-server")
