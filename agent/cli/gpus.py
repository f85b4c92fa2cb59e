"""`gpu-agent gpus`: the GPUs of this machine as the agent sees them."""

from __future__ import annotations

import asyncio
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.cli.options import with_config
from agent.cli.table import table

if TYPE_CHECKING:
    from agent.config import Config
    from agent.core.attest.messages import Attestation
    from agent.core.fingerprint import GpuStanding
    from agent.core.gpu import Gpu, GpuReport
    from agent.core.status import PoolStatus

NOTHING = "–"
_WIDTH = 100


@click.command(short_help="GPUs of this machine as the agent sees them.")
@click.option(
    "--library",
    type=click.Path(exists=True, dir_okay=False, resolve_path=True, path_type=Path),
    help="NVML library to read with.",
)
@click.option(
    "--capture",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write what the driver answers to a file, as a scenario for tests; UUIDs and serial numbers are hashed.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object, all fields and reasons.")
@with_config
def command(config: Config, library: Path | None, capture: Path | None, as_json: bool) -> int:
    """Read the GPUs once and print them.

    \b
        gpu-agent gpus
        gpu-agent gpus --json | jq '.gpus[].uuid'

    A machine without GPUs is no error; one that cannot be read is (status 1)."""
    if capture is not None:
        from agent.edges.gpu.capture import captured

        capture.write_text(captured(library or config.gpu.library))
        click.echo(f"written to {capture}")
        return 0
    report = asyncio.run(_snapshot(config, library))
    from agent.cli.standings import attestations_of_daemon, engines_of_daemon

    standings, pools = _standings(config, report), engines_of_daemon(config.control_socket)
    engines = [pool for pool in pools if pool.device.startswith(("GPU-", "MIG-"))]
    verdicts = attestations_of_daemon(config.control_socket)
    told = _json(report, standings, engines) if as_json else "\n".join(_page(report, standings, engines, verdicts))
    click.echo(told)
    return int(_is_broken(report))


async def _snapshot(config: Config, library: Path | None) -> GpuReport:
    from agent.edges.clock import SystemClock
    from agent.edges.gpu.probe import NoGpuProbe, NvmlProbe

    if not config.gpu.enabled:
        return await NoGpuProbe().snapshot()
    probe = NvmlProbe(SystemClock(), library=library or config.gpu.library, deadline_s=config.gpu.deadline_s)
    try:
        return await probe.settled()
    finally:
        await probe.close()


def _json(report: GpuReport, standings: Sequence[GpuStanding], engines: Sequence[PoolStatus]) -> str:
    """The report's own fields, and beside them `health` and `engines`."""
    import msgspec

    told = msgspec.to_builtins(report) | {"health": standings, "engines": engines}
    return msgspec.json.format(msgspec.json.encode(told), indent=2).decode()


def _is_broken(report: GpuReport) -> bool:
    from agent.core.gpu import GpuFault

    if report.fault in {GpuFault.DRIVER_ABSENT, GpuFault.NO_GPU}:
        return False
    return report.fault is not None or any(gpu.fault for gpu in report.gpus)


def _standings(config: Config, report: GpuReport) -> Sequence[GpuStanding]:
    """By the daemon, which watches them; by this look alone where none knows these GPUs."""
    from agent.cli.standings import of_daemon
    from agent.edges.gpu.judging import judged_at_once

    here = {gpu.uuid for gpu in report.gpus}
    known = of_daemon(config.control_socket)
    if any(standing.uuid in here for standing in known):
        return known  # also of a card that the driver no longer names
    return judged_at_once(report, config.node.state_dir)


def _page(
    report: GpuReport,
    standings: Sequence[GpuStanding],
    engines: Sequence[PoolStatus],
    verdicts: Mapping[str, Attestation],
) -> Iterator[str]:
    if not report.gpus:
        found = "the NVIDIA driver cannot be read" if _is_broken(report) else "no NVIDIA GPU"
        yield f"{found}: CPU pool only"
        yield from _wrapped(report.detail, "  ")
        return
    yield f"driver {report.driver or NOTHING} · CUDA {report.cuda or NOTHING}"
    yield ""
    yield from table([_HEAD, *(_cells(gpu) for gpu in report.gpus)])
    for title, lines in (
        ("Slices (MIG)", _slices(report)),
        ("Engines of this node: memory measured (expected)", _engines(report, engines)),
        ("Not usable", _faults(report)),
        ("Not healthy", _unwell(report, standings)),
        ("Does not fit together, so it is not attested", _doubted(report, standings)),
        ("Is it a GPU, by the coordinator's clock", _attested(report, verdicts)),
        (f"Not told ({NOTHING} above)", _reasons(report)),
        ("Beside the driver", _beside_driver(report)),
    ):
        yield from _section(title, list(lines))


_HEAD = ("#", "name", "memory used", "load", "temp", "power", "clock", "processes", "uuid")


def _cells(gpu: Gpu) -> tuple[str, ...]:
    now = gpu.sample
    return (
        str(gpu.index),
        gpu.name,
        _of(now.memory_used_bytes, gpu.memory_total_bytes, _gib, "GiB"),
        _told(now.utilisation_percent, "{} %".format),
        _told(now.temperature_c, "{} °C".format),
        _of(now.power_mw, gpu.power_limit_mw, _watts, "W"),
        _told(now.sm_clock_mhz, "{} MHz".format),
        _told(now.processes, str),
        gpu.uuid,
    )


def _told(value: int | None, form: Callable[[int], str]) -> str:
    return NOTHING if value is None else form(value)


def _of(part: int | None, whole: int | None, form: Callable[[int], str], unit: str) -> str:
    if part is None and whole is None:
        return NOTHING
    return f"{_told(part, form)} / {_told(whole, form)} {unit}"


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / (1 << 30):.1f}"


def _watts(power_mw: int) -> str:
    return f"{power_mw / 1000:.0f}"


def _section(title: str, lines: Sequence[str]) -> Iterator[str]:
    if lines:
        yield ""
        yield f"{title}:"
    for line in lines:
        yield from _wrapped(line, "     ")


def _wrapped(text: str, indent: str) -> list[str]:
    """Broken between words alone: a command in it must stay whole to be copied."""
    return textwrap.wrap(text, _WIDTH, initial_indent="  ", subsequent_indent=indent, break_on_hyphens=False)


def _slices(report: GpuReport) -> Iterator[str]:
    for gpu in report.gpus:
        for part in gpu.mig:
            yield f"{gpu.index}  {part.name}  {_gib(part.memory_total_bytes)} GiB  {part.uuid}"


def _engines(report: GpuReport, engines: Sequence[PoolStatus]) -> Iterator[str]:
    places = {uuid: str(gpu.index) for gpu in report.gpus for uuid in (gpu.uuid, *(part.uuid for part in gpu.mig))}
    for pool in engines:
        on = "+".join(places.get(uuid, uuid) for uuid in pool.device.split("+"))
        sizes = (None if size is None else _gib(size) for size in (pool.measured_bytes, pool.expected_bytes))
        measured, expected = (NOTHING if size is None else size for size in sizes)
        yield f"{on}  {pool.name}  {measured} GiB ({expected})"


def _faults(report: GpuReport) -> Iterator[str]:
    for gpu in report.gpus:
        if gpu.fault:
            yield f"{gpu.index}  {gpu.fault.replace('_', ' ')}: {gpu.detail}"


def _unwell(report: GpuReport, standings: Sequence[GpuStanding]) -> Iterator[str]:
    places = {gpu.uuid: gpu.index for gpu in report.gpus}
    for standing in standings:
        for finding in standing.findings:
            told = f"{finding.evidence} ({finding.code}); advice: {finding.advice.value}"
            yield f"{places.get(standing.uuid, standing.uuid)}  {standing.state.value}: {told}"
        if standing.detail and not standing.findings:
            yield f"{places.get(standing.uuid, standing.uuid)}  {standing.state.value}: {standing.detail}"


def _doubted(report: GpuReport, standings: Sequence[GpuStanding]) -> Iterator[str]:
    """A line for each doubt, with all GPUs that share it."""
    places = {gpu.uuid: str(gpu.index) for gpu in report.gpus}
    told: dict[tuple[str, str, str], list[str]] = {}
    for standing in standings:
        for doubt in standing.doubts:
            line = (doubt.code, doubt.evidence, doubt.advice)
            told.setdefault(line, []).append(places.get(standing.uuid, standing.uuid))
    for (code, evidence, advice), gpus in told.items():
        yield f"{','.join(gpus)}  {evidence} ({code}). {advice}"


def _attested(report: GpuReport, verdicts: Mapping[str, Attestation]) -> Iterator[str]:
    import msgspec

    from agent.edges.gpu.telling import attested

    for gpu in report.gpus:
        if said := verdicts.get(gpu.uuid):
            yield f"{gpu.index}  {attested(msgspec.to_builtins(said))}"


def _beside_driver(report: GpuReport) -> Iterator[str]:
    from agent.core.surroundings import driver_change, unlisted

    if changed := driver_change(report):
        yield changed
    for card in unlisted(report):
        yield f"{card.address}  held by the driver, which does not list it"
    for source, reason in report.absent.items():
        yield f"{source.replace('_', ' ')}: {reason}"


def _reasons(report: GpuReport) -> Iterator[str]:
    """One line per reason: which fields, on which GPUs. What the table has no column for is told in JSON alone."""
    from agent.core.gpu import GpuCondition

    found: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for gpu in report.gpus:
        by_reason: dict[str, list[str]] = {}
        for field, reason in gpu.absent.items():
            if field in GpuCondition.__struct_fields__:
                continue
            by_reason.setdefault(reason, []).append(field)
        for reason, fields in by_reason.items():
            found.setdefault((reason, tuple(fields)), []).append(str(gpu.index))
    for (reason, names), gpus in found.items():
        yield f"{','.join(gpus)}  {', '.join(names)}: {reason}"
