"""What passes from execute to prove to report: values, not places."""

from __future__ import annotations

from typing import Protocol

from agent.core.fingerprint import Pool
from agent.core.model import Blob, Commitment, Reason, Timings, Usage, Value
from agent.core.proof.commitment import AnyHeader
from agent.core.proof.header import Header, header_of
from agent.core.proof.program import Ended, ProgramHeader, program_header
from agent.core.proof.transcript import Transcript, TranscriptBuilder
from agent.core.proof.verdict import VerdictHeader, verdict_header
from agent.core.wire import OfferBody
from agent.ports import Artifact, Finished

NO_TOKENS = Usage()


class Made(Protocol):
    """What was made of one task, whatever kind it was of."""

    @property
    def output(self) -> str:
        """JSON text for the requester (docs/protocol.md, Output)."""
        ...

    @property
    def builder(self) -> TranscriptBuilder: ...
    @property
    def usage(self) -> Usage: ...
    @property
    def timings(self) -> Timings: ...
    @property
    def reason(self) -> Reason:
        """Beside the success that it is."""
        ...

    @property
    def artifact(self) -> Artifact | None: ...
    def header(
        self, offer: OfferBody, pool: Pool, transcript: Transcript, *, node_key: str, output_sha256: str
    ) -> AnyHeader: ...


class Product(Value):
    """What an engine made of one task."""

    output: str
    builder: TranscriptBuilder
    finished: Finished
    timings: Timings
    reason: Reason = Reason.COMPLETED
    artifact: Artifact | None = None

    @property
    def usage(self) -> Usage:
        """As the engine counts."""
        return self.finished.usage

    def header(
        self, offer: OfferBody, pool: Pool, transcript: Transcript, *, node_key: str, output_sha256: str
    ) -> Header:
        """What the node commits to."""
        finished = self.finished
        return header_of(
            offer,
            pool,
            node_key=node_key,
            n_probs=finished.n_probs,
            finish=finished.finish,
            usage=finished.usage,
            request_sha256=finished.request_sha256,
            prompt_sha256=finished.prompt_sha256,
            proof_kind=transcript.proof_kind,
            output_sha256=output_sha256,
        )


class ProgramProduct(Value):
    """What a program left."""

    output: str
    builder: TranscriptBuilder
    timings: Timings
    reason: Reason
    ended: Ended
    code: int
    artifact: Artifact
    usage: Usage = NO_TOKENS

    def header(
        self, offer: OfferBody, pool: Pool, _transcript: Transcript, *, node_key: str, output_sha256: str
    ) -> ProgramHeader:
        """What the node commits to."""
        return program_header(
            offer,
            pool,
            node_key=node_key,
            ended=self.ended,
            code=self.code,
            artifact=self.artifact.blob.sha256,
            output_sha256=output_sha256,
        )


class VerdictProduct(Value):
    """A verdict under seal: the output tells its root alone."""

    output: str
    builder: TranscriptBuilder
    timings: Timings
    reason: Reason = Reason.COMPLETED
    artifact: Artifact | None = None
    usage: Usage = NO_TOKENS

    def header(
        self, offer: OfferBody, pool: Pool, _transcript: Transcript, *, node_key: str, output_sha256: str
    ) -> VerdictHeader:
        """What the node commits to."""
        return verdict_header(offer, pool, node_key=node_key, output_sha256=output_sha256)


class Sealed(Value):
    """A product with its commitment: ready to be released."""

    output: str
    output_sha256: str
    usage: Usage
    timings: Timings
    commitment: Commitment
    artifact: Blob | None = None
