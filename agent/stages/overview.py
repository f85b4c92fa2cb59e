"""Everything that `gpu-agent status` shows, gathered from those who own it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from agent import __version__
from agent.core.attempt import Attempt
from agent.core.attest.messages import Attestation
from agent.core.health import HealthState
from agent.core.metrics import Scene
from agent.core.model import Outcome, Reason, TaskKind
from agent.core.status import (
    AttemptStatus,
    Ended,
    Gate,
    GpuStatus,
    LinkStatus,
    NodeStatus,
    PoolStatus,
    SandboxStatus,
    Status,
    Totals,
    readings,
    why_reboot,
)
from agent.core.text import span
from agent.core.watchdog import Pulse
from agent.ports import Link
from agent.stages.deliver import Deliver
from agent.stages.docket import Docket
from agent.stages.execute import Execute
from agent.stages.herald import Herald
from agent.stages.probe import Probe
from agent.stages.pull import Pull
from agent.stages.release import Release
from agent.stages.spine import Spine
from agent.stages.storage import StorageGate

SILENT_S = 30.0
"""Three beats without an answer: then the coordinator is called unreachable."""


NO_DEMAND_AFTER_S = 5.0
"""How long to ask for nothing before that is called a lack of demand: between two tasks there is always a moment."""


class Overview:
    """Reads, never keeps: every figure has one owner elsewhere."""

    def __init__(
        self,
        spine: Spine,
        herald: Herald,
        execute: Execute,
        deliver: Deliver,
        link: Link,
        pulse: Pulse,
        storage: StorageGate,
        probe: Probe,
        pull: Pull,
        release: Release,
        docket: Docket,
        *,
        name: str,
        url: str,
        attested: Mapping[str, Attestation] | None = None,
        plan: Callable[[], str] = str,
    ) -> None:
        """`attested`: what the coordinator says of each device, live."""
        self._spine = spine
        self._herald = herald
        self._execute = execute
        self._deliver = deliver
        self._link = link
        self._pulse = pulse
        self._storage = storage
        self._probe = probe
        self._pull = pull
        self._release = release
        self._docket = docket
        self._plan = plan
        self._attested = attested if attested is not None else {}
        self._name = name
        self._url = url
        self._started_at = spine.clock.wall()
        self.page = ""
        """Where the owner's page is served; set by who serves it."""

    def status(self) -> Status:
        """One consistent view: nothing here awaits."""
        node, now = self._spine.node, self._spine.clock.monotonic()
        return Status(
            node=NodeStatus(
                id=node.node_id,
                name=self._name,
                state=node.state.value,
                version=__version__,
                started_at=self._started_at,
                since_s=max(0.0, now - self._spine.moved),
                paused=node.is_paused,
            ),
            link=self._link_status(now),
            sandbox=self._sandbox(),
            why_idle=tuple(self._gates(now)),
            pools=tuple(self._pools(now)),
            gpus=(gpus := tuple(self._gpus(now))),
            reboot=why_reboot(self._probe.report, gpus),
            attempts=tuple(self._attempt(attempt, now) for attempt in node.attempts.values()),
            recent=tuple(node.closed),
            outbox_waiting=len(self._deliver.unsent),
            totals=self._totals(),
            storage=self._storage.status(),
            proofs=self._docket.totals,
            schedule=self._plan(),
            page=self.page,
        )

    def scene(self) -> Scene:
        """For the metrics: the status, and the readings that it leaves out."""
        return Scene(self.status(), self._probe.report, self._herald.fingerprint.hostname)

    def _gates(self, now: float) -> list[Gate]:
        """Every failing gate; when none fails and nothing runs, the coordinator simply has no work for us."""
        gates = self._spine.node.gates(now)
        answered, told = self._pulse.last_answer(), self._link.describe()
        fault = told.get("last_fault", "")
        shut_out = bool(fault) and told.get("state") != "open"  # it answers, but opens no session for this node
        if answered is None or now - answered > SILENT_S or shut_out:
            detail = fault or "no answer yet"
            gates.insert(0, Gate(reason=Reason.COORDINATOR_UNREACHABLE, detail=detail))
        asking_since = self._pull.asking_since
        if not gates and not self._spine.node.attempts and asking_since is not None:
            detail = f"asked for {span(now - asking_since)}: the coordinator has no task for these pools"
            if now - asking_since >= NO_DEMAND_AFTER_S:
                gates.append(Gate(reason=Reason.NO_DEMAND, detail=detail))
        return gates

    def _link_status(self, now: float) -> LinkStatus:
        told, answered = self._link.describe(), self._pulse.last_answer()
        offset = told.get("clock_offset_s")
        return LinkStatus(
            url=self._url,
            transport=told.get("transport", ""),
            state=told.get("state", ""),
            last_answer_s=None if answered is None else max(0.0, now - answered),
            clock_offset_s=float(offset) if offset else None,
            detail=told.get("last_fault", "") or told.get("why", ""),
        )

    def _sandbox(self) -> SandboxStatus:
        facts = self._herald.fingerprint.sandbox
        return SandboxStatus(
            backend=facts.backend,
            usable=facts.usable,
            unenforced=tuple(limit.limit for limit in facts.limits if not limit.enforced),
            detail=facts.detail,
        )

    def _pools(self, now: float) -> list[PoolStatus]:
        node = self._spine.node
        return [
            PoolStatus(
                name=pool.name,
                model=pool.model,
                device=pool.device,
                engine=pool.engine,
                ready=pool.ready,
                busy=node.busy(pool.name),
                slots=pool.slots,
                detail=pool.detail or node.breakers[pool.name].tell(now),
                determinism=pool.determinism if pool.ready and not pool.programs else "",
                validates=TaskKind.VERIFY in pool.kinds,
                gates=tuple(node.pool_gates(pool.name, now)),
                expected_bytes=self._release.taken(pool.name).expected_bytes,
                measured_bytes=self._release.taken(pool.name).measured_bytes,
                unloads=self._release.unloads(pool.name),
                released=self._release.released(pool.name),
            )
            for pool in node.pools.values()
        ]

    def _gpus(self, now: float) -> list[GpuStatus]:
        told, paused = self._herald.fingerprint, self._spine.node.devices.paused
        standings = {standing.uuid: standing for standing in told.standings}
        read, used = {gpu.uuid: gpu for gpu in self._probe.report.gpus if not gpu.fault}, self._release.used()
        found = []
        for gpu in told.gpus:
            standing, pause = standings.get(gpu.uuid), paused.get(gpu.uuid)
            until = pause.until if pause else None
            found.append(
                GpuStatus(
                    uuid=gpu.uuid,
                    name=gpu.name,
                    index=gpu.index,
                    state=standing.state if standing else HealthState.UNKNOWN,
                    findings=standing.findings if standing else (),
                    detail=standing.detail if standing else "",
                    last_xid=self._probe.last_xid(gpu.uuid),
                    paused=pause is not None,
                    paused_s=None if until is None else max(0.0, until - now),
                    doubts=standing.doubts if standing else (),
                    attestation=self._attested.get(gpu.uuid),
                    readings=readings(read[gpu.uuid], used) if gpu.uuid in read else None,
                )
            )
        return found

    def _attempt(self, attempt: Attempt, now: float) -> AttemptStatus:
        return AttemptStatus(
            task_id=attempt.key.task_id,
            state=attempt.state,
            pool=attempt.pool,
            age_s=now - attempt.leased_at,
            tokens=self._execute.tokens.get(attempt.key, 0),
            max_tokens=attempt.offer.task.max_tokens,
            deadline_s=attempt.task_deadline - now,
        )

    def _totals(self) -> Totals:
        counts, ended = self._spine.node.counts, self._spine.node.ended
        return Totals(
            done=counts[Outcome.SUCCEEDED],
            failed=counts[Outcome.FAILED] + counts[Outcome.EXPIRED],
            handed_back=counts[Outcome.HANDED_BACK],
            earned_micros=self._deliver.earned_micros,
            currency=self._deliver.currency,
            ended=tuple(Ended(outcome=how, reason=why, count=count) for (how, why), count in ended.items()),
        )
