"""The sliding anti-replay window over a session's sequence numbers (RFC 4303 §3.4.3). Pure.

Parallel HTTP requests overtake each other on the way, so a number may arrive late but never twice. A number
further back than the window cannot be told from a replay and is refused.
"""

from __future__ import annotations

from agent.core.model import Value

WINDOW = 1024
"""How far a message may be overtaken. A node has some tens of requests in flight, so this is ample; 128 bytes."""
MAX_SEQ = (1 << 53) - 1
"""The largest integer that every JSON reader keeps exact; 2,800 years at 100,000 messages a second."""


class ReplayWindow(Value):
    """Which numbers of a session were seen. A fresh window has seen 0, which is the hello's own number."""

    highest: int = 0
    seen: int = 1
    """Bit i is set when `highest - i` was seen; never wider than WINDOW bits."""

    def admit(self, seq: int) -> ReplayWindow | None:
        """The window after `seq`, or None when `seq` was seen before, is too old, or is out of range."""
        if not 0 <= seq <= MAX_SEQ:
            return None
        ahead = seq - self.highest
        if ahead > 0:
            return ReplayWindow(highest=seq, seen=_slide(self.seen, ahead))
        if -ahead >= WINDOW:  # before the shift: a number far behind would make a huge integer
            return None
        bit = 1 << -ahead
        if self.seen & bit:
            return None
        return ReplayWindow(highest=self.highest, seen=self.seen | bit)


def _slide(seen: int, ahead: int) -> int:
    """Shift by `ahead`; a jump past the window forgets it, so that a huge number cannot make a huge integer."""
    if ahead >= WINDOW:
        return 1
    return ((seen << ahead) | 1) & ((1 << WINDOW) - 1)
