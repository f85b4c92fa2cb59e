"""`gpu-agent doctor`: everything the node needs, with what to do where it is missing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.cli.options import config_sources
from agent.cli.standings import engines_of_daemon, of_daemon

if TYPE_CHECKING:
    from agent.config import Config
    from agent.core.doctor import Finding

_TEXT = 500


@click.command(short_help="Check everything that the node needs, with remedies.")
@config_sources
@click.option("--json", "as_json", is_flag=True, help="One JSON object: status and findings.")
@click.option("--strict", is_flag=True, help="Exit status 3 when there are warnings and no failure.")
def command(config_file: Path | None, overrides: tuple[str, ...], as_json: bool, strict: bool) -> int:
    """Check everything that the node needs, and say what to do where something is missing.

    \b
        gpu-agent doctor
        gpu-agent doctor --json | jq '.findings[] | select(.severity != "ok")'

    A line each: its id, what is, what is required, and a remedy. Exit status 0: nothing fails; 1: something fails.
    """
    import asyncio

    from agent.core.doctor import exit_status
    from agent.edges.doctor.checkup import examine
    from agent.edges.doctor.plan import plan

    config, file, faults = _configuration(config_file, overrides)
    standings = of_daemon(config.control_socket)
    pools = engines_of_daemon(config.control_socket)
    findings = asyncio.run(examine(plan(config, file, faults, standings, pools)))
    status = exit_status(findings, strict=strict)
    if as_json:
        _print_json(findings, status)
    else:
        for line in report(findings):
            click.echo(line)
    return status


def _configuration(config_file: Path | None, overrides: tuple[str, ...]) -> tuple[Config, str, list[str]]:
    """The configuration, its file and its faults. Defaults stand in for one that is not valid."""
    from agent.config import load_with_origins
    from agent.core.errors import ConfigError

    try:
        loaded = load_with_origins(config_file, overrides)
    except ConfigError as fault:
        return load_with_origins(Path("/dev/null"), environ=_places_only()).config, fault.message, fault.faults
    return loaded.config, str(loaded.file or ""), []


def _places_only() -> dict[str, str]:
    """The environment without settings of ours, which may be what is wrong."""
    import os

    return {name: value for name, value in os.environ.items() if not name.startswith("GPU_AGENT_")}


def _print_json(findings: Sequence[Finding], status: int) -> None:
    import msgspec

    click.echo(msgspec.json.format(msgspec.json.encode({"exit_status": status, "findings": findings}), indent=2))


def report(findings: Sequence[Finding]) -> Iterable[str]:
    """The findings for people: one line each, and what to do below those that are not well."""
    from agent.core.doctor import Severity
    from agent.core.text import counted, plain

    marks = {Severity.OK: ("ok  ", "green"), Severity.WARN: ("warn", "yellow"), Severity.FAIL: ("FAIL", "red")}
    width = max(len(finding.id) for finding in findings)
    for finding in findings:
        mark, colour = marks[finding.severity]
        actual, required = (" ".join(plain(text, _TEXT).split()) for text in (finding.actual, finding.required))
        told = f"{click.style(mark, fg=colour)}  {finding.id:<{width}}  {actual}"
        if finding.severity is Severity.OK:
            yield told + click.style(f"  required: {required}", dim=True)
        else:
            yield told
            indent = " " * (width + 8)
            yield f"{indent}required: {required} (for {finding.purpose})"
            yield f"{indent}→ {' '.join(plain(finding.remedy, _TEXT).split())}"
    counts = [sum(finding.severity is severity for finding in findings) for severity in Severity]
    yield f"{counts[0]} ok, {counted(counts[1], 'warning')}, {counted(counts[2], 'failure')}"
