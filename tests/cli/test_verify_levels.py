"""`gpu-agent verify` levels 2 and 3: a real task of a real engine, and what a customer sees of it."""

from __future__ import annotations

import asyncio
import json
import struct
import tempfile
from pathlib import Path

import msgspec
import pytest

from agent.cli.main import run
from agent.core import wire
from agent.core.checks.calibration import Work
from agent.core.model import EmbeddingInput, TaskKind
from agent.core.proof.header import ProofKind
from agent.core.proof.leaves import join_leaves
from agent.core.proof.merkle import leaf_hash
from agent.core.proof.opening import open_leaves
from agent.core.proof.transcript import TranscriptBuilder
from agent.edges.models.store import ModelStore
from agent.ports import Piece
from tests import calibrations
from tests.edges.verifier import claiming
from tests.edges.verifier.claiming import Done
from tests.tiny_model import write_tiny_model

NAME = "tiny"


class Shown:
    """Files that a customer has, and the command."""

    def __init__(self, home: Path, done: Done, capsys: pytest.CaptureFixture[str]) -> None:
        self.home, self.done, self._capsys = home, done, capsys
        self.receipt = home / "receipt.json"
        self.receipt.write_bytes(wire.encode(done.bundle()))
        self.transcript = home / "task.leaves"
        self.transcript.write_bytes(join_leaves(done.transcript.leaves))

    def verify(self, *more: object) -> tuple[int, str, str]:
        self._capsys.readouterr()
        code = run(["verify", str(self.receipt), "--transcript", str(self.transcript), *map(str, more)])
        out, err = self._capsys.readouterr()
        return code, out, err

    def calibrated(self, **changes: object) -> tuple[object, ...]:
        """The options of who has a calibration of the task's model, and trusts it."""
        file = calibrations.written(self.home, self.done.offer.task.model_digest, **changes)
        return ("--calibration", file, "--calibration-key", calibrations.KEYS.public_key)

    def lie(self, **header: object) -> None:
        """Commit to another header, as a cheating node would: signed, and consistent in itself."""
        claim = claiming.altered(self.done.claim, **header)
        asked = self.done.offer.task.sampling
        sampling = msgspec.structs.replace(asked, seed=claim.header.seed, top_k=claim.header.top_k)
        task = msgspec.structs.replace(self.done.offer.task, sampling=sampling)
        offer = msgspec.structs.replace(self.done.offer, task=task)
        self.receipt.write_bytes(wire.encode(self.done._replace(claim=claim, offer=offer).bundle()))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.gguf")
    path.chmod(0o644)
    return path


def imprinted(weights: Path) -> Done:
    """A task of a pool that imprints hidden states."""

    async def done() -> Done:
        with tempfile.TemporaryDirectory(prefix="ga-") as home:
            digest = (await ModelStore(Path(home)).verify(NAME, weights)).facts.digest
            async with claiming.imprinted(weights, Path(home)) as engines:
                return await claiming.done(engines.pool, max_tokens=40, model=digest, temperature_micros=0)

    return asyncio.run(done())


def work(asked: Path, used: Path, max_tokens: int = 12, **how: int) -> Done:
    """A task for one model, done with another or the same; one of whose tokens none was withheld."""

    async def done() -> Done:
        with tempfile.TemporaryDirectory(prefix="ga-") as home:
            digest = (await ModelStore(Path(home)).verify(NAME, asked)).facts.digest
            async with claiming.pool(used, Path(home), slots=1) as pool:
                for seed in range(1, 100):
                    made = await claiming.done(pool, max_tokens=max_tokens, seed=seed, model=digest, **how)
                    if made.claim.header.proof_kind is ProofKind.TOKENS_F32:
                        return made
        raise AssertionError

    return asyncio.run(done())


@pytest.fixture(scope="module")
def done(weights: Path) -> Done:
    return work(weights, weights)


@pytest.fixture
def shown(done: Done, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shown:
    return Shown(tmp_path, done, capsys)


def test_with_the_transcript_every_draw_is_checked_without_a_model(shown: Shown):
    code, out, err = shown.verify()
    assert (code, err) == (0, "")
    assert "12 tokens: each is what seed" in out
    assert "fit together (13 checks)" in out
    assert "it ended because max_tokens was reached" in out
    assert out.splitlines()[-1].startswith("RECEIPT IN ORDER (the model was not checked): ")
    assert "shows only a repetition with --model" in out


def test_another_seed_than_promised_is_seen_without_a_model(shown: Shown):
    shown.lie(seed=shown.done.claim.header.seed + 1)
    code, out, _ = shown.verify()
    assert code == 1
    told = out.splitlines()
    accused = next(at for at, line in enumerate(told) if "✗ every token is what seed and sampling demand" in line)
    assert "tokens are not what the seed draws" in told[accused + 2]  # below the findings, above the notes
    assert "NOT VERIFIED: the node did not do what it committed to" in out


def test_with_the_model_the_work_is_repeated_on_one_screen(shown: Shown, weights: Path):
    code, out, _ = shown.verify("--model", weights, "--model-name", NAME, *shown.calibrated())
    assert code == 0, out
    assert "the prompt is what the model's template makes of the task" in out
    assert "1 of 1 chunks repeated: log-probabilities at most 0.00 apart" in out
    assert out.splitlines()[-1].startswith("VERIFIED: ")
    assert len(out.splitlines()) <= 24
    assert max(map(len, out.splitlines())) <= 120


def test_json_has_every_figure(shown: Shown, weights: Path):
    code, out, _ = shown.verify("--model", weights, "--model-name", NAME, "--json", *shown.calibrated())
    told = json.loads(out)
    assert told["recheck"]["thresholds"].startswith("calibration ")
    assert (code, told["verified"], told["level"]) == (0, True, 3)
    assert told["recheck"]["verdict"] == "pass"
    assert told["recheck"]["sampling"]["checked"] == 12
    assert told["recheck"]["chunks"][0]["closeness"]["overlap"] == 1.0
    assert told["recheck"]["chunks"][0]["plausibility"]["far"] == 0


@pytest.fixture(scope="module")
def lettered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_tiny_model(tmp_path_factory.mktemp("model") / "letters.gguf", letters_only=True)
    path.chmod(0o644)
    return path


@pytest.fixture(scope="module")
def longer(lettered: Path) -> Done:
    """Three leaves."""
    return work(lettered, lettered, max_tokens=70, temperature_micros=0)


def test_what_is_opened_is_repeated_behind_what_is_not(longer: Done, lettered: Path, tmp_path: Path, capsys):
    opening = open_leaves(longer.transcript.leaves, (1,))
    code, out = verified(longer, opening, tmp_path, capsys, "--model", lettered, "--model-name", NAME, "--uncalibrated")
    assert code == 0, out
    assert "1 of 3 leaves of the transcript are shown" in out
    assert "32 tokens: each is the likeliest" in out
    assert "1 of 1 chunks repeated: log-probabilities at most 0.00 apart" in out


def test_tokens_that_were_not_committed_to_betray_themselves(longer: Done, lettered: Path, tmp_path: Path, capsys):
    """The root does not bind what is said of a leaf that is not shown; the delivered text and the next leaf do."""
    honest = open_leaves(longer.transcript.leaves, (1,))
    at = honest.index(leaf_hash(longer.transcript.leaves[0])) + 35
    [claimed] = struct.unpack_from("<I", honest, at)
    lying = honest[:at] + struct.pack("<I", claimed ^ 1) + honest[at + 4 :]
    assert verified(longer, lying, tmp_path, capsys)[0] == 0
    code, out = verified(longer, lying, tmp_path, capsys, "--model", lettered, "--model-name", NAME, "--uncalibrated")
    assert code == 1
    assert "the delivered text is not the text of the tokens" in out


def verified(done: Done, opening: bytes, home: Path, capsys: pytest.CaptureFixture[str], *more: object):
    file = home / "opened.json"
    file.write_bytes(wire.encode(msgspec.structs.replace(done.bundle(), opening=opening)))
    capsys.readouterr()
    code = run(["verify", str(file), *map(str, more)])
    return code, capsys.readouterr().out


def test_a_node_that_used_another_model_is_suspect_after_one_chunk(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    cheaper = write_tiny_model(tmp_path / "cheaper.gguf", seed=8)
    cheaper.chmod(0o644)
    shown = Shown(tmp_path, work(weights, cheaper), capsys)
    assert shown.verify()[0] == 0  # its own draws are right
    code, out, _ = shown.verify("--model", weights, "--model-name", NAME, *shown.calibrated())
    assert code == 3
    assert "✗ 1 of 1 chunks repeated" in out
    assert "SUSPECT: no proof of a fault" in out
    assert "(limit 0.42)" in out


def test_without_a_calibration_nobody_judges_what_noise_is(shown: Shown, weights: Path):
    code, out, _ = shown.verify("--model", weights, "--model-name", NAME)
    assert code == 4, out
    assert "✓ 12 tokens: each is what seed" in out  # what needs no limits was checked
    assert "· 1 of 1 chunks repeated" in out
    assert f"no calibration for this model on {calibrations.ENGINE}" in out
    assert "UNDECIDED: nothing speaks against the node" in out.splitlines()[-1]
    code, out, _ = shown.verify("--model", weights, "--model-name", NAME, "--uncalibrated")
    assert code == 0
    assert "(limit 0.49, uncalibrated)" in out


def test_what_shows_no_token_is_not_verified_by_any_model(shown: Shown, weights: Path):
    """Whatever limits there are: there was nothing to hold against them."""
    builder = TranscriptBuilder(0)
    for _ in range(12):
        builder.add(Piece(text=""))
    made, claim = builder.finish(), shown.done.claim
    header = {"proof_kind": made.proof_kind, "engine": "ollama 0.5", "samplers": (), "min_keep": 0}
    done = shown.done._replace(transcript=made, claim=claiming.altered(claim, **header))
    shown.receipt.write_bytes(wire.encode(done.bundle()))
    shown.transcript.write_bytes(join_leaves(made.leaves))
    code, out, _ = shown.verify("--model", weights, "--model-name", NAME, "--uncalibrated")
    assert code == 4, out
    assert "· nothing could be repeated: the engine did not show its tokens" in out
    assert "UNDECIDED" in out.splitlines()[-1]


def test_a_wrong_draw_fails_without_any_calibration(shown: Shown, weights: Path):
    shown.lie(seed=shown.done.claim.header.seed + 1)
    assert shown.verify("--model", weights, "--model-name", NAME)[0] == 1


def test_a_calibration_by_a_stranger_is_not_relied_upon(shown: Shown, weights: Path):
    option, file, *_ = shown.calibrated()
    code, out, err = shown.verify("--model", weights, "--model-name", NAME, option, file)
    assert (code, out) == (4, "")
    assert "whom nobody here trusts" in err


def test_another_file_than_the_asked_model_is_not_even_started(shown: Shown, tmp_path: Path):
    other = write_tiny_model(tmp_path / "other.gguf", seed=8)
    code, out, err = shown.verify("--model", other, "--model-name", NAME)
    assert (code, out) == (4, "")
    assert "expected sha256:" in err
    assert "covers the file, --model-name and --chat-template" in err


def test_an_embedding_is_repeated_too(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    async def embed() -> Done:
        with tempfile.TemporaryDirectory(prefix="ga-") as home:
            digest = (await ModelStore(Path(home)).verify(NAME, weights)).facts.digest
            how = {"kinds": (TaskKind.EMBEDDING,), "args": ("--pooling", "mean")}
            async with claiming.pool(weights, Path(home), **how) as pool:
                return await claiming.done(pool, EmbeddingInput(texts=("one", "two")), model=digest)

    shown = Shown(tmp_path, asyncio.run(embed()), capsys)
    code, out, _ = shown.verify()
    assert code == 0
    assert "the delivered rows are those of the transcript" in out
    pooling = ("--engine-arg", "--pooling", "--engine-arg", "mean")
    how = ("--model", weights, "--model-name", NAME, *pooling)
    code, out, _ = shown.verify(*how)
    assert code == 4
    assert "· 2 rows repeated: at least 1.0000 parallel; there is no calibration" in out
    code, out, _ = shown.verify(*how, *shown.calibrated(work=Work.EMBEDDING, args=("--pooling", "mean")))
    assert code == 0
    assert "2 rows repeated: at least 1.0000 parallel (limit 0.9974)" in out


def test_the_model_alone_has_nothing_to_be_compared_with(shown: Shown, weights: Path, capsys):
    assert run(["verify", str(shown.receipt), "--model", str(weights)]) == 2
    assert "needs --transcript, or a bundle with leaves" in capsys.readouterr().err


def test_imprints_of_hidden_states_are_held_against_ones_own(
    lettered: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    shown = Shown(tmp_path, imprinted(lettered), capsys)
    code, out, _ = shown.verify()
    assert code == 0
    assert "2 imprints of hidden states were not looked at" in out
    model = ("--model", lettered, "--model-name", NAME, *shown.calibrated())
    code, out, _ = shown.verify(*model)
    assert code == 0, out
    assert "2 imprints of hidden states: at most 0 of 128 exponents differ" in out
    code, out, _ = shown.verify(*model, "--json")
    assert json.loads(out)["recheck"]["toploc"]["distances"] == [{"exponents": 0, "mean": 0.0, "median": 0}] * 2
