"""How often results must be challenged so that honest work pays best.

After Zhang et al., Proof of Sampling: A Nash Equilibrium-Based Verification Protocol (arXiv 2405.00295): with reward R,
cost C of honest work, stake S and a share r of colluding nodes, honesty is an equilibrium in pure strategies when
p > C / ((1 − r) (R + S)). Two things are added, for checks are not perfect: of cheats that are challenged a share d is
detected, and of honest results that are challenged a share f is slashed by mistake.

    honest      R − C − p f (R + S)
    dishonest   R − p d (1 − r) (R + S)

Honest work pays more when p > C / ((d (1 − r) − f) (R + S)).
"""

from __future__ import annotations

from math import floor, inf
from typing import NamedTuple

from agent.core.proof.drawing import MILLION


class Stakes(NamedTuple):
    """What is at stake with one task; money in any one unit, shares from 0 to 1."""

    stake: float
    """S: what a slashed node loses beside the reward."""
    reward: float
    """R."""
    cost: float
    """C: what a dishonest node saves; at most what honest work costs."""
    colluding: float = 0.1
    """r: of the nodes."""
    detection: float = 1.0
    """d: of challenged cheats."""
    false_positives: float = 0.0
    """f: of challenged honest results."""

    @property
    def at_risk(self) -> float:
        """What being slashed costs."""
        return self.reward + self.stake

    @property
    def conviction(self) -> float:
        """How much likelier a challenge slashes a cheat than an honest node."""
        return self.detection * (1 - self.colluding) - self.false_positives

    @property
    def bound(self) -> float:
        """The rate above which honesty pays most; infinite where no rate does."""
        deterrent = self.conviction * self.at_risk
        return self.cost / deterrent if deterrent > 0 else inf

    @property
    def enough(self) -> bool:
        """Whether any rate is high enough: even a certain challenge may not deter."""
        return self.bound < 1

    @property
    def least_stake(self) -> float:
        """The stake above which a certain challenge deters; infinite where none does."""
        return max(0.0, self.cost / self.conviction - self.reward) if self.conviction > 0 else inf

    def honest(self, rate: float) -> float:
        """Expected gain of a task that was done."""
        return self.reward - self.cost - self.false_alarms(rate)

    def dishonest(self, rate: float) -> float:
        """Expected gain of a task that was faked."""
        return self.reward - rate * self.detection * (1 - self.colluding) * self.at_risk

    def false_alarms(self, rate: float) -> float:
        """What an honest node loses to mistakes, on average a task."""
        return rate * self.false_positives * self.at_risk

    def fakes_until_caught(self, rate: float) -> float:
        """Mean number of faked tasks up to the first that is slashed; infinite where none ever is."""
        caught = rate * self.detection * (1 - self.colluding)
        return 1 / caught if caught > 0 else inf


def rate_micros(stakes: Stakes) -> int:
    """The least rate, in millionths, at which honesty pays most; all results where no rate is enough."""
    if not stakes.enough:
        return MILLION
    return floor(stakes.bound * MILLION) + 1
