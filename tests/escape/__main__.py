"""`python -m tests.escape [--only BACKEND] [--write docs/escape.md] [--json]`: status 1 when something new is open."""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.escape.backends import BACKENDS, CONTROLS, ROOT, USER, Backend, tried_in, why_not
from tests.escape.known import KNOWN
from tests.escape.page import Column, proof, render
from tests.escape.suite import Tried, Verdict
from tests.systemd import box
from tests.systemd.installed import installed_box, tried_in_service


def main() -> int:
    parser = argparse.ArgumentParser(prog="make escape", description=__doc__)
    parser.add_argument("--only", action="append", help="a backend; again for more")
    parser.add_argument("--user", choices=(ROOT, USER), help="one of the two only")
    parser.add_argument("--write", type=Path, help="make the page; needs every backend")
    parser.add_argument("--json", action="store_true", help="verdicts on stdout, and no controls")
    options = parser.parse_args()
    wanted = [b for b in BACKENDS if not options.only or b.name in options.only]
    columns = list(_columns(wanted, options.user))
    if options.user is None and wanted[0].name == "bubblewrap":
        columns += _in_service()
    if options.json:
        print(json.dumps({column.title: column.tried for column in columns}))
        return bool(new_openings(columns))
    controls = list(_columns(CONTROLS, options.user))
    _tell(columns, controls)
    if options.write:
        options.write.write_text(render(columns, controls, machine()))
    return bool(new_openings(columns))


def new_openings(columns: list[Column]) -> list[str]:
    """What is open that tests/escape/known.py does not know, as `backend, user: attempt`."""
    return [
        f"{column.title}: {name}: {tried.got}"
        for column in columns
        for name, tried in column.tried.items()
        if tried.verdict is Verdict.OPEN and name not in KNOWN[column.backend]
    ]


def machine() -> str:
    """Kernel and processor, without the name of anybody's machine."""
    return f"Linux {'.'.join(platform.release().split('.')[:2])}, {platform.machine()}"


def _columns(backends: Sequence[Backend], only: str | None) -> Iterator[Column]:
    """In the order of the page."""
    made = {user: _made(backends, user) for user in (ROOT, USER) if only in (None, user)}
    for backend in backends:
        for user, found in made.items():
            if backend.name in found:
                yield Column(backend.name, user, found[backend.name])


def _in_service() -> Iterator[Column]:
    if reason := box.why_not():
        print(f"bubblewrap, service: not here: {reason}", file=sys.stderr)
        return
    with tempfile.TemporaryDirectory(prefix="box-") as place, installed_box(Path(place)) as booted:
        yield Column("bubblewrap", "service", tried_in_service(booted))


def _made(backends: Sequence[Backend], user: str) -> Mapping[str, Mapping[str, Tried]]:
    here = []
    for backend in backends:
        if reason := why_not(backend, user):
            print(f"{backend.name}, {user}: not here: {reason}", file=sys.stderr)
        else:
            here.append(backend)
    return tried_in(here, user)


def _tell(columns: list[Column], controls: list[Column]) -> None:
    for column in (*columns, *controls):
        found = [tried.verdict for tried in column.tried.values()]
        counts = ", ".join(f"{found.count(kind)} {kind}" for kind in Verdict)
        print(f"{column.title}: {counts}")
        for name, tried in column.tried.items():
            if tried.verdict is Verdict.OPEN and column in columns:
                known = KNOWN[column.backend].get(name)
                print(f"  open: {name}: {tried.got}" + ("" if known else "   NEW"))
    unproven = [name for name in columns[0].tried if not proof(name, controls)] if columns else []
    print(f"not proven by any control here: {', '.join(unproven)}")


if __name__ == "__main__":
    sys.exit(main())
