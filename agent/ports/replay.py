"""Repeating what a node claims."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from agent.core.checks.calibration import Device
from agent.core.checks.claims import Position
from agent.core.checks.verdict import Thresholds
from agent.core.model import ChatInput, CompletionInput
from agent.core.proof.toploc import Peaks


class Embedded(NamedTuple):
    """What an engine makes of texts."""

    rows: tuple[tuple[float, ...], ...]
    """One for each."""
    prompt_tokens: int
    """That it counted in all of them."""


class Replayer(Protocol):
    """An engine with a model, asked what it would have said in somebody else's place. All raise EngineError."""

    async def prompt_ids(self, given: ChatInput | CompletionInput) -> tuple[int, ...]:
        """Token ids of the prompt, a chat's as the model's template renders it."""
        ...

    async def replay(self, prefix: Sequence[int], ids: Sequence[int], top: int) -> tuple[Position, ...]:
        """A position for each of `ids`, with up to `top` candidates, after `prefix` and the ids before it."""
        ...

    async def in_one_go(self, ids: Sequence[int]) -> int:
        """How many of `ids`, from the first, one replay computes as a generation does: there equal determinism classes
        give equal bits.
        """
        ...

    async def text(self, ids: Sequence[int]) -> str:
        """What the engine would have written for `ids`; U+FFFD where a character is incomplete."""
        ...

    async def ends(self, token: int) -> bool:
        """Whether this token ends a text."""
        ...

    async def peaks(self, prefix: Sequence[int], ids: Sequence[int]) -> tuple[Peaks, ...] | None:
        """What TOPLOC takes of the hidden states of each 32 of `ids` behind `prefix`, computed in one prefill; None
        where the engine tells no hidden states.
        """
        ...

    async def rows(self, texts: tuple[str, ...]) -> Embedded:
        """An embedding of each text."""
        ...


class Calibrations(Protocol):
    """What is known of the noise of engines."""

    def thresholds_for(
        self,
        model_digest: str,
        engine: str,
        *,
        embeds: bool = False,
        args: tuple[str, ...] = (),
        device: Device | None = None,
    ) -> Thresholds | None:
        """Limits for work of `engine` (profile and version, as a header tells it) with this model; None: uncalibrated.

        `args`: more arguments of the engine, the same on both sides. `device`: what the node computes on; a verifier,
        who does not know it, leaves it out.
        """
        ...
