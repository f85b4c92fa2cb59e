"""Full-jitter backoff. Source: AWS Architecture Blog, "Exponential Backoff And Jitter" (2015)."""

from __future__ import annotations

BASE_S = 0.5
CAP_S = 64.0


def delay(attempt: int, rand: float, *, base_s: float = BASE_S, cap_s: float = CAP_S) -> float:
    """Seconds to wait before retry number `attempt` (0 is the first); `rand` is uniform in [0, 1)."""
    exponent = min(max(attempt, 0), 32)  # 2**32 seconds is beyond any cap; keeps the power from growing for ever
    return rand * min(cap_s, base_s * float(1 << exponent))


def after_failure(attempt: int, rand: float, retry_after_s: float | None, *, cap_s: float = CAP_S) -> float:
    """Like `delay`, but the peer's own `Retry-After` wins; it is capped too, since the peer may lie."""
    if retry_after_s is not None and retry_after_s >= 0:
        return min(retry_after_s, cap_s) + rand
    return delay(attempt, rand, cap_s=cap_s)
