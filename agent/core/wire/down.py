"""Coordinator → node: what it answers, and what it says unasked."""

from __future__ import annotations

from enum import StrEnum

from agent.core.attest.messages import MatrixAgain, MatrixAsked, MatrixDrawn, MatrixGo, MatrixJudged
from agent.core.direction import Down
from agent.core.model import Count, LeaseKey, Reason, Signed, Value
from agent.core.payloads import Beacon
from agent.core.wire.limits import Seconds


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
