"""What proofs cost where: in the engine, in the agent, on the wire, on the disk, and at who checks them."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from agent.core import engine_replies, engines, wire
from agent.core.checks.claims import Sampler, positions
from agent.core.checks.sampling import check_sampling
from agent.core.engine_stream import Answer, SseReader
from agent.core.model import FinishReason, Usage
from agent.core.proof.commitment import commit
from agent.core.proof.drawing import drawn_leaves
from agent.core.proof.header import ProofKind, header_of
from agent.core.proof.leaves import join_leaves, read_leaf
from agent.core.proof.transcript import Transcript, TranscriptBuilder
from agent.edges.models.demo import NAME, assemble_demo_model
from agent.edges.models.store import ModelStore
from agent.edges.segments.records import packed
from agent.edges.verifier.llama import LlamaReplayer
from agent.ports import Piece
from tests import builders
from tests.bench.asking import TOP, Round, pair
from tests.bench.asking import rows as asking_rows
from tests.bench.bare import Engine, Generated, bare_engine, generate
from tests.bench.table import Row, at_most

PROMPT = "Here is a long story about a fox who wanted to learn how to count, and what became of it.\n\n"
BEACON, ROOT = bytes(32), "00" * 32
CHALLENGED_LEAVES = 4
PER = 1024
"""Tokens that figures of the agent are told for."""


async def measure(rounds: int, *, long: bool) -> list[Row]:
    """All figures, on gemma-3-270m. `long`: also a challenge of an answer with 512 tokens."""
    with tempfile.TemporaryDirectory() as home:
        cache = Path(home)
        weights = await assemble_demo_model(cache, ModelStore(cache), lambda *_: None)
        async with bare_engine(weights, cache / "llm.sock") as engine:
            prompt = engine_replies.token_ids(await engine.http.exchange("/tokenize", engines.tokenize_request(PROMPT)))
            pairs = [await pair(engine, prompt[:2]) for _ in range(12 * rounds)]
            rows = asking_rows(NAME, 262_144, [Round((one,), one) for one in pairs])
            asked = await generate(engine, prompt, 128, TOP)
            pieces = _pieces(asked.events)
            rows += [*_agent(asked, pieces), *_places(pieces)]
            rows.append(await _challenge(engine, prompt, asked))
            if long:
                rows.append(await _challenge(engine, prompt, await generate(engine, prompt, 512, TOP)))
            return rows


def _pieces(events: bytes) -> list[Piece]:
    reader = SseReader(max_line_bytes=1 << 20, max_total_bytes=1 << 30)
    answer = Answer(top_logprobs=TOP, max_tokens=1 << 20)
    told = [token for payload in reader.feed(events) for token in answer.feed(payload)]
    return [Piece(one.text, one.id, one.logprob, one.top_ids, one.top_logprobs) for one in told]


def _agent(asked: Generated, pieces: list[Piece]) -> list[Row]:
    """The agent's own CPU for 1,024 tokens of a real answer."""
    turns = max(1, PER // len(pieces))
    share = PER / (turns * len(pieces))
    parse = _cpu_ms(lambda: [_pieces(asked.events) for _ in range(turns)]) * share
    encode = _cpu_ms(lambda: [_transcript(pieces) for _ in range(turns)]) * share
    claimed = positions(tuple(map(read_leaf, _transcript(pieces).leaves)))
    sampler = Sampler(seed=7, temperature=0.8, top_k=40, top_p=0.95, min_p=0.0, min_keep=2)
    check = _cpu_ms(lambda: [check_sampling(claimed, sampler, TOP) for _ in range(turns)]) * share
    return [
        Row(f"agent's CPU to read {PER:,} tokens with {TOP} candidates as JSON", f"{parse:.1f} ms"),
        at_most("… to encode and hash them", encode, 10.0, "ms"),
        Row("checking their draws (S), anybody's CPU", f"{check:.1f} ms"),
    ]


def _cpu_ms(work: object) -> float:
    best = float("inf")
    for _ in range(3):
        began = time.process_time()
        work()  # type: ignore[operator]
        best = min(best, time.process_time() - began)
    return best * 1000


def _transcript(pieces: list[Piece]) -> Transcript:
    builder = TranscriptBuilder(TOP)
    for piece in pieces:
        builder.add(piece)
    return builder.finish()


def _places(pieces: list[Piece]) -> list[Row]:
    """On the disk and on the wire."""
    transcript = join_leaves(_transcript(pieces).leaves)
    _how, stored = packed(transcript)
    offer, digest = builders.offer(), "0" * 64
    header = header_of(
        offer,
        builders.pool(engine="llama-server b6000", determinism="F-0123456789abcdef", engine_digest=digest),
        node_key=digest,
        n_probs=TOP,
        finish=FinishReason.STOP,
        usage=Usage(),
        request_sha256=digest,
        prompt_sha256=digest,
        proof_kind=ProofKind.TOKENS_F32,
        output_sha256=digest,
    )
    commitment = len(wire.encode(commit(header, _transcript(pieces))))
    return [
        at_most("transcript on the disk, a token", len(stored) / len(pieces), 250, "bytes", 0),
        at_most("commitment in the result, with the whole header", commitment, 64, "bytes", 0),
        at_most("running leaf hash in the stream, every 32 tokens", len(f',"leaf":"{"0" * 64}"'), 32, "bytes", 0),
    ]


async def _challenge(engine: Engine, prompt: tuple[int, ...], generated: Generated) -> Row:
    """CPU of repeating the drawn leaves, each behind a prefill of all before it."""
    ids = [piece.token_id for piece in _pieces(generated.events) if piece.token_id is not None]
    leaves = [ids[at : at + 32] for at in range(0, len(ids), 32)]
    drawn = drawn_leaves(BEACON, ROOT, "bench", len(leaves) + 1, CHALLENGED_LEAVES)
    replayer, before = LlamaReplayer(engine.http), engine.cpu_s()
    for leaf in drawn:
        await replayer.replay([*prompt, *ids[: leaf * 32]], leaves[leaf], TOP)
    cost = (engine.cpu_s() - before) / generated.cpu_s
    what = f"checking {len(drawn)} of {len(leaves)} leaves of {generated.tokens} tokens ÷ generating them, engine's CPU"
    return Row(what, f"{cost:.2f} ×")
