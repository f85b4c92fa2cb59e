"""What a metric is: a name, a kind, and how its values are read from one moment of the node."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from agent.core.gpu import GpuReport
from agent.core.status import Status


class Scene(NamedTuple):
    """All that is told, at one moment."""

    status: Status
    report: GpuReport
    """The latest readings."""
    hostname: str


class Sample(NamedTuple):
    """One value of a family."""

    value: float
    labels: Mapping[str, str] = {}


class Family(NamedTuple):
    """One metric: its name says the unit, its samples come from a scene."""

    name: str
    kind: str
    """`gauge` or `counter`."""
    help: str
    samples: Callable[[Scene], Iterable[Sample]]
