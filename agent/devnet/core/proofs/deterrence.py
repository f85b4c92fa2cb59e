"""How often this coordinator must challenge so that cheating does not pay (docs/proof.md, Challenges)."""

from __future__ import annotations

from agent.core.proof.posp import Stakes, rate_micros
from agent.devnet.core.asking import MAX_TOKENS
from agent.devnet.core.rules import Rules

DETECTION = 0.5
"""Of cheats that are challenged, the share that is found. Most are found nearly always; of one changed word in the
prompt half are."""
SLASHES = 5
"""A stake is good for so many failures."""


def deterring_rate(rules: Rules) -> int:
    """The least rate, in millionths, for the dearest task that can be asked for: faking it saves at most its price."""
    price = MAX_TOKENS * rules.price_micros_per_million_tokens / 1_000_000
    stake = rules.proofs.slash_micros - price  # what was paid stays paid: no more than what is slashed is at risk
    return rate_micros(Stakes(stake=stake, reward=price, cost=price, detection=DETECTION))
