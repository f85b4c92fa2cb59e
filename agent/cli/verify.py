"""`gpu-agent verify`: check one task's receipt offline, and say what that shows."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.core.text import plain

if TYPE_CHECKING:
    from agent.core.proof.receipt import Verdict
    from agent.core.wire import ReceiptBundle

FAILED, UNREADABLE = 1, 2
MAX_BUNDLE_BYTES = 512 << 20
"""The largest output (64 MiB), escaped sixfold, and what stands around it."""
_DETAIL = 300


class _Unreadable(click.ClickException):
    exit_code = UNREADABLE


@click.command(short_help="Check a receipt offline: signatures, commitment, output.")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path))
@click.option("--coordinator-key", default="", metavar="HEX", help="The key that the receipt must be by.")
@click.option(
    "--transcript",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also check the node's transcript (`gpu-agent receipt --transcript`) against the commitment.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(file: Path, coordinator_key: str, transcript: Path | None, as_json: bool) -> int:
    """Check the receipt bundle in FILE (- for standard input); nothing is sent anywhere.

    Exit status: 0 every check passed, 1 one failed, 2 unreadable.
    """
    from agent.core.proof.receipt import examine
    from agent.edges.signing import verify

    key = _key(coordinator_key)
    leaves = _read(transcript, MAX_BUNDLE_BYTES) if transcript else None
    bundle = _bundle(file)
    verdict = examine(bundle, verify, coordinator_key=key, transcript=leaves)
    if as_json:
        import json

        click.echo(json.dumps(as_object(verdict, key), indent=2))
    else:
        click.echo("\n".join(screen(bundle, verdict, key)))
    return FAILED if verdict.error else 0


def _key(text: str) -> str:
    key = text.strip().lower()
    if key and (len(key) != 64 or set(key) - set("0123456789abcdef")):
        raise click.BadParameter("64 hex digits are wanted", param_hint="--coordinator-key")
    return key


def _read(file: Path, most: int) -> bytes:
    try:
        with click.open_file(str(file), "rb") as stream:
            raw: bytes = stream.read(most + 1)
    except OSError as error:
        raise _Unreadable(f"{file} cannot be read: {error.strerror}") from error
    if len(raw) > most:
        raise _Unreadable(f"{file} is larger than any receipt")
    return raw


def _bundle(file: Path) -> ReceiptBundle:
    import msgspec

    from agent.core.wire import ReceiptBundle

    try:
        return msgspec.json.decode(_read(file, MAX_BUNDLE_BYTES), type=ReceiptBundle)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _Unreadable(f"{file} is no receipt bundle: {plain(str(error), _DETAIL)}") from error


def as_object(verdict: Verdict, pinned: str) -> dict[str, Any]:
    """For programs."""
    told: dict[str, Any] = {
        "verified": verdict.error is None,
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
    return told


def screen(bundle: ReceiptBundle, verdict: Verdict, pinned: str) -> Iterable[str]:
    """For people; everything in a bundle comes from outside."""
    yield from _subject(verdict)
    for check in verdict.passed:
        yield click.style("  ✓ ", fg="green") + check.says
    if verdict.error:
        what = verdict.failed.says if verdict.failed else "the bundle can be read"
        yield click.style("  ✗ ", fg="red") + what
        yield f"      {plain(verdict.error.message, _DETAIL)} ({verdict.error.check})"
        yield ""
        yield click.style("NOT VERIFIED", fg="red", bold=True) + ": do not rely on anything in this bundle"
        return
    yield from _notes(bundle, verdict, pinned)
    yield ""
    yield click.style("VERIFIED", fg="green", bold=True) + f": {_earned(verdict)}"


def _subject(verdict: Verdict) -> Iterable[str]:
    if verdict.case is None:
        return
    offer, result = verdict.case.offer, verdict.case.result
    yield f"task     {_word(offer.task.task_id)}, attempt {offer.attempt}, on node {_word(offer.node_id)}"
    yield f"model    {_word(offer.task.model_digest)}"
    if result.commitment:
        usage = result.usage
        told = f"{usage.prompt_tokens} of prompt, {usage.completion_tokens} of output"
        yield f"tokens   {told} ({result.output_bytes} bytes)"
    yield ""


def _notes(bundle: ReceiptBundle, verdict: Verdict, pinned: str) -> Iterable[str]:
    """What the checks do not show."""
    case = verdict.case
    if not pinned:
        yield "  · the coordinator's key was taken from the bundle itself: is it the one you know? If so, give it:"
        yield f"    --coordinator-key {_word(bundle.coordinator_key)}"
    if case and case.result.output_bytes and bundle.output is None:
        yield f"  · the output is not in the bundle; its SHA-256 is {case.result.output_sha256}"
    yield "  · this shows who promised what; whether the model was really run is for challenges to find out"


def _earned(verdict: Verdict) -> str:
    assert verdict.case is not None
    receipt, result = verdict.case.receipt, verdict.case.result
    amount = f"{receipt.amount_micros / 1e6:.6f} {_word(receipt.currency)}".rstrip()
    return f"the attempt {result.outcome.value.replace('_', ' ')}; the coordinator owes the node {amount}"


def _word(text: str) -> str:
    return plain(text, 128).replace("\n", " ")
