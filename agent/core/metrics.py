"""What the node counts and measures, as Prometheus reads it (text exposition format 0.0.4).

Everything is read from the same values as `gpu-agent status`; nothing is kept here. Labels are bounded by the
configuration, the machine and closed enums: no task and no peer makes a series.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from agent.core.challenges import ChallengeOutcome
from agent.core.families import Family, Sample, Scene
from agent.core.gates import IDLE_REASONS
from agent.core.gpu_metrics import GPU_FAMILIES
from agent.core.intake import NodeState
from agent.core.model import Outcome, Reason
from agent.core.payloads import Judgement, Subject
from agent.core.status import PoolStatus, Status

__all__ = ("CONTENT_TYPE", "FAMILIES", "Family", "Sample", "Scene", "exposition")

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def exposition(scene: Scene) -> str:
    """The whole page. A family without samples is left out: absent is absent, never 0."""
    return "".join(line + "\n" for family in FAMILIES for line in _lines(family, scene))


def _lines(family: Family, scene: Scene) -> Iterator[str]:
    samples = list(family.samples(scene))
    if samples:
        yield f"# HELP {family.name} {family.help}"
        yield f"# TYPE {family.name} {family.kind}"
    for sample in samples:
        labels = ",".join(f'{name}="{_escaped(value)}"' for name, value in sample.labels.items())
        yield f"{family.name}{'{' + labels + '}' if labels else ''} {_number(sample.value)}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))


# --------------------------------------------------------------------------- the path of a task


def _one(read: Callable[[Status], float | None]) -> Callable[[Scene], Iterable[Sample]]:
    """A family of one value; none while it is not known."""

    def samples(scene: Scene) -> Iterable[Sample]:
        return () if (value := read(scene.status)) is None else (Sample(value),)

    return samples


def _state_of(scene: Scene) -> Iterable[Sample]:
    return (Sample(scene.status.node.state == state.value, {"state": state.value}) for state in NodeState)


def _idle(scene: Scene) -> Iterable[Sample]:
    shut = {gate.reason for gate in scene.status.why_idle}
    return (Sample(reason in shut, {"reason": reason.value}) for reason in IDLE_REASONS)


def _tasks(scene: Scene) -> Iterable[Sample]:
    counts = {(Outcome.SUCCEEDED, Reason.COMPLETED): 0}
    counts |= {(ended.outcome, ended.reason): ended.count for ended in scene.status.totals.ended}
    for (outcome, reason), count in counts.items():
        yield Sample(count, {"outcome": outcome.value, "reason": reason.value})


def _pools(read: Callable[[Scene, int], float]) -> Callable[[Scene], Iterable[Sample]]:
    def samples(scene: Scene) -> Iterable[Sample]:
        for place, pool in enumerate(scene.status.pools):
            yield Sample(read(scene, place), {"pool": pool.name})

    return samples


def _taken(read: Callable[[PoolStatus], int | None]) -> Callable[[Scene], Iterable[Sample]]:
    def samples(scene: Scene) -> Iterable[Sample]:
        for pool in scene.status.pools:
            if (size := read(pool)) is not None:
                yield Sample(size, {"pool": pool.name})

    return samples


def _pool_idle(scene: Scene) -> Iterable[Sample]:
    for pool in scene.status.pools:
        for reason in dict.fromkeys(gate.reason for gate in pool.gates):
            yield Sample(1, {"pool": pool.name, "reason": reason.value})


def _earned(scene: Scene) -> Iterable[Sample]:
    totals = scene.status.totals
    return (Sample(totals.earned_micros / 1e6, {"currency": totals.currency}),) if totals.currency else ()


def _challenges(scene: Scene) -> Iterable[Sample]:
    counts = scene.status.proofs.challenges
    for outcome in ChallengeOutcome:
        if outcome is not ChallengeOutcome.ASKED:
            yield Sample(counts.get(outcome, 0), {"outcome": outcome.value})


def _judgements(scene: Scene) -> Iterable[Sample]:
    for subject in Subject:
        for judgement in Judgement:
            count = scene.status.proofs.judged(subject, judgement)
            yield Sample(count, {"subject": subject.value, "judgement": judgement.value})


def _build(scene: Scene) -> Iterable[Sample]:
    node, report = scene.status.node, scene.report
    return (Sample(1, {"version": node.version, "driver": report.driver, "sandbox": scene.status.sandbox.backend}),)


FAMILIES: Final = (
    Family("gpu_agent_build_info", "gauge", "What runs here; always 1.", _build),
    Family(
        "gpu_agent_start_time_seconds", "gauge", "When the agent started, Unix time.", _one(lambda s: s.node.started_at)
    ),
    Family("gpu_agent_node_state", "gauge", "1 for the state that the node is in.", _state_of),
    Family("gpu_agent_idle_reason", "gauge", "1 for every reason why no new task comes in now.", _idle),
    Family("gpu_agent_tasks_total", "counter", "Attempts since the start, by how and why they ended.", _tasks),
    Family("gpu_agent_attempts_running", "gauge", "Attempts that are not closed.", _one(lambda s: len(s.attempts))),
    Family("gpu_agent_outbox_waiting", "gauge", "Outcomes without a receipt.", _one(lambda s: s.outbox_waiting)),
    Family("gpu_agent_earned_total", "counter", "What receipts promised since the start, in `currency`.", _earned),
    Family("gpu_agent_pool_slots", "gauge", "Slots of a pool.", _pools(lambda s, n: s.status.pools[n].slots)),
    Family("gpu_agent_pool_busy", "gauge", "Slots that are taken.", _pools(lambda s, n: s.status.pools[n].busy)),
    Family("gpu_agent_pool_ready", "gauge", "1 when its engine is.", _pools(lambda s, n: s.status.pools[n].ready)),
    Family(
        "gpu_agent_pool_memory_bytes",
        "gauge",
        "The most that its engine was seen to take, on GPUs or on the processor.",
        _taken(lambda pool: pool.measured_bytes),
    ),
    Family(
        "gpu_agent_pool_memory_expected_bytes",
        "gauge",
        "What its model's header let expect.",
        _taken(lambda pool: pool.expected_bytes),
    ),
    Family("gpu_agent_pool_idle_reason", "gauge", "1 for every reason why this pool takes no task.", _pool_idle),
    Family("gpu_agent_link_up", "gauge", "1 when a session is open.", _one(lambda s: s.link.state == "open")),
    Family(
        "gpu_agent_link_last_answer_seconds",
        "gauge",
        "Age of the coordinator's last answer.",
        _one(lambda s: s.link.last_answer_s),
    ),
    Family(
        "gpu_agent_clock_offset_seconds",
        "gauge",
        "The coordinator's clock minus ours.",
        _one(lambda s: s.link.clock_offset_s),
    ),
    Family("gpu_agent_transcripts_bytes", "gauge", "Kept for challenges.", _one(lambda s: s.storage.transcripts_bytes)),
    Family(
        "gpu_agent_transcripts_quota_bytes",
        "gauge",
        "The most that are kept.",
        _one(lambda s: s.storage.transcripts_quota_bytes),
    ),
    Family(
        "gpu_agent_storage_damaged",
        "gauge",
        "1 while damage to what was kept is not acknowledged.",
        _one(lambda s: bool(s.storage.damage)),
    ),
    Family("gpu_agent_challenges_total", "counter", "Challenges of all its lives, by what it did.", _challenges),
    Family(
        "gpu_agent_challenges_open",
        "gauge",
        "Challenges that are being answered.",
        _one(lambda s: s.proofs.challenges.get(ChallengeOutcome.ASKED, 0)),
    ),
    Family("gpu_agent_judgements_total", "counter", "Judgements of all its lives, by kind.", _judgements),
    Family(
        "gpu_agent_stake",
        "gauge",
        "What the latest judgement left of the stake.",
        _one(lambda s: None if s.proofs.stake_micros is None else s.proofs.stake_micros / 1e6),
    ),
    *GPU_FAMILIES,
)
"""Everything that is served, in the order of the page."""
