"""Checks of a claimed generation: pure functions from claims, and from what somebody recomputed, to metrics.

`S` replays the sampler, `F` compares log-probabilities, `T` asks whether the tokens are plausible, `X` demands equal
bits, and `ending` asks why the text ended. None is enough alone (docs/proof.md, Checks).
"""
