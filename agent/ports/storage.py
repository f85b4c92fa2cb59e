"""What is kept, and by whom it is signed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from agent.core import wire
from agent.core.challenges import ChallengeLine, ProofStory, ProofTotals
from agent.core.model import Blob, LeaseKey, Signed, Value
from agent.ports.engines import Artifact


class Identity(Protocol):
    """The node's Ed25519 key and whom it trusts."""

    @property
    def node_id(self) -> str: ...
    @property
    def public_key(self) -> str: ...
    @property
    def coordinator_key(self) -> str: ...
    def sign(self, digest: bytes) -> str: ...
    def verify(self, key: str, signature: str, digest: bytes) -> bool: ...


class Room(Value):
    """How much of a quota is used."""

    used_bytes: int
    quota_bytes: int


class Transcripts(Protocol):
    """Keeps transcripts until the challenge window is over."""

    async def keep(self, key: LeaseKey, transcript: bytes, until: float) -> None:
        """Durable when it returns; `until` in Unix seconds. Raises StorageError, `full` also when the quota is."""
        ...

    async def read(self, key: LeaseKey) -> bytes | None:
        """What was kept last for `key`; None when nothing was, or it was swept. Raises StorageError: it is damaged."""
        ...

    async def sweep(self, now: float) -> int:
        """Delete what is past its time, or soon after; returns how many."""
        ...

    def room(self) -> Room: ...


class Artifacts(Protocol):
    """What programs made, until the coordinator has it."""

    async def keep(self, key: LeaseKey, artifact: Artifact) -> None:
        """Durable when it returns, until `drop`. Raises StorageError."""
        ...

    def of(self, key: LeaseKey) -> Blob | None:
        """What is kept for an attempt."""
        ...

    async def read(self, key: LeaseKey) -> bytes | None:
        """All of what `of` tells; None when it was lost. Raises StorageError, which may pass."""
        ...

    def drop(self, key: LeaseKey) -> None:
        """The coordinator has it, or nobody wants it any more."""
        ...

    def retain(self, keys: Collection[LeaseKey]) -> None:
        """Drop what belongs to none of these attempts: an earlier life ended before it could."""
        ...


class OutboxRow(Value):
    """One finished attempt on its way to the coordinator."""

    key: LeaseKey
    idem_key: str
    offer: Signed
    result: Signed
    output: str | None = None


class Outbox(Protocol):
    """Finished attempts survive a crash until a receipt comes.

    A damaged store is put aside for an empty one at any time, and the call that met the damage goes on with that: who
    put something may find it neither among `pending` nor `settled` any more.
    """

    async def put(self, row: OutboxRow) -> None:
        """Durable (fsync) when it returns. The same idem_key again is no error.

        Raises ConflictError when this attempt ended before under another idem_key: it will never be taken. Any other
        StorageError may pass.
        """
        ...

    async def pending(self, limit: int, skip: Collection[str] = ()) -> Sequence[OutboxRow]:
        """Oldest first, without the idem_keys of `skip`: at most `limit`, and fewer when their outputs are large (a few
        MiB together, but one row always, however large). Raises StorageError.
        """
        ...

    async def unsent(self) -> Mapping[str, LeaseKey]:
        """All that waits, by idem_key, oldest first, without its content. Raises StorageError."""
        ...

    async def settle(self, row: OutboxRow, receipt: Signed, body: wire.ReceiptBody) -> None:
        """In one transaction: write the ledger line with its bundle and delete the row. Raises StorageError.

        What is settled already stays as it is; a row that was lost meanwhile is settled all the same. Until the next
        `put` a power cut may undo it: the result is then delivered again, as after a receipt that was lost on its way.
        """
        ...

    async def settled(self, key: LeaseKey, idem_key: str) -> bool:
        """Whether `idem_key`, or this attempt of the task under any other, is settled or waiting: its offer is a replay
        then, or one attempt given out twice. Raises StorageError.
        """
        ...

    async def settled_many(self, offers: Sequence[tuple[LeaseKey, str]]) -> Sequence[bool]:
        """`settled` of each, all in one look that waits for no write. Raises StorageError."""
        ...


class Delivered(Value):
    """One attempt that ended here. Without offer and result: its papers were dropped to save space, or are damaged."""

    offer: Signed | None = None
    result: Signed | None = None
    receipt: Signed | None = None
    """None beside a result: it waits for its receipt."""


class Ledger(Protocol):
    """What became of attempts."""

    async def delivered(self, key: LeaseKey) -> Delivered | None:
        """None when no such attempt ended here. Raises StorageError, which may pass."""
        ...


class Proofs(Protocol):
    """What a node remembers of challenges and judgements. A damaged store is put aside for an empty one at any time:
    judgements come again then, for the coordinator keeps them.
    """

    async def note(self, lines: Sequence[ChallengeLine]) -> ProofTotals:
        """The latest of each challenge counts. A power cut may undo it. Raises StorageError."""
        ...

    async def keep(self, judgement: Signed, body: wire.JudgementBody) -> ProofTotals:
        """Durable when it returns, if its serial follows the latest that is kept; otherwise nothing changes. Raises
        StorageError.
        """
        ...

    async def recall(self, now: float) -> tuple[ProofTotals, Sequence[ChallengeLine]]:
        """The totals, and the challenges that wait for an answer at `now` (Unix seconds); those whose time passed
        before are missed from now on. Raises StorageError.
        """
        ...

    async def story(self, limit: int) -> ProofStory:
        """The newest `limit` challenges and judgements. Raises StorageError."""
        ...
