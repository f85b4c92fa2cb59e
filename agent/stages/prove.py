"""Prove: commit to what was generated before it is released, and keep the transcript for challenges."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from functools import partial

import msgspec
import structlog

from agent.core import events as ev
from agent.core.attempt import Event
from agent.core.errors import ProofError, StorageError
from agent.core.model import LeaseKey, Reason
from agent.core.proof.commitment import commit
from agent.core.proof.leaves import join_leaves
from agent.core.proof.transcript import Transcript
from agent.ports import Artifact, Artifacts, EnginePool, Identity, Transcripts
from agent.stages.containment import contained
from agent.stages.lifetime import Lifetime
from agent.stages.product import Made, Sealed
from agent.stages.spine import Spine
from agent.stages.storage import StorageGate

SWEEP_S = 600.0


class Prove:
    """Seals products; sweeps transcripts whose challenge window is over."""

    def __init__(
        self,
        spine: Spine,
        identity: Identity,
        pools: Mapping[str, EnginePool],
        transcripts: Transcripts,
        *,
        retention_s: float,
        storage: StorageGate,
        artifacts: Artifacts | None = None,
        swept_until: Callable[[float], float] = lambda now: now,
    ) -> None:
        """`artifacts`: where what programs leave is kept; None where none run. `swept_until`: by when (Unix seconds)
        transcripts must have passed their time to be deleted now: an open challenge holds that up.
        """
        self._spine = spine
        self._identity = identity
        self._pools = pools
        self._transcripts = transcripts
        self._retention_s = retention_s
        self._lifetime = Lifetime(spine.clock)
        self._storage = storage
        self._artifacts = artifacts
        self._swept_until = swept_until
        self._mailbox = spine.mailbox(ev.Prove)
        self._log = structlog.get_logger("prove")

    async def run(self) -> None:
        """Run until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._sweep(), name="sweep transcripts")
            while True:
                command: ev.Prove = await self._mailbox.get()
                work = contained(self._spine, command.key, partial(self._prove, command))
                group.create_task(work, name=f"prove {command.key.task_id}")

    async def _prove(self, command: ev.Prove) -> None:
        try:
            sealed, transcript = self._seal(command)
            await self._keep(command, join_leaves(transcript.leaves), command.product.artifact)
        except ProofError as error:
            self._failed(command.key, Reason.PROOF_FAILED, error.message)
        except StorageError as error:  # a commitment without its transcript could never be opened: do not release
            self._failed(command.key, Reason.STORAGE_FULL if error.full else Reason.PROOF_FAILED, str(error))
        else:
            self._spine.feed(
                ev.Happened(key=command.key, event=Event.PROVED, reason=command.product.reason, product=sealed)
            )
            if self._artifacts is not None and command.key not in self._spine.node.attempts:
                self._artifacts.drop(command.key)  # cancelled meanwhile: nobody will deliver it

    async def _keep(self, command: ev.Prove, leaves: bytes, artifact: Artifact | None) -> None:
        """A full disk is waited for while the result is worth anything: what was computed is not thrown away."""
        clock, key = self._spine.clock, command.key
        try:
            while True:
                try:
                    await self._transcripts.keep(key, leaves, self._until(command.deadline))
                    if artifact is not None and self._artifacts is not None:
                        await self._artifacts.keep(key, artifact)
                    return self._storage.measured(self._transcripts.room())
                except StorageError as error:
                    if not error.full or clock.monotonic() >= command.deadline:
                        raise
                    await self._storage.fails(key, error)
        finally:
            self._storage.works(key)

    def _until(self, deadline: float) -> float:
        """It may be delivered, and then challenged, as late as its deadline."""
        return self._lifetime.now() + max(0.0, deadline - self._spine.clock.monotonic()) + self._retention_s

    def _failed(self, key: LeaseKey, reason: Reason, detail: str) -> None:
        self._spine.feed(ev.Happened(key=key, event=Event.FAILED, reason=reason, detail=detail))

    def _seal(self, command: ev.Prove) -> tuple[Sealed, Transcript]:
        product: Made = command.product
        began = self._spine.clock.monotonic()
        transcript = product.builder.finish()
        output_sha256 = hashlib.sha256(product.output.encode()).hexdigest()
        header = product.header(
            command.offer,
            self._pools[command.pool].facts,
            transcript,
            node_key=self._identity.public_key,
            output_sha256=output_sha256,
        )
        commitment = commit(header, transcript)
        proving_ms = round((self._spine.clock.monotonic() - began) * 1000)
        sealed = Sealed(
            output=product.output,
            output_sha256=output_sha256,
            usage=product.usage,
            timings=msgspec.structs.replace(product.timings, proving_ms=proving_ms),
            commitment=commitment,
            artifact=product.artifact.blob if product.artifact else None,
        )
        return sealed, transcript

    async def _sweep(self) -> None:
        while True:
            try:
                if gone := await self._transcripts.sweep(self._swept_until(self._lifetime.now())):
                    self._log.info("transcripts.swept", deleted=gone)
            except StorageError as error:  # nothing is lost but room, and the next sweep tries again
                self._log.warning("transcripts.unswept", detail=str(error))
            self._storage.measured(self._transcripts.room())
            await self._spine.clock.sleep(SWEEP_S)
