"""Whether a result agrees with its offer, with its output, with its commitment and with itself."""

from __future__ import annotations

from collections.abc import Iterator

from agent.core.errors import ProofError
from agent.core.model import (
    ChatInput,
    Commitment,
    CompletionInput,
    EmbeddingInput,
    Outcome,
    TaskInput,
    TaskSpec,
    VerifyInput,
)
from agent.core.proof.commitment import AnyHeader, check_header, read_commitment
from agent.core.proof.header import Header, ProofKind
from agent.core.proof.program import ProgramHeader
from agent.core.proof.sealing import output_of
from agent.core.proof.transcript import LEAF_TOKENS
from agent.core.proof.verdict import VERDICT_LEAVES, VerdictHeader
from agent.core.wire import OfferBody, ResultBody, encode
from agent.devnet.core.delivery import Delivered
from agent.devnet.core.records import Lease

HIDDEN_TOKENS = 32
"""What an engine may count and not show: the end of the text, half a character, and besides this what made a stop
string, of which every token stands for a byte or more."""
PROGRAM_LEAVES = 3
MOST_CANDIDATES = 256
"""A token, as nodes can be configured: with far more a few tokens would be too much to open, let alone to read."""
MOST_TOKEN_BYTES = 1024
"""Several times the longest of any vocabulary, also where each byte is escaped. Outputs are kept for ever, and one that
is too long for validators is checked by nobody."""
MOST_ROW_BYTES = 1 << 20
"""Likewise, of 32,768 numbers."""
TEMPLATE_TOKENS = 1024
"""What a chat template may add. All else is text, and every token of it stands for a byte or more."""


def faults_of(node_id: str, delivered: Delivered, lease: Lease, offer: OfferBody) -> list[str]:
    """Every contradiction, in plain words; none means that the result may be accepted."""
    faults = [*_claims(node_id, delivered.body, lease), *_output(delivered)]
    if delivered.body.outcome is Outcome.SUCCEEDED:
        faults += _success(delivered, offer)
    return faults


def _claims(node_id: str, body: ResultBody, lease: Lease) -> Iterator[str]:
    if lease.node_id != node_id:
        yield "this lease was granted to another node"
    if body.node_id != node_id:
        yield f"it names node {body.node_id[:64]}, but {node_id} delivered it"
    if body.idem_key != lease.idem_key:
        yield f"its idem_key is not the offer's ({lease.idem_key})"


def _output(delivered: Delivered) -> Iterator[str]:
    body = delivered.body
    if body.output_sha256 != delivered.output_sha256:
        yield "output_sha256 is not the digest of the output that came"
    elif body.output_bytes != delivered.output_bytes:
        yield f"output_bytes is {body.output_bytes}, but {delivered.output_bytes} came"
    if body.artifact != delivered.artifact:
        yield "the artifact is not the one that came"


def _success(delivered: Delivered, offer: OfferBody) -> Iterator[str]:
    body = delivered.body
    if not delivered.output_sha256:
        yield "it succeeded without an output"
    yield from _length(body, offer.task.input)
    if body.usage.completion_tokens > offer.task.max_tokens:
        yield f"{body.usage.completion_tokens} completion tokens, but {offer.task.max_tokens} were asked for at most"
    if body.usage.prompt_tokens > (most := len(encode(offer.task.input)) + TEMPLATE_TOKENS):
        yield f"{body.usage.prompt_tokens} prompt tokens, but the input cannot make more than {most}"
    if body.commitment is None:
        yield "it succeeded without a commitment"
    elif isinstance(offer.task.input, VerifyInput) and delivered.output != output_of(body.commitment.root):
        yield "the output of a check names the root of its commitment, and nothing else"
    else:
        yield from _commitment(body, body.commitment, delivered.signed.key, offer)


def _length(body: ResultBody, asked: TaskInput) -> Iterator[str]:
    match asked:
        case ChatInput() | CompletionInput():
            what, most = "tokens", (body.usage.completion_tokens + HIDDEN_TOKENS) * MOST_TOKEN_BYTES
        case EmbeddingInput(texts=texts):
            what, most = "rows", len(texts) * MOST_ROW_BYTES
        case _:
            return
    if body.output_bytes > most:
        yield f"{body.output_bytes} bytes of output, but its {what} take {most} at most"


def _commitment(body: ResultBody, commitment: Commitment, node_key: str, offer: OfferBody) -> Iterator[str]:
    try:
        header = read_commitment(commitment, node_key)
        check_header(header, offer)
    except ProofError as error:
        yield f"{error.check}: {error.message}"
    else:
        yield from _header(header, body)
        yield from _transcript(header, commitment, offer.task)


def _transcript(header: AnyHeader, commitment: Commitment, task: TaskSpec) -> Iterator[str]:
    """Whether there are leaves enough for what is claimed. What is in them only a look at the transcript can tell."""
    if isinstance(header, VerdictHeader):
        if commitment.leaves != VERDICT_LEAVES:
            yield f"{commitment.leaves} leaves, but a verdict and the end are {VERDICT_LEAVES}"
    elif isinstance(header, ProgramHeader):
        if commitment.leaves < PROGRAM_LEAVES:
            yield f"{commitment.leaves} leaves, but stdout, stderr and the end make {PROGRAM_LEAVES}"
    elif isinstance(task.input, EmbeddingInput):
        if commitment.leaves != (rows := len(task.input.texts)) + 1:
            yield f"{commitment.leaves} leaves, but {rows} rows were asked for"
    elif commitment.leaves - 1 > (most := header.completion_tokens + HIDDEN_TOKENS):
        yield f"{commitment.leaves} leaves, but {header.completion_tokens} completion tokens fill {most} at most"
    elif header.proof_kind is ProofKind.TOKENS_F32:
        hidden = HIDDEN_TOKENS + max((len(stop.encode()) for stop in task.sampling.stop), default=0)
        most = (commitment.leaves - 1) * LEAF_TOKENS + hidden
        if header.completion_tokens > most:
            yield f"{header.completion_tokens} completion tokens, but the committed leaves hold {most} at most"


def _header(header: AnyHeader, body: ResultBody) -> Iterator[str]:
    if isinstance(header, Header) and header.n_probs > MOST_CANDIDATES:
        yield f"{header.n_probs} candidates a token; at most {MOST_CANDIDATES} can be shown"
    if header.artifact != (body.artifact.sha256 if body.artifact else ""):
        yield "the committed artifact is another one"
    if header.output_sha256 != body.output_sha256:
        yield "the committed output is another one"
    if (header.prompt_tokens, header.completion_tokens) != (body.usage.prompt_tokens, body.usage.completion_tokens):
        yield "the committed token counts are not those of the usage"
