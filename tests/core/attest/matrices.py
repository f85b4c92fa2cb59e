"""An honest answer to a challenge, computed here with numpy, and what a coordinator would look at."""

from __future__ import annotations

from agent.core.attest.messages import OpenedRow, Work
from agent.core.attest.sizing import drawn
from agent.devnet.core.attesting import Exhibit
from agent.edges.gpu.matrix import Answer
from agent.edges.gpu.matrix_numpy import NumpyArrays

SEED, AGAIN, CHANCE = "11" * 32, "22" * 32, "33" * 32
COLUMNS = 64
Answered = tuple[Answer, str, tuple[str, ...]]
WORKS = (
    Work(device="GPU-a", rows=1500, kept=1000, layers=3),
    Work(device="GPU-b", rows=700, kept=0, layers=1),
)


def answered(work: Work, seed: str = SEED, again: str = AGAIN, columns: int = COLUMNS) -> Answered:
    """The answer, its root, and the roots of all readings."""
    answer = Answer(NumpyArrays(), columns)
    return answer, answer.commit(seed, work), answer.reread(again)


def exhibit(*answers: Answered, works: tuple[Work, ...] = WORKS, columns: int = COLUMNS) -> Exhibit:
    """Of the drawn rows of all devices."""
    rows = tuple(drawn(CHANCE, work, len(works)) for work in works)
    opened: tuple[tuple[OpenedRow, ...], ...] = tuple(
        answer.open(numbers) for (answer, _, _), numbers in zip(answers, rows, strict=True)
    )
    return Exhibit(
        challenge_id="m-1",
        seed=SEED,
        seed_again=AGAIN,
        columns=columns,
        works=works,
        roots=tuple(root for _, root, _ in answers),
        roots_again=tuple(root for _, _, root in answers),
        rows=rows,
        opened=opened,
    )
