"""The rate by which a coordinator challenges makes faking not worth it, by what its own ledger would say."""

from __future__ import annotations

import pytest

from agent.core.model import Usage
from agent.core.proof.drawing import MILLION
from agent.devnet.core.asking import MAX_TOKENS
from agent.devnet.core.proofs.deterrence import DETECTION, deterring_rate
from agent.devnet.core.rules import ProofRules, Rules
from agent.devnet.core.settling import price_micros

COLLUDING = 0.1


@pytest.mark.parametrize("price", [200_000, 2_000_000])
def test_who_fakes_the_dearest_task_loses_more_than_it_is_paid_for_it(price: int) -> None:
    rules = Rules(price_micros_per_million_tokens=price, proofs=ProofRules())
    paid = price_micros(Usage(completion_tokens=MAX_TOKENS), price)
    caught = deterring_rate(rules) / MILLION * DETECTION * (1 - COLLUDING)
    assert paid - caught * rules.proofs.slash_micros < 0  # what was paid stays paid
    assert paid - 0.99 * caught * rules.proofs.slash_micros > 0  # and the rate is no higher than it must be
