"""Makes transcripts, commitments and receipt bundles with real signatures."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from agent.core import wire
from agent.core.archive import END, Entry, head, padding
from agent.core.model import Blob, Bundle, ExecInput, FinishReason, Outcome, Reason, TaskKind, Usage
from agent.core.program import RUNTIME
from agent.core.proof.commitment import commit
from agent.core.proof.files import leaves_of
from agent.core.proof.header import Header, header_of
from agent.core.proof.program import Ended, ProgramHeader
from agent.core.proof.program import program_header as header_of_program
from agent.core.proof.signed import seal
from agent.core.proof.transcript import Transcript, TranscriptBuilder
from agent.edges.signing import KeyPair
from agent.ports import Piece
from tests import builders

# RFC 8032, section 7.1, TEST 2.
NODE_KEYS = KeyPair.from_pem(
    b"-----BEGIN PRIVATE KEY-----\n"
    b"MC4CAQAwBQYDK2VwBCIEIEzNCJso/5banbbDRuwRTg9bijGfNaumJNqM9u1PuKb7\n"
    b"-----END PRIVATE KEY-----\n"
)
COORDINATOR_KEYS = KeyPair.generate()
OUTPUT = '{"text":"blåbær"}'
USAGE = Usage(prompt_tokens=9, completion_tokens=40)


def token(number: int, candidates: int = 3) -> Piece:
    """The `number`-th token of a made-up generation; its candidates' log-probabilities are exact in an f32."""
    ids = tuple(1000 * number + rank for rank in range(candidates))
    return Piece(
        text=f"t{number}",
        token_id=ids[0],
        logprob=-0.5,
        top_ids=ids,
        top_logprobs=tuple(-0.5 - r for r in range(candidates)),
    )


def transcript(tokens: int = 40, candidates: int = 3) -> Transcript:
    builder = TranscriptBuilder(candidates)
    for number in range(tokens):
        builder.add(token(number, candidates))
    return builder.finish()


PUBLISHER = "66" * 32
PROGRAM = ExecInput(
    bundle=Bundle(sha256="55" * 32, bytes=2048, publisher=PUBLISHER, signature="0" * 128),
    argv=("/bundle/render", "--frame", "7"),
    env={"SCENE": "zoom", "GRÜN": "ä"},
    inputs={"scene.json": Blob(sha256="77" * 32, bytes=12), "a": Blob(sha256="88" * 32, bytes=0)},
    outputs=("*.png",),
    merge_stderr=True,
)
PROGRAM_POOL = builders.pool("programs", engine="bubblewrap 0.8.0", model_digest=RUNTIME, kinds=(TaskKind.EXEC,))


def program_offer(**changes: Any) -> wire.OfferBody:
    """An offer of a program."""
    return builders.offer(spec=builders.task(task_input=PROGRAM, model=RUNTIME, max_tokens=0), **changes)


def program_header(**changes: Any) -> ProgramHeader:
    fields: dict[str, Any] = {
        "node_key": NODE_KEYS.public_key,
        "ended": Ended.EXITED,
        "code": 3,
        "artifact": "99" * 32,
        "output_sha256": hashlib.sha256(OUTPUT.encode()).hexdigest(),
    }
    return header_of_program(changes.pop("offer", program_offer()), PROGRAM_POOL, **{**fields, **changes})


def archive(files: dict[bytes, bytes]) -> bytes:
    """What a program left."""
    made = b""
    for path, content in sorted(files.items()):
        made += head(Entry(path, len(content))) + content + bytes(padding(len(content)))
    return made + END


ARCHIVE = archive({b"out/frame.png": b"\x89PNG", b"stderr": b"", b"stdout": b"frame 7\n"})


def program_result(offer: wire.OfferBody, left: bytes = ARCHIVE) -> dict[str, Any]:
    """Fields of the result of a program."""
    builder = TranscriptBuilder(0)
    builder.add_files(leaves_of(left))
    made, digest = builder.finish(), hashlib.sha256(left).hexdigest()
    return {
        "usage": Usage(),
        "artifact": Blob(sha256=digest, bytes=len(left)),
        "commitment": commit(program_header(offer=offer, artifact=digest), made),
    }


def header(made: Transcript | None = None, offer: wire.OfferBody | None = None, **changes: Any) -> Header:
    fields: dict[str, Any] = {
        "node_key": NODE_KEYS.public_key,
        "n_probs": 3,
        "finish": FinishReason.STOP,
        "usage": USAGE,
        "request_sha256": "11" * 32,
        "prompt_sha256": "22" * 32,
        "proof_kind": (made or transcript()).proof_kind,
        "output_sha256": hashlib.sha256(OUTPUT.encode()).hexdigest(),
    }
    pool = changes.pop("pool", builders.pool(engine_digest="33" * 32))
    return header_of(offer or builders.offer(), pool, **{**fields, **changes})


def result_body(offer: wire.OfferBody, **changes: Any) -> wire.ResultBody:
    made = transcript()
    if isinstance(offer.task.input, ExecInput):
        changes = {**program_result(offer), **changes}
    fields: dict[str, Any] = {
        "node_id": offer.node_id,
        "task_id": offer.task.task_id,
        "attempt": offer.attempt,
        "fence": offer.fence,
        "idem_key": offer.idem_key,
        "outcome": Outcome.SUCCEEDED,
        "reason": Reason.COMPLETED,
        "output_sha256": hashlib.sha256(OUTPUT.encode()).hexdigest(),
        "output_bytes": len(OUTPUT.encode()),
        "usage": USAGE,
        **({} if "commitment" in changes else {"commitment": commit(header(made, offer), made)}),
    }
    return wire.ResultBody(**{**fields, **changes})


def receipt_body(result: wire.ResultBody, payload: str, **changes: Any) -> wire.ReceiptBody:
    fields: dict[str, Any] = {
        "receipt_id": "r-1",
        "node_id": result.node_id,
        "task_id": result.task_id,
        "attempt": result.attempt,
        "fence": result.fence,
        "idem_key": result.idem_key,
        "status": wire.ReceiptStatus.ACCEPTED,
        "result_sha256": hashlib.sha256(payload.encode()).hexdigest(),
        "received_at": 1_700_000_000,
        "output_sha256": result.output_sha256,
        "commitment_root": result.commitment.root if result.commitment else "",
        "amount_micros": 1_234_567,
        "currency": "credit",
    }
    return wire.ReceiptBody(**{**fields, **changes})


def judged(of: wire.ReceiptBundle, coordinator: KeyPair = COORDINATOR_KEYS, **changes: Any) -> wire.ReceiptBundle:
    """The bundle with the coordinator's judgement of it."""
    receipt = msgspec.json.decode(of.receipt.payload, type=wire.ReceiptBody)
    fields: dict[str, Any] = {
        "serial": 1,
        "node_id": receipt.node_id,
        "subject": wire.Subject.ANSWER,
        "task_id": receipt.task_id,
        "attempt": receipt.attempt,
        "fence": receipt.fence,
        "judgement": wire.Judgement.PASSED,
        "validators": 2,
    }
    body = wire.encode(wire.JudgementBody(**{**fields, **changes}))
    signed = seal(wire.Role.JUDGEMENT, body, coordinator.public_key, coordinator.sign)
    return msgspec.structs.replace(of, judgement=signed)


def bundle(
    offer: wire.OfferBody | None = None,
    *,
    coordinator: KeyPair = COORDINATOR_KEYS,
    node: KeyPair = NODE_KEYS,
    output: str | None = OUTPUT,
    result: dict[str, Any] | None = None,
    receipt: dict[str, Any] | None = None,
) -> wire.ReceiptBundle:
    """A bundle of which every check passes; `result` and `receipt` change fields before they are signed."""
    asked = offer or builders.offer()
    done = result_body(asked, **(result or {}))
    signed = seal(wire.Role.RESULT, wire.encode(done), node.public_key, node.sign)
    settled = receipt_body(done, signed.payload, **(receipt or {}))
    return wire.ReceiptBundle(
        coordinator_key=coordinator.public_key,
        offer=seal(wire.Role.OFFER, wire.encode(asked), coordinator.public_key, coordinator.sign),
        result=signed,
        receipt=seal(wire.Role.RECEIPT, wire.encode(settled), coordinator.public_key, coordinator.sign),
        output=output,
    )
