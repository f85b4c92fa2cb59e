"""What works and what is worked on: pools, running tasks, those that ended lately, and how the work was judged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from agent.core.challenges import ChallengeOutcome
from agent.core.model import Outcome, Reason
from agent.core.payloads import Judgement, Subject
from agent.core.status import AttemptStatus, PoolStatus, RecentAttempt, Status
from agent.core.text import span
from agent.edges.gpu.telling import released
from agent.edges.page.markup import Child, Html, join, tag
from agent.edges.page.parts import NOTHING, SPACE, badge, bar, facts, gib, lasting, section, table

_ENDED = {Outcome.SUCCEEDED: "good", Outcome.FAILED: "bad", Outcome.EXPIRED: "bad"}
_JUDGED = (Judgement.PASSED, Judgement.SUSPECT, Judgement.FAILED, Judgement.UNOPENED, Judgement.VOID)


def pools(status: Status) -> Html:
    """Each with its engine."""
    head = ("pool", "model", "engine", "device", "memory", "busy", "state")
    gpus = {gpu.uuid: f"GPU {gpu.index}" for gpu in status.gpus}
    rows = [_pool(pool, " + ".join(gpus.get(uuid, uuid) for uuid in pool.device.split("+"))) for pool in status.pools]
    return section("pools", "Pools", table("Pools", head, rows) if rows else _none("None is configured."))


def _pool(pool: PoolStatus, device: str) -> Sequence[Child]:
    memory = f"about {gib(pool.expected_bytes)} GiB" if pool.expected_bytes else ""
    memory = f"{gib(pool.measured_bytes)} GiB" if pool.measured_bytes else memory
    return (pool.name, pool.model, pool.engine, device, memory, f"{pool.busy}/{pool.slots}", _state(pool))


def _state(pool: PoolStatus) -> Html:
    """Whether it is ready, what keeps it from taking work, and what else there is to say."""
    ready = badge("ready", "good") if pool.ready else badge(Reason.POOL_NOT_READY.value, "watch")
    reasons = dict.fromkeys(gate.reason for gate in pool.gates if gate.reason is not Reason.POOL_NOT_READY)
    more = ["unverifiable"] if pool.determinism == "U" else []
    more += ["checks others"] if pool.validates else []
    given_back = released(msgspec.to_builtins(pool.released))
    more += [told for told in (pool.detail, given_back) if told]
    badges = [join(SPACE, badge(reason.value, "calm")) for reason in reasons]
    return join(ready, badges, tag("span", "; ".join(more), class_="detail"))


def running(status: Status) -> Html:
    """Tasks that are being worked on."""
    head = ("task", "state", "pool", "progress", "for", "time left")
    rows = list(map(_attempt, status.attempts))
    return section("running", "Running now", table("Running now", head, rows) if rows else _none("Nothing runs."))


def _attempt(attempt: AttemptStatus) -> Sequence[Child]:
    return (
        tag("code", attempt.task_id),
        attempt.state.value,
        attempt.pool,
        _progress(attempt),
        span(attempt.age_s),
        lasting(attempt.deadline_s),
    )


def _progress(attempt: AttemptStatus) -> Html:
    if attempt.max_tokens <= 1:  # a program, or an embedding
        return join(f"{attempt.tokens:,} tokens" if attempt.tokens else NOTHING)
    words = f"{attempt.tokens:,} of at most {attempt.max_tokens:,} tokens"
    return join(bar(words, (("ours", attempt.tokens / attempt.max_tokens),)), tag("span", words, class_="caption"))


def lately(status: Status) -> Html:
    """Tasks that ended, the latest first, without their details: an engine may have put words of a prompt there."""
    head = ("task", "outcome", "reason", "pool", "took")
    rows = [_ended(ended) for ended in reversed(status.recent)]
    return section(
        "lately", "Ended lately", table("Ended lately", head, rows) if rows else _none("No task has ended yet.")
    )


def _ended(ended: RecentAttempt) -> Sequence[Child]:
    return (
        tag("code", ended.task_id),
        badge(ended.outcome.value, _ENDED.get(ended.outcome, "calm")),
        tag("code", ended.reason.value),
        ended.pool,
        f"{ended.seconds:,.1f} s",
    )


def _none(words: str) -> Html:
    return tag("p", words, class_="faint")


def proofs(status: Status) -> Html:
    """What of the work was looked into, over all lives of the node."""
    found = list(_judged(status))
    return section("proofs", "Proofs", facts(found) if found else _none("Nothing was challenged yet."))


def _judged(status: Status) -> Iterable[tuple[str, str]]:
    totals = status.proofs
    counts = totals.challenges
    if totals.challenged:
        yield "challenged", f"{totals.challenged:,}"
    words = {
        ChallengeOutcome.ASKED: "being answered",
        ChallengeOutcome.REFUSED: "refused",
        ChallengeOutcome.MISSED: "not answered in time",
    }
    yield from ((word, f"{counts[outcome]:,}") for outcome, word in words.items() if counts.get(outcome))
    for subject, what in ((Subject.ANSWER, ""), (Subject.VERDICT, "verdicts ")):
        for judgement in _JUDGED:
            if count := totals.judged(subject, judgement):
                yield what + judgement.value, f"{count:,}"
    if totals.stake_micros is not None:
        yield "stake", f"{totals.stake_micros / 1e6:,.6f}"
    if totals.slashed_micros:
        yield "slashed", f"{totals.slashed_micros / 1e6:,.6f}"
