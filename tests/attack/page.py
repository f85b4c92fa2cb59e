"""docs/attacks.md: what was tried, how often, what became of it, and what cannot be caught."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from agent.core.checks.verdict import Thresholds
from tests.attack.outcome import Counts, interval
from tests.attack.rows import HONEST, NO_CLAIM, ROWS, Row, Wanted
from tests.bench.table import machine

_INTRODUCTION = """\
# Attacks on the proof

Written by `make attack`. Every cheat below is a node (tests/attack), with a real llama-server, enrolled at a real
coordinator, and made of the agent's real parts but for the one that is dishonest. It takes tasks, answers them,
commits, signs and opens its transcript. A verifier with the true model gets offer, result, receipt and transcript as of
any other node, and judges ([proof](proof.md#checks)). The lies that the agent has no part for (`tamper`, `replay`) are
told by a scripted node with a real engine; `challenge`, `beacon`, `validator` and `fuzz` need no engine.

The true model is gemma-3-270m in Q4_K_M; cheaper files are made of the same weights by llama.cpp's own quantiser. Tasks
are chats and completions of 64 tokens, of 128 where m=4 and in F, and of 256 where m=8 (m: chunks of 32 that are
repeated; all are unless m is less); a quarter are greedy among the honest, in F and in X.

*Caught* is what did not pass: suspect (looked at again, with more chunks), failed (slashed) or refused (by the
coordinator, or by a receipt's check). Intervals are Wilson's, of 95 %. *By* counts the checks that spoke, often
several. Q2_K is a mixture: the quantiser makes it only of rows that are a multiple of 256 wide, of others Q4_0.

- `make attack` makes ten runs of each row: about half an hour on two idle cores. `ARGS="--full"` makes as many as are
  wanted, which takes hours; `--only f-q4_0` makes one row, and `--json FILE` adds to the runs of before.
- CI makes some of every kind with a tiny model (tests/attack/test_attacks.py).
"""

_LIMITS = """\
## What cannot be caught

- **A nearly lossless change in class F.** Q8_0 instead of Q4_K_M moves log-probabilities no more than an honest engine
  that does several tasks at once. Class X sees it; that costs a pool all slots but one.
- **Single tokens in class F.** T allows a few tokens of 32 to be out of place, since noise puts them there now and
  then. Who exchanges one for another about as likely, and bends the log-probabilities so that the seed draws it, is not
  seen: F's mean hardly moves, and T counts one. An improbable token is seen, and so is the made-up end of a text.
- **What stands behind parts of characters**, in texts full of characters beyond ASCII: engines withhold tokens that end
  inside a character, and where two of those could have been drawn, the verifier repeats nothing behind them.
- **How another engine drew.** Only llama-server's draws are replayed; of others the log-probabilities are compared, and
  greedy tokens.
- **A prompt edit without effect** whose digest is forged. One that has an effect is caught as often as its row says;
  one whose digest is told truly always is.
- **A right answer that was bought elsewhere**: the proof shows what was computed, not by whom.
- **Results withheld**, and tasks declined: reliability shows these.
- **A coordinator that colludes with its validators**, or is the requester too.
- **What nobody looks at.** Only drawn tasks are opened; how many must be follows from stake and reward
  (`gpu-agent posp`).
- **Secrets**: whoever checks an opened task reads its prompt and its answer.
"""
_HEAD = (
    "| row | cheat | runs | caught | suspect | failed | refused | by | claim |\n|---|---|---|---|---|---|---|---|---|"
)


def line(name: str, counts: Counts) -> str:
    """For the terminal."""
    return (
        f"{name}: {counts.runs} runs: {counts.passed} passed, {counts.suspect} suspect, {counts.failed} failed, "
        f"{counts.refused} refused; {_share(counts.caught, counts.runs)}; {_by(counts)}; {counts.figures.words()}"
    )


def render(made: Mapping[str, Counts], limits: Thresholds) -> str:
    """The whole page, of the rows that were made. `limits` is what they were judged by."""
    rows = [(name, row, made[name]) for name, row in ROWS.items() if name in made]
    honest = [it for it in rows if it[1].wanted == HONEST]
    cheats = [it for it in rows if it[1].wanted != HONEST]
    lines = [
        _INTRODUCTION,
        *machine(),
        _told(limits),
        "",
        "## Honest nodes",
        "",
        *_honest(honest),
        "",
        "## Cheats",
        "",
        *_cheats(cheats),
    ]
    return "\n".join([*lines, "", _LIMITS])


def _told(limits: Thresholds) -> str:
    told = f"F {limits.closeness:.2f}, T {limits.far} tokens of 32, raised by {limits.raised:g}"
    return f"- Limits of a chunk ({limits.version}): {told}; {limits.repeated} chunks over one fail"


def _honest(rows: list[tuple[str, Row, Counts]]) -> Iterator[str]:
    yield "| row | engine | runs | suspect | slashed | measured | claim |\n|---|---|---|---|---|---|---|"
    for name, row, counts in rows:
        yield (
            f"| `{name}` | {_engine(row)} | {counts.runs} | {_share(counts.suspect, counts.runs)} "
            f"| {_share(counts.failed, counts.runs)} | {counts.figures.words()} | {_claim(row, counts)} |"
        )
    runs, suspect = sum(counts.runs for *_, counts in rows), sum(counts.suspect for *_, counts in rows)
    failed = sum(counts.failed for *_, counts in rows)
    yield f"| all | | {runs} | {_share(suspect, runs)} | {_share(failed, runs)} | | |"


def _engine(row: Row) -> str:
    return row.title.removeprefix("honest: ")


def _cheats(rows: list[tuple[str, Row, Counts]]) -> Iterator[str]:
    yield _HEAD
    for name, row, counts in rows:
        yield (
            f"| `{name}` | {row.title} | {counts.runs} | {_share(counts.caught, counts.runs)} | {counts.suspect} "
            f"| {counts.failed} | {counts.refused} | {_by(counts)} | {_claim(row, counts)} |"
        )


def _share(hits: int, runs: int) -> str:
    low, high = interval(hits, runs)
    return f"{hits} ({100 * low:.1f}–{100 * high:.1f} %)"


def _by(counts: Counts) -> str:
    return ", ".join(f"{check} {times}" for check, times in counts.by)


def _claim(row: Row, counts: Counts) -> str:
    """Few runs show little: then it is only said that nothing speaks against the claim so far."""
    if row.wanted == NO_CLAIM:
        return "none"
    if not row.wanted.met(counts):
        return f"{_words(row.wanted)}: **missed**"
    return f"{_words(row.wanted)}: " + ("met" if counts.runs >= row.full else f"so far, {row.full} runs are wanted")


def _words(wanted: Wanted) -> str:
    if wanted.caught is not None:
        return "all" if wanted.caught == 1 else f"≥ {100 * wanted.caught:g} %"
    return "none slashed, ≤ 0.5 % suspect"
