"""A node's record: its simulated stake, what came of its challenges, and what is held against it."""

from __future__ import annotations

from typing import Final

import msgspec

from agent.core.engines import profile_of
from agent.core.payloads import Judgement
from agent.core.proof.header import Header
from agent.devnet.core.book import Book
from agent.devnet.core.effects import SaveStanding
from agent.devnet.core.proofs.records import Standing
from agent.devnet.core.proofs.verdicts import Blame
from agent.devnet.core.rules import ProofRules

FOUND_OUT = 2
"""Grave faults after which a validator gets no more checks."""
CONTRADICTED, OF_VERDICTS = 3, 4
"""So many verdicts that others contradicted, if they are one of so many: noise alone does not come near."""

_COUNTED: Final = {
    Judgement.PASSED: "passed",
    Judgement.SUSPECT: "suspect",
    Judgement.FAILED: "failed",
    Judgement.UNOPENED: "unopened",
    Judgement.VOID: "void",
}


def standing_of(book: Book, node_id: str) -> Standing:
    """A node's record; one that nothing is known of has its whole stake."""
    known = book.docket.standings.get(node_id)
    return known or Standing(node_id=node_id, stake_micros=book.rules.proofs.stake_micros)


def keep_standing(book: Book, standing: Standing) -> None:
    """Write it down."""
    book.docket.standings[standing.node_id] = standing
    book.write(SaveStanding(standing=standing))


def has_stake(book: Book, node_id: str) -> bool:
    """Whether a node has anything left to lose. Without it nothing would keep it honest, so it gets no work."""
    return standing_of(book, node_id).stake_micros > 0 or not book.rules.proofs.stake_micros


def work_of(header: object) -> str:
    """Engine, kind of task and model: what limits are measured for. Empty for what no engine of ours does.

    Without the engine's version and the class, which a node can make up anew for every result.
    """
    if not isinstance(header, Header) or (profile := profile_of(header.engine)) is None:
        return ""
    return f"{profile.name}/{header.task_kind.value}/{header.model_digest}"


def learn(book: Book, node_id: str, work: str, *, checked: bool) -> None:
    """Validators checked this work of the node's, or handed it back because they could not."""
    standing = standing_of(book, node_id)
    if not work or checked is (work not in standing.unchecked):
        return
    others = tuple(it for it in standing.unchecked if it != work)
    keep_standing(book, msgspec.structs.replace(standing, unchecked=others if checked else (*others, work)))


def weighed(standing: Standing, judgement: Judgement, rules: ProofRules) -> Judgement:
    """What a judgement of an answer comes to with this record: suspicions add up to a failure."""
    if judgement is Judgement.SUSPECT and standing.suspected + 1 >= rules.suspicions:
        return Judgement.FAILED
    return judgement


def after_answer(standing: Standing, judgement: Judgement, rules: ProofRules, *, shown: bool = True) -> Standing:
    """The record after one challenge of the node came to `judgement`, which is `weighed`; the stake is as before.

    `shown`: whether it could have come to anything else. What nobody can repeat makes good for no suspicion.
    """
    name = _COUNTED[judgement]
    counted = msgspec.structs.replace(
        standing, challenged=standing.challenged + 1, **{name: getattr(standing, name) + 1}
    )
    match judgement:
        case Judgement.SUSPECT:
            return msgspec.structs.replace(counted, suspected=standing.suspected + 1, clean=0)
        case Judgement.FAILED | Judgement.UNOPENED:
            return msgspec.structs.replace(counted, suspected=0, clean=0)
        case Judgement.PASSED:
            return _forgiven(counted, rules) if shown else counted
        case Judgement.VOID:
            return counted


def slashed(standing: Standing, wanted_micros: int) -> tuple[Standing, int]:
    """The record with so much less of its stake, and what was really taken."""
    taken = min(wanted_micros, standing.stake_micros)
    return msgspec.structs.replace(standing, stake_micros=standing.stake_micros - taken), taken


def _forgiven(standing: Standing, rules: ProofRules) -> Standing:
    clean = standing.clean + 1
    if standing.suspected and clean >= rules.forgiven_after:
        return msgspec.structs.replace(standing, suspected=standing.suspected - 1, clean=0)
    return msgspec.structs.replace(standing, clean=clean)


# --------------------------------------------------------------------------- as a validator


def after_verdict(standing: Standing, blame: Blame | None, rules: ProofRules, *, stands: bool = True) -> Standing:
    """A validator's record with one more verdict, and what was held against it. `stands`: the case ended by it."""
    verdicts, wrong = standing.verdicts + 1, standing.verdicts_wrong + (blame is not None)
    grave = blame is not None and blame.grave and wrong >= FOUND_OUT
    often = blame is not None and wrong >= CONTRADICTED and wrong * OF_VERDICTS > verdicts
    counted = msgspec.structs.replace(
        standing, verdicts=verdicts, verdicts_wrong=wrong, barred=standing.barred or grave or often
    )
    return _kept(counted, rules) if stands and not blame else counted


def may_validate(standing: Standing, at: int) -> bool:
    """Whether it gets checks at `at`, in Unix seconds."""
    return not standing.barred and standing.rests_until <= at


def after_silence(standing: Standing, fence: int, latest: int, at: int, rules: ProofRules) -> Standing:
    """The record after a check that was taken under `fence` came to nothing; `latest` is the coordinator's highest.

    A crash takes everything with it that is in hand, so what was taken before the last silence was noted is part of it.
    """
    unkept = standing.unkept + 1
    if fence <= standing.silent_fence:
        return msgspec.structs.replace(standing, unkept=unkept)
    silences = standing.silences + 1
    return msgspec.structs.replace(
        standing,
        unkept=unkept,
        silences=silences,
        silent_fence=latest,
        kept=0,
        rests_until=at + int(rules.rest_s) if silences >= rules.silences else standing.rests_until,
    )


def _kept(standing: Standing, rules: ProofRules) -> Standing:
    kept = standing.kept + 1
    if standing.silences and kept >= rules.forgiven_after:
        return msgspec.structs.replace(standing, silences=standing.silences - 1, kept=0)
    return msgspec.structs.replace(standing, kept=kept)
