"""`gpu-agent verify`: check one task offline, as deeply as what is at hand allows, and say what that shows.

Level 1 needs the receipt, level 2 the node's transcript too, level 3 the model.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli import judged, receiptfile, subject
from agent.cli.judged import FAILED, SUSPECT
from agent.cli.subject import word
from agent.core.text import plain

if TYPE_CHECKING:
    from agent.cli.rechecking import Judging, Model, Rechecked
    from agent.core.proof.receipt import Verdict
    from agent.core.wire import ReceiptBundle

UNABLE = 4
_DETAIL = 300


class _Unable(click.ClickException):
    exit_code = UNABLE


@click.command(short_help="Check a task offline: its receipt, its draws, its model.")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path))
@click.option("--coordinator-key", default="", metavar="HEX", help="The key that the receipt must be by.")
@click.option(
    "--transcript",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The node's transcript (`gpu-agent receipt --transcript`): also check that the seed draws its tokens.",
)
@click.option(
    "--artifact",
    type=click.Path(dir_okay=False, path_type=Path),
    help="What a program left (`gpu-agent submit --archive`): also check it, file for file.",
)
@click.option(
    "--model",
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    help="The model's GGUF file: also repeat on a llama-server of your own what is shown of the work.",
)
@click.option("--model-name", metavar="NAME", help="What the node calls the model.  [default: the file's name]")
@click.option(
    "--chat-template",
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    help="The model's chat template file, if it has one.",
)
@click.option("--chunks", default=8, show_default=True, type=click.IntRange(min=1), help="How many to repeat at most.")
@click.option(
    "--binary", default="auto", show_default=True, metavar="PATH", help="Path of the llama-server to repeat with."
)
@click.option("--device", default="cpu", show_default=True, help="What it runs on: cpu, or GPU UUIDs joined by +.")
@click.option(
    "--context-tokens", default=4096, show_default=True, help="Context of the engine; the node's for exact checks."
)
@click.option(
    "--threads", type=click.IntRange(1, 4096), help="Threads of the engine; 1 on a machine that is busy otherwise."
)
@click.option("--engine-arg", multiple=True, metavar="ARG", help="As in the node's pools.args; may be repeated.")
@click.option(
    "--calibration",
    "calibrations",
    multiple=True,
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    help="Limits of noise (`gpu-agent calibrate`), besides those that came with the agent.",
)
@click.option("--calibration-key", multiple=True, metavar="HEX", help="By whom such a file may be.")
@click.option("--uncalibrated", is_flag=True, help="Without a calibration, judge by limits for any model.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object: what holds, what does not, and the conclusion.")
def command(
    file: Path,
    coordinator_key: str,
    transcript: Path | None,
    artifact: Path | None,
    model: Path | None,
    model_name: str | None,
    chat_template: Path | None,
    chunks: int,
    binary: str,
    device: str,
    context_tokens: int,
    threads: int | None,
    engine_arg: tuple[str, ...],
    calibrations: tuple[Path, ...],
    calibration_key: tuple[str, ...],
    uncalibrated: bool,
    as_json: bool,
) -> int:
    """Check the receipt bundle in FILE (- for standard input); nothing is sent anywhere.

    \b
        gpu-agent verify receipt.json
        gpu-agent verify receipt.json --transcript transcript --model gemma.gguf --model-name gemma3-270m

    Level 1, the receipt: who promised what. Level 2, with opened leaves in the bundle or --transcript: their tokens are
    what the seed draws, and why the text ended. Level 3, with --model too: this model really says so.

    \b
    Exit status: 0 every check passed, 1 one failed, 2 unreadable or wrongly asked,
                 3 suspect: no proof of a fault, but not what an honest node shows,
                 4 a check that was asked for could not be made.
    """
    from agent.core.proof.receipt import examine
    from agent.edges.drand import load_bls
    from agent.edges.signing import verify

    key = _key(coordinator_key)
    if chat_template and not model:
        raise click.UsageError("--chat-template is the model's: it needs --model")
    leaves = receiptfile.read(transcript) if transcript else None
    left = receiptfile.read(artifact) if artifact else None
    bundle = receiptfile.read_bundle(file)
    if model and leaves is None and bundle.opening is None:
        raise click.UsageError("--model needs --transcript, or a bundle with leaves: what would it be compared with?")
    verdict = examine(bundle, verify, coordinator_key=key, transcript=leaves, artifact=left, bls=load_bls())
    keys = tuple(_key(each, "--calibration-key") for each in calibration_key)
    engine = judging = None
    if model:
        from agent.cli.rechecking import Judging, Model

        engine = Model(
            model, model_name or model.stem, chat_template, binary, context_tokens, engine_arg, device, threads
        )
        judging = Judging(calibrations, keys, uncalibrated)
    deeper = _deeper(verdict, engine, chunks, judging)
    if as_json:
        import json

        click.echo(json.dumps(as_object(verdict, key, deeper), indent=2))
    else:
        click.echo("\n".join(screen(bundle, verdict, key, deeper)))
    return FAILED if verdict.error else _status(verdict, deeper)


def _deeper(verdict: Verdict, model: Model | None, chunks: int, judging: Judging | None) -> Rechecked | None:
    """Levels 2 and 3, where there is something to check them on."""
    if not _succeeded(verdict) or verdict.case is None:
        return None
    import asyncio

    from agent.cli import rechecking
    from agent.core.errors import AgentError, ModelError

    claim = rechecking.claim_of(verdict.case)
    if claim is None:
        return None
    if model is None or judging is None:
        return rechecking.level_two(claim)
    try:
        return asyncio.run(rechecking.level_three(claim, verdict.case.offer.task.model_digest, model, chunks, judging))
    except ModelError as error:
        raise _Unable(plain(f"{error.message}. {_OTHER_MODEL}", 1000)) from error
    except AgentError as error:
        raise _Unable(plain(str(error), 1000)) from error


_OTHER_MODEL = "The digest covers the file, --model-name and --chat-template: give all three as the node's owner did"


def _succeeded(verdict: Verdict) -> bool:
    """Whether there is a commitment, and all of it held."""
    from agent.core.model import Outcome

    return verdict.error is None and verdict.case is not None and verdict.case.result.outcome is Outcome.SUCCEEDED


def _status(verdict: Verdict, deeper: Rechecked | None) -> int:
    """The worse of what was seen here and what the coordinator's judgement says."""
    ours, theirs = _seen(deeper), judged.status(verdict.case.judgement if verdict.case else None)
    return next((status for status in (FAILED, SUSPECT) if status in (ours, theirs)), ours)


def _seen(deeper: Rechecked | None) -> int:
    from agent.core.checks.verdict import Verdict

    if deeper is None:
        return 0
    if deeper.undecided and deeper.judged.verdict is Verdict.PASS:
        return UNABLE
    return {Verdict.PASS: 0, Verdict.SUSPECT: SUSPECT, Verdict.FAIL: FAILED}[deeper.judged.verdict]


def _key(text: str, option: str = "--coordinator-key") -> str:
    key = text.strip().lower()
    if key and (len(key) != 64 or set(key) - set("0123456789abcdef")):
        raise click.BadParameter("64 hex digits are wanted", param_hint=option)
    return key


def as_object(verdict: Verdict, pinned: str, deeper: Rechecked | None = None) -> dict[str, Any]:
    """For programs."""
    told: dict[str, Any] = {
        "verified": verdict.error is None and _status(verdict, deeper) == 0,
        "level": deeper.level if deeper else 1,
        "coordinator_pinned": bool(pinned),
        "passed": [check.name for check in verdict.passed],
        "failed": verdict.error.check if verdict.error else None,
        "detail": verdict.error.message if verdict.error else "",
    }
    if verdict.case and not verdict.error:
        body = verdict.case.receipt
        told |= {
            "task_id": body.task_id,
            "node_id": body.node_id,
            "outcome": verdict.case.result.outcome.value,
            "amount_micros": body.amount_micros,
            "currency": body.currency,
            "receipt_id": body.receipt_id,
        }
    if verdict.case and verdict.case.judgement and not verdict.error:
        told["judgement"] = judged.as_object(verdict.case.judgement)
    if verdict.case and _succeeded(verdict):
        from agent.cli import shown

        told["opening"] = shown.as_object(verdict.case)
    if deeper:
        from agent.cli.rechecking import as_object as deeply

        told["recheck"] = deeply(deeper)
    return told


def screen(bundle: ReceiptBundle, verdict: Verdict, pinned: str, deeper: Rechecked | None = None) -> Iterable[str]:
    """For people; everything in a bundle comes from outside."""
    yield from subject.told(verdict)
    if deeper:
        count = len(verdict.passed)
        shows = "transcript" if verdict.case and verdict.case.transcript is not None else "leaves"
        yield _line(True, f"signatures, receipt, output, commitment and {shows} fit together ({count} checks)")
    else:
        for check in verdict.passed:
            yield _line(True, check.says)
    if verdict.error:
        what = verdict.failed.says if verdict.failed else "the bundle can be read"
        yield _line(False, what)
        yield f"      {plain(verdict.error.message, _DETAIL)} ({verdict.error.check})"
        yield ""
        yield click.style("NOT VERIFIED", fg="red", bold=True) + ": do not rely on anything in this bundle"
        return
    if verdict.case and _succeeded(verdict):
        from agent.cli import shown

        yield from (_line(holds, words) for holds, words in shown.told(verdict.case))
    if deeper:
        from agent.cli.rechecking import told

        yield from (_line(holds, plain(words, _DETAIL)) for holds, words in told(deeper))
        if _seen(deeper):
            yield from (f"      {plain(reason, _DETAIL)}" for reason in deeper.judged.reasons[:_MOST_REASONS])
    if verdict.case and verdict.case.judgement:
        yield from (_line(holds, words) for holds, words in judged.told(verdict.case.judgement))
    yield from _notes(bundle, verdict, pinned, deeper)
    yield ""
    yield from _conclusion(verdict, deeper)


def _line(holds: bool | None, words: str) -> str:
    mark, colour = {True: ("✓", "green"), False: ("✗", "red"), None: ("·", "yellow")}[holds]
    return click.style(f"  {mark} ", fg=colour) + words


def _conclusion(verdict: Verdict, deeper: Rechecked | None) -> Iterable[str]:
    status = _status(verdict, deeper)
    if status:
        title, colour = {SUSPECT: ("SUSPECT", "yellow"), UNABLE: ("UNDECIDED", "yellow")}.get(
            status, ("NOT VERIFIED", "red")
        )
        means = _MEANS[status] if status == _seen(deeper) else judged.MEANS[status]
        yield click.style(title, fg=colour, bold=True) + f": {means}"
        return
    assert verdict.case is not None
    if (deeper and deeper.level == _WITH_MODEL) or judged.vouched(verdict.case.judgement):
        yield click.style("VERIFIED", fg="green", bold=True) + f": {_earned(verdict)}"
        return
    yield click.style("RECEIPT IN ORDER", fg="green", bold=True) + f"{_unchecked(verdict)}: {_earned(verdict)}"


def _unchecked(verdict: Verdict) -> str:
    """What a receipt alone cannot show."""
    if not _succeeded(verdict) or verdict.case is None:
        return ""
    if verdict.case.result.artifact:
        return " (what ran was not checked)"
    return " (the model was not checked)"


_WITH_MODEL = 3
_MOST_REASONS = 5
_MEANS = {
    SUSPECT: "no proof of a fault, but not what an honest node shows; repeat more --chunks",
    UNABLE: "nothing speaks against the node, but whether this model was run could not be judged",
    FAILED: "the node did not do what it committed to",
}


def _notes(bundle: ReceiptBundle, verdict: Verdict, pinned: str, deeper: Rechecked | None) -> Iterable[str]:
    """What the checks do not show."""
    case = verdict.case
    if not pinned:
        yield "  · the coordinator's key was taken from the bundle itself: is it the one you know? If so, give it:"
        yield f"    --coordinator-key {word(bundle.coordinator_key)}"
    if case and case.result.output_bytes and bundle.output is None:
        yield f"  · the output is not in the bundle; its SHA-256 is {case.result.output_sha256}"
    if case and case.result.artifact:
        yield "  · this shows who promised what; whether the program did it is shown by running it again"
    elif case and judged.vouched(case.judgement) and (deeper is None or deeper.level < _WITH_MODEL):
        yield "  · that the model was run is the coordinator's word; a repetition with --model shows it"
    elif deeper is None:
        yield "  · this shows who promised what; whether the model was really run is for challenges to find out"
    elif deeper.level == 2:
        yield "  · the seed was followed; whether this model was run shows only a repetition with --model"


def _earned(verdict: Verdict) -> str:
    assert verdict.case is not None
    receipt, result = verdict.case.receipt, verdict.case.result
    amount = f"{receipt.amount_micros / 1e6:.6f} {word(receipt.currency)}".rstrip()
    return f"the attempt {result.outcome.value.replace('_', ' ')}; the coordinator owes the node {amount}"
