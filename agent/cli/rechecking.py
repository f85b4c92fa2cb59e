"""The deeper levels of `gpu-agent verify`: the draws of a transcript, and a repetition on an engine of one's own."""

from __future__ import annotations

import contextlib
import random
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from agent.cli.device import CPU, Place, find_place
from agent.core.checks.claim import claim_with
from agent.core.checks.claims import chunks
from agent.core.checks.imprints import Imprinted, committed
from agent.core.checks.verdict import Judged, Metrics, Thresholds, Verdict, closeness_limit, judge, long_enough
from agent.core.engines import SAMPLERS
from agent.core.errors import EngineError, ProofError
from agent.core.model import EmbeddingInput, FinishReason, Reason, TaskKind
from agent.core.proof.header import Header
from agent.core.proof.toploc import TOP
from agent.stages.recheck import Claim, with_model, without_model

if TYPE_CHECKING:
    from agent.core.proof.receipt import Case
    from agent.edges.engines.launch import LlamaSettings
    from agent.edges.models.store import ModelStore
    from agent.ports import Replayer


class Model(NamedTuple):
    """What the engine of level 3 is given."""

    weights: Path
    name: str
    """As the node's configuration calls the model: its digest covers the name."""
    chat_template: Path | None
    binary: str
    context_tokens: int
    args: tuple[str, ...] = ()
    """More arguments, the node's `pools.args` for exact checks."""
    device: str = CPU
    """`cpu`, or UUIDs of GPUs joined by +."""
    threads: int | None = None
    """Of the engine; the figures do not depend on it."""


class Rechecked(NamedTuple):
    """What levels 2 and 3 found."""

    claim: Claim
    metrics: Metrics
    judged: Judged
    level: int
    chunks: int
    """All that are shown."""
    limits: Thresholds
    uncalibrated: str = ""
    """Why F, T and rows were not judged: without a calibration nobody knows what noise is. Empty when they were."""

    @property
    def undecided(self) -> bool:
        """Whether a model was at hand, and what it would have said was not judged."""
        repeated = self.metrics.chunks or self.metrics.rows
        return self.level == 3 and (bool(self.uncalibrated) or not repeated)


def claim_of(case: Case) -> Claim | None:
    """What the node claims to have generated, by a verified case; None where nothing was, or nothing is shown of it."""
    return claim_with(case, case.leaves) if case.leaves else None


def level_two(claim: Claim) -> Rechecked:
    """Without a model."""
    return _rechecked(claim, without_model(claim), 2)


class Judging(NamedTuple):
    """By which limits level 3 judges."""

    files: tuple[Path, ...] = ()
    """Calibrations, besides those that came with the agent."""
    keys: tuple[str, ...] = ()
    """Whom to trust, besides the publisher of the agent."""
    uncalibrated: bool = False
    """Judge by the defaults where there is no calibration."""


async def level_three(claim: Claim, asked_digest: str, model: Model, most_chunks: int, judging: Judging) -> Rechecked:
    """With the model. Raises ModelError when it is another than the asked one, EngineError, SandboxError."""
    from agent.edges.clock import SystemClock
    from agent.edges.models.store import ModelStore
    from agent.edges.sandbox.bubblewrap import Bubblewrap
    from agent.edges.verifier.engine import llama_replayer
    from agent.edges.verifier.states import WithStates

    with tempfile.TemporaryDirectory(prefix="gpu-agent-verify-") as folder:
        home = Path(folder)
        store = ModelStore(home)
        await store.verify(model.name, model.weights, chat_template=model.chat_template, expected=asked_digest)
        kind = claim.header.task_kind
        kinds = (kind,) if kind is TaskKind.EMBEDDING else (TaskKind.CHAT, TaskKind.COMPLETION)
        limits, lacks = _limits(claim.header, asked_digest, model, judging)
        place = await find_place(model.device)
        settings = engine_settings(model, asked_digest, home, kinds, place)
        exact = await _same_class(settings, store, claim.header, place)
        sandbox = Bubblewrap(home, place_of=place.node_of)
        async with contextlib.AsyncExitStack() as engines:
            replayer: Replayer = await engines.enter_async_context(llama_replayer(settings, sandbox, SystemClock()))
            if committed(claim.leaves):
                needed = model._replace(context_tokens=min(model.context_tokens, _tokens(claim.header)))
                here = await find_place(CPU)  # nodes imprint on processors
                other = engine_settings(needed, asked_digest, home, kinds, here, states=True)
                states = await engines.enter_async_context(llama_replayer(other, sandbox, SystemClock()))
                replayer = WithStates(replayer, states)
            found = await with_model(claim, replayer, chosen=_choice(_leaves(claim), most_chunks), exact=exact)
    if limits is None and not exact:  # what is equal to the bit needs no limits
        return _rechecked(claim, found, 3)._replace(judged=_certain(found), uncalibrated=lacks)
    return _rechecked(claim, found, 3, limits)


def _limits(header: Header, digest: str, model: Model, judging: Judging) -> tuple[Thresholds | None, str]:
    """Those of a calibration; or why there are none. Raises ProofError for a file that was named and is not relied
    upon."""
    from agent.edges.models.thresholds import shelf

    shelved = shelf(keys=judging.keys, files=judging.files)
    for fault in shelved.faults:
        raise ProofError(fault.check, f"{fault.path}: {fault.message}")
    embeds = header.task_kind is TaskKind.EMBEDDING
    found = shelved.thresholds_for(digest, header.engine, embeds=embeds, args=model.args)
    if found is None and judging.uncalibrated:
        found = Thresholds()
    return found, f"there is no calibration for this model on {header.engine}: --calibration, or --uncalibrated"


def _tokens(header: Header) -> int:
    """What an engine for hidden states has to read in one go; its memory grows with that."""
    return max(256, header.prompt_tokens + header.completion_tokens)


def _certain(found: Metrics) -> Judged:
    """The verdict without F, T and rows."""
    return judge(found._replace(chunks=(), rows=None), Thresholds())


def engine_settings(
    model: Model,
    digest: str,
    home: Path,
    kinds: tuple[TaskKind, ...],
    place: Place,
    slots: int = 1,
    *,
    states: bool = False,
) -> LlamaSettings:
    """A llama-server of one's own, with its socket in a fresh directory below `home`. Raises EngineError."""
    from agent.edges.engines.launch import LlamaSettings, find_llama_server, runs_on_nvidia

    binary = find_llama_server(model.binary)
    if place.gpus and not runs_on_nvidia(binary):
        raise EngineError(
            Reason.ENGINE_UNAVAILABLE, f"{binary} cannot compute on a GPU", remedy="Name another --binary"
        )
    return LlamaSettings(
        name="verify",
        binary=binary,
        gpus=place.gpus,
        tensor_split=place.tensor_split,
        model=model.name,
        model_digest=digest,
        weights=model.weights.resolve(),
        chat_template=model.chat_template.resolve() if model.chat_template else None,
        socket_dir=Path(tempfile.mkdtemp(dir=home)),
        context_tokens=model.context_tokens,
        kinds=kinds,
        slots=slots,
        threads=model.threads,
        args=model.args,
        states=states,
    )


async def _same_class(settings: LlamaSettings, store: ModelStore, header: Header, place: Place) -> bool:
    """Whether this machine promises the node's bits."""
    from agent.edges.engines.build import processor
    from agent.edges.engines.launch import computes_on, determinism_class, engine_digest, engine_files

    hashes = {file.name: (await store.sha256(file)).sha256 for file in engine_files(settings.binary)}
    computes = computes_on(settings, processor(Path("/proc/cpuinfo")), place.cards)
    ours = determinism_class(settings, engine_digest(hashes), computes)
    return ours == header.determinism and ours.startswith("X-")


def _leaves(claim: Claim) -> tuple[int, ...]:
    return tuple(chunk.leaf for chunk in chunks(claim.leaves))


def _choice(leaves: tuple[int, ...], most: int) -> frozenset[int]:
    """The first, the last and some in between that nobody could foresee."""
    if len(leaves) <= most:
        return frozenset(leaves)
    ends = [leaves[0], leaves[-1]][:most]
    return frozenset([*ends, *random.SystemRandom().sample(leaves[1:-1], most - len(ends))])


def _rechecked(claim: Claim, found: Metrics, level: int, limits: Thresholds | None = None) -> Rechecked:
    limits = limits or Thresholds()
    return Rechecked(claim, found, judge(found, limits), level, len(_leaves(claim)), limits)


# --------------------------------------------------------------------------- words


def told(checked: Rechecked) -> Iterable[tuple[bool | None, str]]:
    """Lines for people: whether it holds (None: it says what could not be checked), and the words."""
    if isinstance(checked.claim.given, EmbeddingInput):
        yield from _rows(checked)
        return
    yield _draws(checked)
    yield from _end(checked)
    if checked.level == 3:
        yield from _repetition(checked)
    if checked.metrics.imprints is not None:
        yield _imprints(checked.metrics.imprints, checked.limits)


def _rows(checked: Rechecked) -> Iterable[tuple[bool | None, str]]:
    ending, rows = checked.metrics.ending, checked.metrics.rows
    if ending is not None and (ending.decided or ending.faults):
        yield not ending.faults, "the delivered rows are those of the transcript"
    elif ending is not None:
        yield None, "whether all delivered rows are those of the transcript cannot be seen from what is shown"
    if rows is not None and checked.metrics.same_class:
        yield rows.equal == rows.compared, f"{rows.equal} of {rows.compared} rows repeated: equal to the bit"
    elif rows is not None:
        limit, words = checked.limits.parallel, f"{rows.compared} rows repeated: at least {rows.least:.4f} parallel"
        if checked.uncalibrated:
            yield None, f"{words}; {checked.uncalibrated}"
        else:
            yield rows.least >= limit, f"{words} (limit {limit}{_by(checked.limits)})"


def _draws(checked: Rechecked) -> tuple[bool | None, str]:
    sampled, header = checked.metrics.sampled, checked.claim.header
    if sampled is None:
        return None, f"{header.engine} does not let us choose its sampler: its draws cannot be repeated"
    how = "the likeliest" if header.temperature_micros <= 0 else f"what seed {header.seed} draws"
    if not sampled.passed:
        return False, "every token is what seed and sampling demand"
    rest = sampled.uncovered + sampled.withheld + sampled.unopened
    if sampled.checked == 0:
        return None, "no draw could be repeated: they depend on candidates that are not shown"
    but = f" ({rest} more depend on what is not shown)" if rest else ""
    return True, f"{sampled.checked} tokens: each is {how} of the claimed candidates{but}"


def _end(checked: Rechecked) -> Iterable[tuple[bool | None, str]]:
    ending, header = checked.metrics.ending, checked.claim.header
    if ending is None:
        return
    why = "max_tokens was reached" if header.finish is FinishReason.LENGTH else "the text came to its end"
    if ending.faults:
        yield False, f"it ended because {why}"
    elif ending.decided:
        yield True, f"it ended because {why}"
    else:
        yield None, f"whether {why} cannot be seen without the model's tokenizer"


def _repetition(checked: Rechecked) -> Iterable[tuple[bool | None, str]]:
    found = checked.metrics
    if found.prompt is not None:
        yield found.prompt, "the prompt is what the model's template makes of the task"
    if found.exact is not None and found.exact.compared:
        equal = found.exact.equal == found.exact.compared
        yield equal, f"{found.exact.equal} of {found.exact.compared} tokens repeated: equal to the bit"
    elif found.prompt is not False and not found.chunks:
        yield None, "nothing could be repeated: the engine did not show its tokens"
    if found.unknown:
        yield None, f"{found.unknown} tokens could not be repeated: the engine did not show the one before them"
    if found.chunks:
        yield _closeness(checked)


def _imprints(found: Imprinted, limits: Thresholds) -> tuple[bool | None, str]:
    if found.faults:
        return False, f"{len(found.faults)} of {found.committed} imprints are of no hidden states"
    if not found.distances:
        return None, f"{found.committed} imprints of hidden states were not looked at"
    over = judge(Metrics(imprints=found), limits).verdict
    exponents, steps = max(one.exponents for one in found.distances), max(one.mean for one in found.distances)
    text = f"{found.committed} imprints of hidden states: at most {exponents} of {TOP} exponents differ"
    return (
        over is Verdict.PASS,
        f"{text} (limit {limits.exponents}), mantissas by {steps:.1f} (limit {limits.mantissas})",
    )


def _closeness(checked: Rechecked) -> tuple[bool | None, str]:
    found, limits = checked.metrics, checked.limits
    worst = max(long_enough(found.chunks), key=lambda chunk: chunk.close.mean / closeness_limit(chunk, limits))
    far = sum(chunk.plausible.far + chunk.plausible.unlisted for chunk in found.chunks)
    text = f"{len(found.chunks)} of {checked.chunks} chunks repeated: log-probabilities at most {worst.close.mean:.2f}"
    if checked.uncalibrated:
        return None, f"{text} apart, {far} tokens out of place; {checked.uncalibrated}"
    over = judge(Metrics(chunks=found.chunks), limits).verdict
    limit = f"limit {closeness_limit(worst, limits):.2f}{_by(limits)}"
    return over is Verdict.PASS, f"{text} apart ({limit}), {far} tokens out of place"


def _by(limits: Thresholds) -> str:
    return ", uncalibrated" if limits.version == Thresholds().version else ""


def as_object(checked: Rechecked) -> dict[str, object]:
    """For programs."""
    found = checked.metrics
    return {
        "level": checked.level,
        "verdict": checked.judged.verdict.value,
        "reasons": list(checked.judged.reasons),
        "thresholds": None if checked.uncalibrated else checked.limits.version,
        "uncalibrated": checked.uncalibrated,
        "determinism": checked.claim.header.determinism,
        "uses_our_samplers": checked.claim.header.samplers == SAMPLERS,
        "sampling": found.sampled and {**found.sampled._asdict(), "passed": found.sampled.passed},
        "ending": found.ending and found.ending._asdict(),
        "prompt": found.prompt,
        "unknown": found.unknown,
        "rows": found.rows and found.rows._asdict(),
        "exact": found.exact and found.exact._asdict(),
        "toploc": found.imprints
        and {**found.imprints._asdict(), "distances": [one._asdict() for one in found.imprints.distances]},
        "chunks": [
            {
                "leaf": one.leaf,
                "closeness": one.close._asdict(),
                "plausibility": one.plausible._asdict(),
                "recomputed_sha256": one.recomputed,
            }
            for one in found.chunks
        ],
    }
