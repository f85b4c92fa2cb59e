"""Every failure that the agent tells apart, classified once at the edge that saw it, with its cause kept.

`message` says what happened; `remedy` says what to do. Code decides on the class and the enum, never on the text.
"""

from __future__ import annotations

from enum import StrEnum

from agent.core.model import Reason
from agent.core.wire import RefusalCode

FORBIDDEN = 77
"""EX_NOPERM of sysexits(3): the user may not do it, or is not believed to be who it says."""


class AgentError(Exception):
    """Base of all expected failures."""

    exit_code = 1

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}. {self.remedy}" if self.remedy else self.message


class ConfigError(AgentError):
    """The configuration is unusable; `faults` lists every fault found, one line each."""

    exit_code = 78

    def __init__(self, faults: list[str], *, source: str = "") -> None:
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        super().__init__(f"{source or 'configuration'}: {count}", remedy="Correct and try again")
        self.faults = faults


class IdentityError(AgentError):
    """Key file, enrolment or pinned coordinator key is unusable."""

    exit_code = FORBIDDEN


class LinkFault(StrEnum):
    """How a call to the coordinator failed."""

    UNREACHABLE = "unreachable"
    """No connection, or it broke: it is unknown whether the coordinator acted. Retry."""
    REFUSED = "refused"
    """The coordinator answered with a refusal; see `code`."""
    BROKEN = "broken"
    """The peer does not speak the protocol."""
    INSECURE = "insecure"
    """TLS failed, or plain text was asked for beyond loopback. Do not retry blindly."""
    CLOSED = "closed"
    """Our side closed the link."""


class LinkError(AgentError):
    """A call to the coordinator failed."""

    exit_code = 69

    def __init__(
        self,
        fault: LinkFault,
        message: str,
        *,
        code: RefusalCode | None = None,
        retry_after_s: float | None = None,
        remedy: str = "",
    ) -> None:
        super().__init__(message, remedy=remedy)
        self.fault = fault
        self.code = code
        self.retry_after_s = retry_after_s

    def again(self) -> LinkError:
        """The same failure for one more waiter: an exception that is shared would collect everybody's traceback."""
        return LinkError(self.fault, self.message, code=self.code, retry_after_s=self.retry_after_s, remedy=self.remedy)


class EngineError(AgentError):
    """An engine could not do a task; `reason` goes into the attempt's outcome."""

    def __init__(self, reason: Reason, message: str, *, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.reason = reason


class SandboxError(AgentError):
    """The sandbox could not be built, or a promised limit cannot be enforced here."""


class ModelError(AgentError):
    """A model file is missing, unreadable or not what its digest says."""


class StorageError(AgentError):
    """State could not be written durably; `full` when the disk or quota is, or the disk was made read-only: to wait is
    right then, for it passes without the agent's doing."""

    def __init__(self, message: str, *, full: bool = False, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.full = full


class ConflictError(StorageError):
    """Something else is kept under this name already: to try again never helps."""


class ProofError(AgentError):
    """A transcript, commitment, signature or receipt does not verify; `check` names the failed check."""

    def __init__(self, check: str, message: str) -> None:
        super().__init__(message)
        self.check = check


class AttestError(AgentError):
    """The matrix challenge cannot be answered here: no engine, no memory, or a device that went silent."""
