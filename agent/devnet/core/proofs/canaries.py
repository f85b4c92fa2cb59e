"""Answers that are known to be wrong, given to validators like any other: who passes one did not look.

Made from a right one whose opening lies here. What is wrong in it (`forging`) only the model itself tells. The rest is
as of any claim, also who tells it (`disguise`), and how closely it is to be looked at.
"""

from __future__ import annotations

import dataclasses
import hashlib
import random
import struct
from typing import NamedTuple

import msgspec

from agent.core.checks.claim import Claim, claim_with, without_model
from agent.core.checks.verdict import Thresholds, Verdict, judge
from agent.core.model import Blob
from agent.core.payloads import ReceiptBundle, RecomputedLeaf
from agent.core.proof.commitment import commit
from agent.core.proof.drawing import MILLION, is_drawn
from agent.core.proof.header import Header
from agent.core.proof.leaves import read_leaf
from agent.core.proof.merkle import HASH_BYTES, leaf_hash, root
from agent.core.proof.opening import open_leaves
from agent.core.proof.receipt import Case as Receipt
from agent.core.proof.receipt import read_case
from agent.core.proof.signed import Verify
from agent.core.proof.transcript import Transcript
from agent.devnet.core.book import Book
from agent.devnet.core.effects import Decision, Discard
from agent.devnet.core.granting import conclude
from agent.devnet.core.presence import node_id_of
from agent.devnet.core.proofs import cases, validating
from agent.devnet.core.proofs.assigning import available
from agent.devnet.core.proofs.disguise import Cast, told_by
from agent.devnet.core.proofs.forging import Forged, delivered, forge
from agent.devnet.core.proofs.level_two import figures_of
from agent.devnet.core.proofs.records import Case, CaseState
from agent.devnet.core.rules import Instant

_TRIES = 64
"""In units of 1 / rate: so many roots are tried until the promised beacon draws one."""
MOST_TRIES, MOST_HASHES = 10_000, 2_000_000
"""However rarely it draws, and however many leaves there are: a second or two of one processor."""
_LEVELS = (2, 1, 1)
"""How often one is to be checked as if it had been escalated so many times. Where a doubt has come up, whoever looks
again must not be sure that the claim is a node's.
"""
_PREVIOUS = slice(5, 5 + HASH_BYTES)
"""Where a leaf names the one before."""


class Canary(NamedTuple):
    """Evidence that looks like any other."""

    bundle: ReceiptBundle
    case: Case
    """Without its evidence, which is not written down yet."""
    figures: tuple[RecomputedLeaf, ...]


def wanted(chance: bytes, canary_micros: int) -> bool:
    """Whether to make one beside a real case. `chance`: 32 fresh random bytes."""
    return int.from_bytes(chance[:8], "little") * MILLION < canary_micros << 64


def made_of(source: Case, bundle: ReceiptBundle, verify: Verify, cast: Cast) -> Canary | None:
    """A wrong answer made of the right one in `bundle`, whose leaves are all opened; None where that cannot be done
    unseen. Slow: it is called from a thread.
    """
    receipt = read_case(bundle, verify)
    opened, output = receipt.opened, bundle.output
    claim = claim_with(receipt, opened.leaves) if opened and opened.whole else None
    forged = forge(claim, cast.chance) if claim else None
    if claim is None or forged is None or source.beacon is None or output is None:
        return None
    transcript = _drawn(source, forged)
    told = delivered(claim, output, transcript.leaves) if transcript else None
    if transcript is None or told is None or not _unseen(receipt, claim, transcript, told):
        return None
    header = msgspec.structs.replace(claim.header, output_sha256=hashlib.sha256(told.encode()).hexdigest())
    shown = msgspec.structs.replace(bundle, output=told, opening=open_leaves(transcript.leaves))
    made = told_by(cast, dataclasses.replace(receipt, bundle=shown), header, commit(header, transcript))
    case = _case(source, node_id_of(cast.node.public), transcript, header, cast.chance)
    return Canary(made, case, figures_of([read_leaf(leaf) for leaf in transcript.leaves]))


def begin(book: Book, case: Case) -> None:
    """A canary is being made of this case: it stays at hand until `give_out` or `give_up`."""
    book.docket.copied.add(case.case_id)


def give_out(book: Book, when: Instant, source: str, canary: Canary, evidence: Blob) -> Decision[None]:
    """The evidence is written down: ask validators, where there are some who never saw the right answer."""
    level = min(canary.case.level, book.rules.proofs.escalations)
    case = msgspec.structs.replace(canary.case, evidence=evidence, level=level)
    if case.task_id in book.docket.canary_of or not available(book, when, case):
        book.tell(Discard(sha256s=(evidence.sha256,)))
    else:
        cases.add(book, case)
        validating.begin(book, when, case, canary.figures, case.determinism)
    return give_up(book, when, source)


def give_up(book: Book, when: Instant, source: str) -> Decision[None]:
    """Nothing more is made of this case."""
    book.docket.copied.discard(source)
    if (case := book.docket.cases.get(source)) and case.state is CaseState.JUDGED:
        cases.forget(book, when, case)
    return conclude(book, when, None)


# --------------------------------------------------------------------------- leaves


def _drawn(source: Case, forged: Forged) -> Transcript | None:
    """The transcript with a root that the promised beacon draws, and of whose drawn leaves some are forged.

    The last float of the last leaf with output is the least of the shares there, or one number of a row: a few units of
    its last place decide.
    """
    assert source.beacon is not None
    leaves = list(forged.leaves)
    value, last = bytes.fromhex(source.beacon.value), leaves[-2]
    hashes = [leaf_hash(leaf) for leaf in leaves[:-2]]
    [bits] = struct.unpack("<I", last[-4:])
    for more in range(tries(source.promise.rate_micros, len(leaves))):
        leaves[-2] = last[:-4] + struct.pack("<I", bits + more)
        before = leaf_hash(leaves[-2])
        leaves[-1] = leaves[-1][: _PREVIOUS.start] + before + leaves[-1][_PREVIOUS.stop :]
        made = root([*hashes, before, leaf_hash(leaves[-1])]).hex()
        if is_drawn(value, made, source.task_id, source.promise.rate_micros):
            case = msgspec.structs.replace(source, root=made)
            if len(forged.wrong & set(cases.leaves_at(case, 0))) >= min(2, len(forged.wrong)):
                return Transcript(tuple(leaves), made, forged.kind)
    return None


def tries(rate_micros: int, leaves: int) -> int:
    """Roots that are tried at most. At rates below 0.6 % that is not always enough, and then there is no canary."""
    return min(_TRIES * -(-MILLION // max(rate_micros, 1)), MOST_TRIES, max(MOST_HASHES // leaves, 1))


def _unseen(receipt: Receipt, honest: Claim, transcript: Transcript, output: str) -> bool:
    """Whether whoever has no model finds as little as in the right answer."""
    told = dataclasses.replace(receipt, bundle=msgspec.structs.replace(receipt.bundle, output=output))
    claim = claim_with(told, [read_leaf(leaf) for leaf in transcript.leaves])
    if claim is None:
        return False
    before, after = without_model(honest), without_model(claim)
    same = before.sampled is None or (after.sampled is not None and after.sampled.checked == before.sampled.checked)
    return same and judge(after, Thresholds()).verdict is Verdict.PASS


# --------------------------------------------------------------------------- what it is known by


def _case(source: Case, node_id: str, transcript: Transcript, header: Header, chance: bytes) -> Case:
    name = hashlib.sha256(chance + b"case").hexdigest()  # follows from nothing that its validators see
    [level] = random.Random(chance).choices(range(len(_LEVELS)), _LEVELS)  # noqa: S311  (`chance` is all that is secret)
    return Case(
        case_id=f"c-{name[:24]}",
        task_id=source.task_id,
        node_id=node_id,
        key=source.key,
        idem_key=source.idem_key,
        root=transcript.root,
        leaves=len(transcript.leaves),
        model_digest=source.model_digest,
        promise=source.promise,
        state=CaseState.CHECKING,
        beacon=source.beacon,
        level=level,
        determinism=header.determinism,
        imprints=source.imprints,
        canary=True,
    )
