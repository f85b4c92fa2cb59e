"""What node and coordinator say to each other about the matrix challenge (docs/gpus.md, Is it a GPU).

beat acknowledged, with MatrixAsked
MatrixReady      → MatrixGo        the clock starts when the seed leaves
MatrixCommitted  → MatrixAgain     … and ends; a second one starts
MatrixReread     → MatrixDrawn     … and ends
MatrixOpened     → MatrixJudged
"""

from __future__ import annotations

from enum import StrEnum

from agent.core.direction import Down, Up
from agent.core.model import Count, Value

CPU = "cpu"
"""Names the processor among devices."""
MAX_DEVICES = 16
"""GPUs of one node that are challenged at once."""


class Standing(StrEnum):
    """What came of a challenge, for one device."""

    ATTESTED = "attested"
    """It computed as fast as the model that it claims to be, and all that was looked at is right."""
    CPU = "cpu"
    """A processor, which claims nothing else; the figures say how fast."""
    TOO_SLOW = "too_slow"
    WRONG = "wrong"
    """Of the rows that were drawn at least one is not what it should be."""
    NO_ANSWER = "no_answer"
    """It declined, or went silent; `detail` says which."""
    INCONSISTENT = "inconsistent"
    """What the node tells of it contradicts itself, or what is known of its model; it was not even asked."""


class Attestation(Value):
    """The coordinator's verdict about one device."""

    device: str
    """UUID, or `cpu`."""
    standing: Standing
    name: str = ""
    """What it claimed to be."""
    gops: Count = 0
    """Billions of 8-bit additions and multiplications in a second, at least."""
    commit_ms: Count = 0
    """From the seed until the commitment to all results, on the coordinator's clock."""
    reread_ms: Count = 0
    """From the second seed until what had to be kept was read once more."""
    memory_bytes: Count = 0
    """What it must have held in its memory for that, at least."""
    detail: str = ""
    judged_at: Count = 0
    """Unix seconds on the coordinator's clock."""


class Work(Value):
    """One device's part."""

    device: str
    rows: Count
    kept: Count
    """How many of the last rows stay in its memory to be read again."""
    layers: Count = 1
    """Products in a row: the bytes of one are the factor of the next."""


class MatrixAsked(Value):
    """With every answer to a beat until the node is ready, or says why it never will be."""

    challenge_id: str
    devices: tuple[str, ...]
    columns: Count
    """Width and height of the common factor, and of all rows."""
    answer_s: Count
    """How long the node may take to be ready, for what runs may end first."""


class MatrixReady(Up):
    """The engine is loaded and the devices are idle; or `refusal` says, now or later, why nothing will come."""

    challenge_id: str
    free_bytes: tuple[Count, ...] = ()
    """What may be filled, of each device in the order in which they were asked."""
    refusal: str = ""


class MatrixGo(Down):
    """Answers ready. An empty seed: the challenge is over."""

    seed: str = ""
    """32 bytes, hex: nobody could compute anything before."""
    works: tuple[Work, ...] = ()


class MatrixCommitted(Up):
    """Roots over the digests of all rows, a device each (`core.attest.tree`)."""

    challenge_id: str
    roots: tuple[str, ...]


class MatrixAgain(Down):
    """Answers committed."""

    seed: str
    """32 bytes, hex: digests that nobody could foresee, of rows that only who kept them need not compute again."""


class MatrixReread(Up):
    """Roots over the new digests of the rows that were kept: of each device one for each time that it read them."""

    challenge_id: str
    roots: tuple[tuple[str, ...], ...]


class MatrixDrawn(Down):
    """Answers reread: which rows are to be opened, of each device."""

    rows: tuple[tuple[Count, ...], ...]


class OpenedBlock(Value):
    """A leaf, and the way from it to the root."""

    digests: bytes
    path: bytes
    """Siblings of 32 bytes, from the leaf upwards."""


class OpenedRow(Value):
    """One row that was drawn."""

    first: OpenedBlock
    again: OpenedBlock | None = None
    """Of a row that was kept, from the reading that `tree.reading_of` names."""


class MatrixOpened(Up):
    """What was drawn, of each device in the order of the rows."""

    challenge_id: str
    rows: tuple[tuple[OpenedRow, ...], ...]


class MatrixJudged(Down):
    """Answers opened."""

    attestations: tuple[Attestation, ...]
