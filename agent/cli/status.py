"""`gpu-agent status`: what the running node does now, and why it does nothing when it does nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click

from agent.cli.options import config_sources
from agent.cli.table import headed
from agent.core.text import line, span
from agent.edges.gpu.telling import released, said_of

_CELL = 48
_DETAIL = 300


@click.command(short_help="What the running node does now, and why.")
@config_sources
@click.option("--socket", type=click.Path(path_type=Path), help="The daemon's socket, when not the configured one.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, as the daemon tells it (core/status.py).")
def command(config_file: Path | None, overrides: tuple[str, ...], socket: Path | None, as_json: bool) -> None:
    """Show the node on one screen: what it does, and every reason why it gets no work.

    \b
        gpu-agent status
        gpu-agent status --json | jq .why_idle

    Exit status 69 when no daemon answers.
    """
    from agent.cli import local

    told = local.ask(socket or local.control_socket(config_file, overrides), "GET", "/v1/status")
    if as_json:
        import json

        click.echo(json.dumps(told, indent=2))
        return
    click.echo("\n".join(screen(told)))


def screen(told: dict[str, Any]) -> Iterable[str]:
    """A status (`core.status.Status` as JSON) as lines for people; everything in it may come from outside."""
    node, link, sandbox = told["node"], told["link"], told["sandbox"]
    yield f"{_word(node['name'])} is {_word(node['state'])}, for {span(node['since_s'])}"
    yield f"  node      {_word(node['id']) or 'not enrolled'}, gpu-agent {_word(node['version'])}"
    yield f"  link      {_link(link)}"
    yield f"  sandbox   {_sandbox(sandbox)}"
    yield f"  work      {_work(told)}"
    yield from _proofs(told.get("proofs", {}))
    yield from _storage(told.get("storage", {}))
    if schedule := told.get("schedule"):
        yield f"  schedule  {_sentence(schedule)}"
    if page := told.get("page"):
        yield f"  page      {_sentence(page)}"
    yield from _idle(told.get("why_idle", ()))
    if why := told.get("reboot"):
        yield ""
        yield f"Reboot this machine{' once its tasks have ended' if told.get('attempts') else ''}: {_sentence(why)}."
    yield from headed(
        ("POOL", "MODEL", "DEVICE", "ENGINE", "MEMORY", "BUSY", "STATE"), map(_pool, told.get("pools", ()))
    )
    yield from _gpus(told.get("gpus", ()))
    yield from headed(("TASK", "STATE", "POOL", "AGE", "TOKENS", "LEFT"), map(_attempt, told.get("attempts", ())))


def _link(link: dict[str, Any]) -> str:
    parts = [_word(link["state"]), _word(link["url"]), _word(link["transport"])]
    if (age_s := link.get("last_answer_s")) is not None:
        parts.append(f"answered {span(age_s)} ago")
    if (offset_s := link.get("clock_offset_s")) is not None:
        parts.append(f"clock {offset_s:+.3f} s")
    return _joined([*parts, _sentence(link.get("detail", ""))])


def _sandbox(sandbox: dict[str, Any]) -> str:
    parts = [_word(sandbox["backend"]) if sandbox["usable"] else "not usable"]
    if sandbox.get("unenforced"):
        parts.append("not enforced here: " + " ".join(map(_word, sandbox["unenforced"])))
    return _joined([*parts, _sentence(sandbox.get("detail", ""))])


def _work(told: dict[str, Any]) -> str:
    totals = told.get("totals", {})
    counted = [f"{len(told.get('attempts', ()))} running", f"{told.get('outbox_waiting', 0)} waiting for a receipt"]
    counted += [f"{totals.get(key, 0)} {key.replace('_', ' ')}" for key in ("done", "failed", "handed_back")]
    earned = totals.get("earned_micros", 0) / 1e6
    return ", ".join([*counted, f"earned {earned:.6f} {_word(totals.get('currency', ''))}".rstrip()])


def _proofs(totals: dict[str, Any]) -> Iterable[str]:
    from agent.cli.proofs import summary

    if totals.get("challenges") or totals.get("judgements"):
        yield f"  proofs    {summary(totals)}"


def _storage(storage: dict[str, Any]) -> Iterable[str]:
    if quota_bytes := storage.get("transcripts_quota_bytes", 0):
        yield f"  storage   transcripts {storage['transcripts_bytes'] / 2**20:,.0f} of {quota_bytes / 2**20:,.0f} MiB"
    damage = storage.get("damage", ())
    if damage:
        yield ""
        yield "Degraded: something that was kept is damaged. `gpu-agent resume` says that you have seen it."
    for what in damage:
        yield f"  {_sentence(what)}"


def _idle(gates: Sequence[dict[str, Any]]) -> Iterable[str]:
    if not gates:
        return
    from agent.core.meanings import MEANINGS

    yield ""
    yield "No new work, because:"
    for gate in gates:
        meant = MEANINGS.get(gate["reason"])  # None: of a newer daemon
        said = gate.get("detail") or (meant.sentence if meant else "")
        yield f"  {_word(gate['reason']):<24}{_sentence(said)}".rstrip()
        if meant and meant.remedy not in said:
            yield f"  {'':<24}→ {meant.remedy}"


def _gpus(gpus: Sequence[dict[str, Any]]) -> Iterable[str]:
    rows = [(str(gpu["index"]), _word(gpu["name"]), _word(gpu["state"]), _word(gpu["uuid"])) for gpu in gpus]
    yield from headed(("GPU", "NAME", "HEALTH", "UUID"), rows)
    for gpu in gpus:
        for it in said_of(gpu):
            code = f" ({_word(it.code)})" if it.code else ""
            yield f"  {gpu['index']}  {_sentence(it.words)}{code}{f'; {_sentence(it.advice)}' if it.advice else ''}"


def _pool(pool: dict[str, Any]) -> tuple[str, ...]:
    gates = ", ".join(_word(gate["reason"]) for gate in pool.get("gates", ()) if gate["reason"] != "pool_not_ready")
    said = (
        f"takes none: {gates}" if gates else "",
        _sentence(pool.get("detail", "")),
        _sentence(released(pool.get("released"))),
    )
    detail = "; ".join(filter(None, said))
    ready = "ready, unverifiable" if pool.get("determinism") == "U" else "ready"
    ready += ", checks others" if pool.get("validates") else ""
    state = (ready if pool["ready"] else "not ready") + (f": {detail}" if detail else "")
    names = (_word(pool[key]) for key in ("name", "model", "device", "engine"))
    return (*names, memory(pool), f"{pool['busy']}/{pool['slots']}", state)


def memory(pool: dict[str, Any]) -> str:
    """What its engine takes, beside what its model's header let expect: `4.3 GiB (5.1)`."""
    measured, expected = (_gib(pool.get(key)) for key in ("measured_bytes", "expected_bytes"))
    return f"{measured or '–'} GiB ({expected or '–'})" if measured or expected else ""


def _gib(size_bytes: int | None) -> str:
    return "" if size_bytes is None else f"{size_bytes / 2**30:,.1f}"


def _attempt(attempt: dict[str, Any]) -> tuple[str, ...]:
    left_s = attempt.get("deadline_s")
    return (
        _word(attempt["task_id"]),
        _word(attempt["state"]),
        _word(attempt["pool"]),
        span(attempt["age_s"]),
        str(attempt.get("tokens", 0)),
        "" if left_s is None else span(left_s) if left_s > 0 else "over",
    )


def _word(text: object) -> str:
    return line(str(text), _CELL)


def _sentence(text: object) -> str:
    return line(str(text), _DETAIL)


def _joined(parts: Iterable[str]) -> str:
    return ", ".join(part for part in parts if part)
