"""From the verdicts of one case to what follows. Pure: a table of who says what, and who contradicts whom.

Whoever recomputes honestly agrees with everybody of his class to the bit, and with everybody else within limits. So a
verdict is held against its validator only where it cannot be honest: a copy of the claimed figures, figures that no
other of the class has, or the opposite of what all others of the case say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from itertools import combinations
from typing import NamedTuple

from agent.core.checks.verdict import Verdict
from agent.core.payloads import Judgement, VerdictBody

EXACT_CLASS = "X-"
AGREE, LEAST = 3, 2
"""Certain failures that confirm one another before a stake is touched; and how many do where nobody else is there."""


class Opinion(NamedTuple):
    """One validator's verdict."""

    task_id: str
    node_id: str
    level: int
    determinism: str
    """As its commitment says."""
    body: VerdictBody

    @property
    def passes(self) -> bool:
        return self.body.verdict == Verdict.PASS

    @property
    def proves(self) -> bool:
        """Whether it says that the claim is wrong for certain."""
        return self.body.verdict == Verdict.FAIL and self.body.certain

    def stands(self, judgement: Judgement) -> bool:
        """Whether the claim was judged as it says."""
        return judgement is not Judgement.VOID and self.passes is (judgement is Judgement.PASSED)


class Next(StrEnum):
    """What follows."""

    END = "end"
    ASK = "ask"
    """One more validator, at the same level: two contradict each other."""
    ESCALATE = "escalate"
    """New validators, more leaves."""


class Blame(NamedTuple):
    """A verdict that is held against its validator."""

    opinion: Opinion
    why: str
    grave: bool
    """It cannot be honest: that costs. Else it is only counted."""


class Ruling(NamedTuple):
    """What the verdicts come to."""

    next: Next
    judgement: Judgement | None = None
    """Of END alone."""
    detail: str = ""
    agreed: int = 0
    """How many verdicts say so."""
    blames: tuple[Blame, ...] = ()


class Room(NamedTuple):
    """What may still be done."""

    ask: bool
    escalate: bool
    validators: int
    """Asked at each level."""


def decide(opinions: Sequence[Opinion], level: int, claimed: Mapping[int, str], room: Room) -> Ruling:
    """`opinions` of all levels; `claimed`: digests of the figures that the node committed to, by leaf."""
    copies = tuple(_copies(opinions, claimed))
    honest = _without(opinions, copies)
    odd, torn = _odd(honest)
    if torn and room.ask:
        return Ruling(Next.ASK, detail="two validators of one class have other figures", blames=copies)
    blames = (*copies, *odd)
    honest = _without(honest, odd)
    now = [one for one in honest if one.level == level]
    if not now and (room.ask or not honest):
        return _undecided(room, blames)
    if not now:  # nobody came for the closer look: what was seen before has to do
        now = [one for one in honest if one.level == max(it.level for it in honest)]
    ruling, refuted = _proven(now, room)
    if ruling is None:
        ruling = _doubted(_without(now, refuted), _without(honest, refuted), room)
    return ruling._replace(blames=(*blames, *refuted, *ruling.blames))


def on_canary(opinions: Sequence[Opinion], claimed: Mapping[int, str]) -> Ruling:
    """Of an answer that is known to be wrong: nobody who looked can pass it."""
    copies = tuple(_copies(opinions, claimed))
    passed = tuple(
        Blame(one, "it passed an answer that is known to be wrong", grave=True)
        for one in _without(opinions, copies)
        if one.passes
    )
    return Ruling(Next.END, Judgement.VOID, "a check of the validators themselves", len(opinions), (*copies, *passed))


def _undecided(room: Room, blames: tuple[Blame, ...]) -> Ruling:
    if room.ask:
        return Ruling(Next.ASK, detail="no verdict can be relied upon", blames=blames)
    return Ruling(Next.END, Judgement.VOID, "no verdict could be relied upon", blames=blames)


def _without(opinions: Iterable[Opinion], blames: Sequence[Blame]) -> list[Opinion]:
    blamed = {one.opinion.task_id for one in blames}
    return [one for one in opinions if one.task_id not in blamed]


# --------------------------------------------------------------------------- figures


def _copies(opinions: Iterable[Opinion], claimed: Mapping[int, str]) -> Iterable[Blame]:
    """Own figures of a leaf behind a prefill are hardly ever those of a generation, which came token by token. Where an
    engine makes them so, most who repeat it in the same way come to the same; that many copy is for canaries to find.
    """
    everybody = [one for one in opinions if not one.body.exact]
    for one in everybody:
        others = [it.body for it in everybody if it is not one]
        same = [it.leaf for it in one.body.recomputed if it.leaf > 0 and claimed.get(it.leaf) == it.sha256]
        alone = [leaf for leaf in same if not _mostly(others, leaf, claimed[leaf])]
        if alone:
            yield Blame(one, f"its figures of leaf {alone[0]} are the claimed ones to the bit", grave=True)


def _mostly(others: Sequence[VerdictBody], leaf: int, sha256: str) -> bool:
    """Whether more of those who repeated a leaf have these figures of it than have any others."""
    theirs = [it.sha256 for body in others for it in body.recomputed if it.leaf == leaf]
    return 2 * theirs.count(sha256) > len(theirs)


def _odd(opinions: Sequence[Opinion]) -> tuple[list[Blame], bool]:
    """Whose figures no other of its class has, where the others agree; and whether two contradict each other with
    nobody to decide between them."""
    blames: list[Blame] = []
    torn = False
    for peers in _classes(opinions):
        agrees = {one.task_id: 0 for one in peers}
        differs = {one.task_id: 0 for one in peers}
        for one, other in combinations(peers, 2):
            if (same := _same(one.body, other.body)) is not None:
                for tally in (one.task_id, other.task_id):
                    (agrees if same else differs)[tally] += 1
        lone = [one for one in peers if differs[one.task_id] and not agrees[one.task_id]]
        if any(differs.values()) and any(agrees.values()):
            blames += [
                Blame(one, "its figures are not those that others of its class have", grave=True) for one in lone
            ]
        elif lone:
            torn = True
    return blames, torn


def _classes(opinions: Sequence[Opinion]) -> Iterable[list[Opinion]]:
    """Those who must agree to the bit: of one exact class, repeating in the same way."""
    found: dict[tuple[str, bool], list[Opinion]] = {}
    for one in opinions:
        if one.determinism.startswith(EXACT_CLASS):
            found.setdefault((one.determinism, one.body.exact), []).append(one)
    return found.values()


def _same(one: VerdictBody, other: VerdictBody) -> bool | None:
    """Of the leaves that both repeated; None when there is none."""
    mine = {it.leaf: it.sha256 for it in one.recomputed}
    theirs = {it.leaf: it.sha256 for it in other.recomputed}
    both = mine.keys() & theirs.keys()
    return all(mine[leaf] == theirs[leaf] for leaf in both) if both else None


# --------------------------------------------------------------------------- verdicts


def _proven(now: Sequence[Opinion], room: Room) -> tuple[Ruling | None, tuple[Blame, ...]]:
    """A failure that is called certain shows to all who repeat in the same way: they confirm or refute it. Whom they
    refute is blamed, and no ruling follows from him.
    """
    refuted: list[Blame] = []
    for exact in (True, False):
        proving = [one for one in now if one.body.exact is exact and one.proves]
        others = [one for one in now if one.body.exact is exact and not one.proves]
        if not proving:
            continue
        if room.ask and max(len(proving), len(others)) < AGREE:
            return Ruling(Next.ASK, detail="a certain failure needs more validators"), ()
        if len(proving) > len(others) and len(proving) >= min(LEAST, room.validators):
            blames = tuple(Blame(one, "all others of its kind proved the opposite", grave=True) for one in others)
            return Ruling(Next.END, Judgement.FAILED, _words(proving), len(proving), blames), ()
        if len(others) > len(proving):
            refuted += [Blame(one, "others of its kind saw no such failure", grave=exact) for one in proving]
    return None, tuple(refuted)


def _doubted(now: Sequence[Opinion], before: Sequence[Opinion], room: Room) -> Ruling:
    """F and T are statistics: a doubt leads to a closer look, and at last to a suspicion."""
    doubting = [one for one in now if not one.passes]
    passing = [one for one in now if one.passes]
    if not doubting:
        # Whoever doubted before looked at no leaf that has not been looked at again.
        return Ruling(Next.END, Judgement.PASSED, "", len(passing), _contradicted(before, passing))
    if room.escalate:
        return Ruling(Next.ESCALATE, detail=_words(doubting))
    if passing and room.ask:
        return Ruling(Next.ASK, detail=_words(doubting))
    if len(passing) > len(doubting):
        return Ruling(Next.END, Judgement.PASSED, "", len(passing), _contradicted(before, passing))
    if len(passing) == len(doubting):  # one liar beside one honest validator must not add up to a failure
        return Ruling(Next.END, Judgement.VOID, "as many validators pass it as doubt it, and nobody is left to ask")
    return Ruling(Next.END, Judgement.SUSPECT, _words(doubting), len(doubting))


def _contradicted(before: Sequence[Opinion], passing: Sequence[Opinion]) -> tuple[Blame, ...]:
    """Who doubted what all of `passing` found nothing in; not by imprints, or to the bit, where none of these looked so
    closely.
    """
    looked, exact = max((it.body.imprints for it in passing), default=0), any(it.body.exact for it in passing)
    doubting = (one for one in before if not one.passes and one.body.imprints <= looked)
    seen = (one for one in doubting if exact or not (one.body.exact and one.proves))
    return tuple(Blame(one, "all who looked again found nothing", grave=False) for one in seen)


def _words(opinions: Sequence[Opinion]) -> str:
    return "; ".join(dict.fromkeys(reason for one in opinions for reason in one.body.reasons[:2]))
