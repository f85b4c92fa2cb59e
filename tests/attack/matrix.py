"""All rows, in the order of the page: each module enters its own."""

from tests.attack import honest, sampler, weights, prompt, forger, truncation  # isort: skip
from tests.attack.rows import ROWS

__all__ = ["ROWS", "forger", "honest", "prompt", "sampler", "truncation", "weights"]
