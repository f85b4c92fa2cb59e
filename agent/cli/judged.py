"""What the coordinator's judgement in a bundle says of an answer, in words, and the status that follows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from agent.core.payloads import Judgement
from agent.core.text import counted, line

if TYPE_CHECKING:
    from agent.core.payloads import JudgementBody

FAILED, SUSPECT = 1, 3
"""Exit statuses of `gpu-agent verify`."""
MEANS = {
    SUSPECT: "the coordinator found no proof of a fault, but not what an honest node shows",
    FAILED: "the coordinator judged that the node did not do what it was paid for",
}
_STATUS = {Judgement.FAILED: FAILED, Judgement.UNOPENED: FAILED, Judgement.SUSPECT: SUSPECT}
_HOLDS = {Judgement.PASSED: True, Judgement.FAILED: False, Judgement.UNOPENED: False}
_WORDS = {
    Judgement.UNOPENED: "not opened as it was committed to",
    Judgement.VOID: "nobody could decide",
}
_DETAIL = 240


def told(body: JudgementBody) -> Iterable[tuple[bool | None, str]]:
    """Lines for people: whether it speaks for the answer (None: neither), and the words."""
    words = _WORDS.get(body.judgement, body.judgement.value)
    by = f", by {counted(body.validators, 'validator')}" if body.validators else ""
    taken = f"; {body.slashed_micros / 1e6:g} of stake taken" if body.slashed_micros else ""
    yield _HOLDS.get(body.judgement), f"the coordinator judged this answer: {words}{by}{taken}"
    if body.detail:
        yield None, line(body.detail, _DETAIL)


def status(body: JudgementBody | None) -> int:
    """The exit status that it calls for."""
    return _STATUS.get(body.judgement, 0) if body else 0


def vouched(body: JudgementBody | None) -> bool:
    """Whether others repeated it on the model, says the coordinator."""
    return body is not None and body.judgement is Judgement.PASSED and body.validators > 0


def as_object(body: JudgementBody) -> dict[str, Any]:
    """For programs."""
    return {
        "judgement": body.judgement.value,
        "validators": body.validators,
        "slashed_micros": body.slashed_micros,
        "detail": body.detail,
    }
