"""The messages between node and coordinator: msgspec tagged structs, JSON on the wire (docs/protocol.md).

Every transport carries `Frame`s. A frame holds one message; `seq` rises strictly within a session; a reply
names the `seq` it answers in `re`. What must be believed later (offer, result, receipt) travels as `Signed`
and is described in `core.payloads`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final, TypeVar

import msgspec

from agent.core.attest.messages import (
    MatrixAgain,
    MatrixAsked,
    MatrixCommitted,
    MatrixDrawn,
    MatrixGo,
    MatrixJudged,
    MatrixOpened,
    MatrixReady,
    MatrixReread,
)
from agent.core.direction import Down as Down
from agent.core.direction import Up as Up
from agent.core.fingerprint import Fingerprint
from agent.core.model import Blob, Count, LeaseKey, Reason, Signed, Value
from agent.core.payloads import Beacon as Beacon
from agent.core.payloads import BeaconPromise as BeaconPromise
from agent.core.payloads import BeaconSource as BeaconSource
from agent.core.payloads import EnrolReply as EnrolReply
from agent.core.payloads import EnrolRequest as EnrolRequest
from agent.core.payloads import Judgement as Judgement
from agent.core.payloads import JudgementBody as JudgementBody
from agent.core.payloads import OfferBody as OfferBody
from agent.core.payloads import ReceiptBody as ReceiptBody
from agent.core.payloads import ReceiptBundle as ReceiptBundle
from agent.core.payloads import ReceiptStatus as ReceiptStatus
from agent.core.payloads import ResultBody as ResultBody
from agent.core.payloads import Role as Role
from agent.core.payloads import Subject as Subject
from agent.core.payloads import VerdictBody as VerdictBody

PROTO_MIN, PROTO_MAX = 1, 1
SUBPROTOCOL = "gpu-agent.v1"

MAX_MESSAGE_BYTES = 1 << 20
"""Largest frame on any transport; an inline output, escaped at worst sixfold, still fits (768 KiB)."""
MAX_INLINE_OUTPUT_BYTES = 128 << 10
"""A larger output goes up as a blob first. 128 KiB escaped sixfold stays inside MAX_MESSAGE_BYTES."""
MAX_BLOB_BYTES = 64 << 20
MAX_PULL_WAIT_S = 25.0
MAX_DELIVERIES = 64
"""Outcomes in one result message: a small one takes 4 KB, so that is a quarter of a frame."""

Seconds = Annotated[float, msgspec.Meta(ge=0, le=10 * 365 * 86400)]
"""A duration; ten years is for ever, and keeps every clock in range."""


class RefusalCode(StrEnum):
    """Why the coordinator refuses a message."""

    BAD_MESSAGE = "bad_message"
    TOO_LARGE = "too_large"
    UNSUPPORTED_VERSION = "unsupported_version"
    UNKNOWN_NODE = "unknown_node"
    BAD_TOKEN = "bad_token"  # noqa: S105  (a refusal code)
    BAD_SIGNATURE = "bad_signature"
    SESSION_EXPIRED = "session_expired"
    REPLAYED = "replayed"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    BUSY = "busy"
    INTERNAL = "internal"


# --------------------------------------------------------------------------- node → coordinator


class Hello(Up):
    """Opens a session: proves the node's key, says what it runs and what it still has to deliver."""

    node_id: str
    nonce: str
    signature: str
    """Ed25519 by the node key over `core.proof.signed.digest(Role.SESSION, session_challenge(...))`."""
    fingerprint: Fingerprint
    proto: tuple[int, int] = (PROTO_MIN, PROTO_MAX)
    running: tuple[LeaseKey, ...] = ()
    unsent: tuple[LeaseKey, ...] = ()


class PoolLoad(Value):
    """How busy one pool is."""

    pool: str
    busy: Count
    free: Count


class Beat(Up):
    """Liveness; renews every lease that it lists."""

    held: tuple[LeaseKey, ...] = ()
    load: tuple[PoolLoad, ...] = ()
    state: str = ""
    """The node's state, as in `core.node.NodeState`."""
    reason: str = ""
    """Why the node takes no work now; empty when it does."""
    fingerprint: Fingerprint | None = None
    """Only on change or every five minutes."""
    judged: Count = 0
    """Serial of the latest judgement that the node has kept."""


class Credit(Value):
    """How many tasks of one model the node would take now."""

    pool: str
    model_digest: str
    count: Count


class Pull(Up):
    """Asks for work, never for more than free slots."""

    credits: tuple[Credit, ...]
    wait_s: Seconds = MAX_PULL_WAIT_S


class Start(Up):
    """Confirms leases before anything runs."""

    keys: tuple[LeaseKey, ...]


class Decline(Up):
    """Returns an offer that this node will not start."""

    key: LeaseKey
    reason: Reason
    detail: str = ""


class Chunk(Up):
    """Streamed text; lossy: the final result is authoritative."""

    key: LeaseKey
    index: Count
    """Rises by one per chunk of an attempt; a gap is a lost chunk."""
    text: str
    tokens: Count
    leaf: str = ""
    """Running leaf hash, hex, when one or more leaves closed since the last chunk (proof.md)."""


class Delivery(Value):
    """One attempt's outcome."""

    signed: Signed
    """ResultBody under Role.RESULT."""
    output: str | None = None
    blob: str | None = None
    """Hex SHA-256 of the output when it went up as a blob."""
    artifact: str | None = None
    """Hex SHA-256 of what a program left, which went up as a blob; the signed result names it, too."""


class Result(Up):
    """Delivers outcomes; each is repeated until its receipt comes."""

    deliveries: tuple[Delivery, ...]


class OpeningRefusal(StrEnum):
    """Why a node does not open what it committed to."""

    NOT_DRAWN = "not_drawn"
    """The beacon is not the promised one, or did not draw this task and these leaves."""
    UNKNOWN = "unknown"
    """It never delivered such a result."""
    GONE = "gone"
    """The transcript was deleted when its time was over."""
    DAMAGED = "damaged"
    """The disk does not give it back."""


class Opening(Up):
    """Answers a challenge, with leaves (`core.proof.opening`) that went up as a blob, or with why there are none."""

    challenge_id: str
    blob: Blob | None = None
    refusal: OpeningRefusal | None = None
    detail: str = ""


class Bye(Up):
    """The node leaves; leases that it still holds may be given out again."""

    reason: str = ""


MatrixMessage = MatrixReady | MatrixCommitted | MatrixReread | MatrixOpened
UpMessage = Hello | Beat | Pull | Start | Decline | Chunk | Result | Opening | Bye | MatrixMessage

# --------------------------------------------------------------------------- coordinator → node


class Nonce(Down):
    """Opens the handshake: 32 random bytes, hex, valid once and for a minute."""

    nonce: str


class Welcome(Down):
    """The session is open."""

    session: str
    """Bearer token for HTTP; also bound to the socket on WebSocket."""
    session_ttl_s: Count
    proto: int
    server_time: float
    """Unix seconds; the node learns its clock offset from it."""
    beat_s: Seconds
    lease_s: Seconds
    wanted: tuple[LeaseKey, ...] = ()
    """Of `running`, the leases that are still ours."""


class Directive(Value):
    """What the coordinator asks of the node."""

    kind: str
    """`drain`, `pause`, `resume`, `refingerprint`; others are ignored and logged."""
    detail: str = ""


class ChallengeKind(StrEnum):
    """Why leaves are to be opened."""

    DRAWN = "drawn"
    """By the beacon that the receipt promised."""
    REVEAL = "reveal"
    """A validator's own verdict, once all have committed to theirs."""


class Challenge(Down):
    """Asks for leaves of a transcript: with every answer to a beat until the node opened them, and pushed."""

    challenge_id: str
    key: LeaseKey
    kind: ChallengeKind
    answer_s: Seconds
    """How long the node has from now; after it, it counts as unable."""
    leaves: tuple[Count, ...] = ()
    """None: all of them."""
    beacon: Beacon | None = None
    level: Count = 0
    """How often it was escalated: each time twice as many leaves are drawn."""


class BeatAck(Down):
    """Answers a beat: every held lease is renewed, or in `lost`, or in `cancelled`."""

    lease_ms: Count
    beat_s: Seconds
    renewed: tuple[LeaseKey, ...] = ()
    lost: tuple[LeaseKey, ...] = ()
    cancelled: tuple[LeaseKey, ...] = ()
    directives: tuple[Directive, ...] = ()
    challenges: tuple[Challenge, ...] = ()
    judged: tuple[Signed, ...] = ()
    """JudgementBody under Role.JUDGEMENT, those after the serial that the beat named, oldest first; not all at once."""
    matrix: MatrixAsked | None = None
    """Is it a GPU: asked until the node is ready for it, or refuses."""


class Offers(Down):
    """Answers a pull; empty when there was no demand within `wait_s`."""

    offers: tuple[Signed, ...] = ()


class Confirmed(Value):
    """What became of one key of a start: `ok` renews the lease for `lease_ms`; otherwise the offer is void."""

    key: LeaseKey
    ok: bool
    lease_ms: Count = 0
    detail: str = ""


class StartAck(Down):
    """Answers a start: one for each key, in their order."""

    leases: tuple[Confirmed, ...]


class Ack(Down):
    """Answers decline, opening and bye."""


class Cancel(Down):
    """Pushed: stop this attempt."""

    key: LeaseKey
    reason: Reason


class Directed(Down):
    """Pushed: a directive that cannot wait for the next beat."""

    directive: Directive


class Refusal(Down):
    """Answers anything: the message was not carried out."""

    code: RefusalCode
    message: str
    retry_after_s: Seconds | None = None


class Answer(Value):
    """What became of one delivery: a receipt, or why it was not even judged. Exactly one of the two is there."""

    signed: Signed | None = None
    """ReceiptBody under Role.RECEIPT."""
    refusal: Refusal | None = None


class Receipt(Down):
    """Answers a result: one for each delivery, in their order."""

    answers: tuple[Answer, ...]


MatrixReply = MatrixGo | MatrixAgain | MatrixDrawn | MatrixJudged
Reply = Nonce | Welcome | BeatAck | Offers | StartAck | Ack | Receipt | MatrixReply | Refusal
Push = Cancel | Directed | Challenge
DownMessage = Reply | Push

# --------------------------------------------------------------------------- frames


class UpFrame(Value):
    """One message of the node; `seq` starts at 1 with the first message after `hello` (hello itself is 0)."""

    seq: Count
    msg: UpMessage


class DownFrame(Value):
    """One message of the coordinator; `re` is None on a push."""

    msg: DownMessage
    re: Count | None = None


REPLY_TO: Final[dict[type[Up], type[Down]]] = {
    Hello: Welcome,
    Beat: BeatAck,
    Pull: Offers,
    Start: StartAck,
    Decline: Ack,
    Result: Receipt,
    Opening: Ack,
    Bye: Ack,
    MatrixReady: MatrixGo,
    MatrixCommitted: MatrixAgain,
    MatrixReread: MatrixDrawn,
    MatrixOpened: MatrixJudged,
}
"""The one reply to each message, besides a Refusal. A Chunk gets none; over HTTP an Ack stands for it."""


def tag_of(message: type[Up | Down] | Up | Down) -> str:
    """The `type` of a message on the wire, which is also its HTTP route: `beat`, `pull`."""
    return str(message.__struct_config__.tag)


# --------------------------------------------------------------------------- reading and writing

T = TypeVar("T")
_encoder = msgspec.json.Encoder()
_up = msgspec.json.Decoder(UpFrame)
_down = msgspec.json.Decoder(DownFrame)


def encode(value: msgspec.Struct) -> bytes:
    """JSON bytes of a frame or a signed payload."""
    return _encoder.encode(value)


def decode_up(raw: bytes | str) -> UpFrame:
    """Parse a node's frame. Raises msgspec.DecodeError (ValidationError is one) and nothing else."""
    return read(_up, raw)


def decode_down(raw: bytes | str) -> DownFrame:
    """Parse a coordinator's frame. Raises msgspec.DecodeError (ValidationError is one) and nothing else."""
    return read(_down, raw)


def read(decoder: msgspec.json.Decoder[T], raw: bytes | str) -> T:
    """Decode what a stranger sent. Raises msgspec.DecodeError alone, whatever the bytes are.

    Of two equal keys the last one counts. The size is checked first: nothing is parsed of a larger text.
    """
    if len(raw) > MAX_MESSAGE_BYTES:
        raise msgspec.DecodeError(f"{len(raw)} bytes, more than {MAX_MESSAGE_BYTES}")
    try:
        return decoder.decode(raw)
    except RecursionError as error:  # msgspec lets it pass on deep nesting
        raise msgspec.DecodeError("nested too deeply") from error
    except UnicodeError as error:  # and this one on bytes that are not UTF-8
        raise msgspec.DecodeError("not UTF-8") from error
