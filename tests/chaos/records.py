"""What coordinator and nodes wrote down, read from their disks, and where it does not come out even."""

from __future__ import annotations

import hashlib
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from agent.core.model import ExecInput
from agent.core.payloads import BeaconSource, Judgement, JudgementBody, Subject
from agent.core.proof.drawing import is_drawn
from agent.devnet.core.proofs.records import Case, Epoch, Judged, Standing
from agent.devnet.core.records import Demand, LedgerKind, LedgerLine, Settlement
from agent.devnet.core.rules import ProofRules
from agent.edges.programs.artifacts import DIRECTORY_NAME
from agent.edges.proofs import PROOFS_NAME, read_proofs

V = TypeVar("V", bound=msgspec.Struct)
WELL = frozenset({Judgement.PASSED, Judgement.VOID})
_bodies = msgspec.json.Decoder(JudgementBody)


class Records(NamedTuple):
    """Everything, oldest first. `heard`: node → judgements that it keeps."""

    demands: Sequence[Demand]
    settlements: Sequence[Settlement]
    ledger: Sequence[LedgerLine]
    epochs: Sequence[Epoch]
    cases: Sequence[Case]
    standings: Sequence[Standing]
    judged: dict[str, list[JudgementBody]]
    heard: dict[str, list[JudgementBody]]
    blobs: Path
    spools: Sequence[Path]

    def unheard(self) -> dict[str, int]:
        """Node → judgements that it does not know yet."""
        lacking = {it: len(bodies) - len(self.heard.get(it, ())) for it, bodies in self.judged.items()}
        return {node_id: count for node_id, count in lacking.items() if count}

    def all_drawn(self) -> bool:
        """Whether no result waits for its beacon any more."""
        told = {epoch.number for epoch in self.epochs if epoch.told}
        return all(it.receipt_body.beacon is None or it.receipt_body.beacon.round in told for it in self.settlements)

    def told(self) -> dict[str, Any]:
        """In numbers."""
        bodies = [body for its in self.judged.values() for body in its]
        kinds = Counter(f"{body.subject.value} {body.judgement.value}" for body in bodies)
        whys = Counter(body.detail.split(":")[0] for body in bodies if body.judgement is Judgement.VOID)
        return {
            "cases": len(self.cases),
            "judgements": dict(sorted(kinds.items())),
            "void": dict(whys),
            "barred": sum(it.barred for it in self.standings),
            "artifacts": sum(it.artifact is not None for it in self.settlements),
        }

    def faults(self, rules: ProofRules) -> list[str]:
        """Every promise that does not hold; `rules`: what a stake is."""
        return [*self._answers(), *self._judgements(), *self._money(rules), *self._artifacts()]

    # ------------------------------------------------------------------ one promise after the other

    def _answers(self) -> Iterator[str]:
        """What chance drew is judged once, and nothing else is."""
        secrets = {epoch.number: bytes.fromhex(epoch.secret) for epoch in self.epochs}
        bodies = [body for its in self.judged.values() for body in its if body.subject is Subject.ANSWER]
        times = Counter((body.task_id, body.attempt) for body in bodies)
        for it in self.settlements:  # those of attempts that failed as well: of these nothing is drawn
            receipt, promise = it.receipt_body, it.receipt_body.beacon
            drawn = promise is not None and is_drawn(
                secrets[promise.round], receipt.commitment_root, it.task_id, promise.rate_micros
            )
            assert promise is None or promise.source is BeaconSource.EPOCH
            if promise and hashlib.sha256(secrets[promise.round]).hexdigest() != promise.commitment:
                yield f"{it.task_id}: the promised secret is another one"
            if (judged := times[it.task_id, receipt.attempt]) != drawn:
                yield f"{it.idem_key} was judged {judged} times, drawn: {drawn}"

    def _judgements(self) -> Iterator[str]:
        """They are in line, nodes have them all, and no honest node is blamed."""
        for node_id, bodies in self.judged.items():
            if [body.serial for body in bodies] != list(range(1, len(bodies) + 1)):
                yield f"{node_id}: serials {[body.serial for body in bodies]}"
            if self.heard.get(node_id) != bodies:
                yield f"{node_id} keeps other judgements than the coordinator signed"
            for body in bodies:
                silence = (body.subject, body.judgement) == (Subject.VERDICT, Judgement.UNOPENED)
                if body.slashed_micros or (body.judgement not in WELL and not silence):
                    yield f"{node_id} is blamed: {body}"
                if "could not be examined" in body.detail:
                    yield f"{node_id}: {body.detail}"
        for it in self.standings:
            if it.verdicts_wrong or it.suspected or it.barred:
                yield f"{it.node_id} is blamed: {it}"

    def _money(self, rules: ProofRules) -> Iterator[str]:
        """Whole micros: stakes, rewards and pay."""
        for it in self.standings:
            lines = [line for line in self.ledger if line.node_id == it.node_id]
            taken = -sum(line.amount_micros for line in lines if line.kind is LedgerKind.SLASHED)
            if it.stake_micros + taken != rules.stake_micros:
                yield f"{it.node_id} has {it.stake_micros} after {taken} were taken of {rules.stake_micros}"
            verdicts = [body for body in self.judged.get(it.node_id, ()) if body.subject is Subject.VERDICT]
            rewards = sum(line.amount_micros for line in lines if line.kind is LedgerKind.VERDICT)
            if rewards != rules.verdict_reward_micros * sum(body.judgement is Judgement.PASSED for body in verdicts):
                yield f"{it.node_id} got {rewards} for {len(verdicts)} verdicts"
        paid = Counter(line.task_id for line in self.ledger if line.kind is LedgerKind.EARNED)
        if twice := [task_id for task_id, times in paid.items() if times > 1]:
            yield f"paid twice: {twice}"
        amounts = {line.idem_key: line.amount_micros for line in self.ledger if line.kind is LedgerKind.EARNED}
        for it in self.settlements:
            if it.receipt_body.amount_micros != amounts.get(it.idem_key, 0):
                yield f"{it.idem_key}: its receipt promises {it.receipt_body.amount_micros}"

    def _artifacts(self) -> Iterator[str]:
        """What programs left is with the coordinator, and nowhere else."""
        kinds = {it.spec.task_id: it.spec.input for it in self.demands}
        for it in self.settlements:
            if not isinstance(kinds[it.task_id], ExecInput) or not it.receipt_body.commitment_root:
                continue
            path = self.blobs / it.artifact.sha256 if it.artifact else self.blobs / "nothing"
            content = path.read_bytes() if path.exists() else b""
            if it.artifact is None or hashlib.sha256(content).hexdigest() != it.artifact.sha256:
                yield f"{it.idem_key}: its artifact is not there"
        for spool in self.spools:
            if left := sorted(path.name for path in spool.iterdir()):
                yield f"{spool} was not freed: {left}"


def records_of(coordinator: Path, nodes: Sequence[Path]) -> Records:
    """From the state directories of a coordinator and its nodes, which may be running."""
    with closing(sqlite3.connect(f"file:{coordinator}/coordinator.sqlite?mode=ro", uri=True)) as database:
        database.execute("BEGIN")

        def all_of(kind: type[V], table: str, order: str) -> list[V]:
            rows = database.execute(f"SELECT doc FROM {table} ORDER BY {order}")
            return [msgspec.json.decode(doc, type=kind) for (doc,) in rows]

        judged: dict[str, list[JudgementBody]] = {}
        for it in all_of(Judged, "judged", "node_id, serial"):
            judged.setdefault(it.node_id, []).append(_bodies.decode(it.signed.payload))
        return Records(
            demands=all_of(Demand, "demands", "number"),
            settlements=all_of(Settlement, "settlements", "rowid"),
            ledger=all_of(LedgerLine, "ledger", "line"),
            epochs=all_of(Epoch, "epochs", "number"),
            cases=[*all_of(Case, "cases", "line"), *all_of(Case, "judged_cases", "line")],
            standings=all_of(Standing, "standings", "node_id"),
            judged=judged,
            heard=dict(filter(None, map(_heard, nodes))),
            blobs=coordinator / "blobs",
            spools=[it / DIRECTORY_NAME for it in nodes],
        )


def _heard(node: Path) -> tuple[str, list[JudgementBody]] | None:
    bodies = sorted(read_proofs(node / PROOFS_NAME, 1 << 30).judgements, key=lambda body: body.serial)
    return (bodies[0].node_id, bodies) if bodies else None
