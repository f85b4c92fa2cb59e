"""What `gpu-agent doctor` says: findings, and the exit status that follows from them. Judgements are in `judgements`.

Exit status of the verb: 0 when nothing fails, 1 when something fails; with `--strict` 3 when there are only warnings.
(2 stays the shell's "wrong usage".)
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from agent.core.model import Value

FAILED, WARNED = 1, 3


class Severity(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARN = "warn"
    """Works, with less than it could."""
    FAIL = "fail"
    """The node cannot work, or not safely."""


class Finding(Value):
    """One check and its result."""

    id: str
    """Stable name, `area.fact`."""
    actual: str
    required: str
    severity: Severity
    purpose: str
    """What the node needs this for."""
    remedy: str = ""
    """What to do; empty when all is well."""


def exit_status(findings: Iterable[Finding], *, strict: bool = False) -> int:
    """The verb's exit status; see the module's docstring."""
    severities = {finding.severity for finding in findings}
    if Severity.FAIL in severities:
        return FAILED
    return WARNED if strict and Severity.WARN in severities else 0
