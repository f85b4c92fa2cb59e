"""Composition: opens the edges that the configuration names, and wires the stages to them. Start at `composer`."""

from agent.compose.composer import Composer, Parts
from agent.compose.loops import BOUNDS_S

__all__ = ["BOUNDS_S", "Composer", "Parts"]
