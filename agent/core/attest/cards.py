"""What is publicly known of GPU models: what a card that bears their name has to be, and to do."""

from __future__ import annotations

import re
from collections.abc import Iterable

from agent.core.model import Value


class Card(Value):
    """One model. Figures are the maker's, for dense matrices."""

    name: str
    """Regular expression that the driver's whole name of it matches."""
    memory_gib: tuple[float, float]
    """Least and most that its driver tells: a part is set aside for ECC and the driver itself."""
    compute_capability: str
    int8_tops: float
    """Trillions of 8-bit additions and multiplications in a second; of 32-bit floats where it has no 8-bit product."""
    memory_gb_s: float
    power_w: float
    """The highest limit that its board takes."""
    pci: tuple[str, ...] = ()
    """Device ids, four hex digits each; none: not looked at."""


UNKNOWN = Card(name="", memory_gib=(0, 0), compute_capability="", int8_tops=20, memory_gb_s=100, power_w=0)
"""Stands in for a model that is not in the table: little for a GPU, and much for all but the largest processors."""


def card_named(name: str, cards: Iterable[Card]) -> Card | None:
    """The model with this name of the driver's; the first that matches."""
    return next((card for card in cards if re.fullmatch(card.name, name)), None)
