"""The sandboxes that the attempts are made in, each as root and as an ordinary user."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

from agent.edges.sandbox.bubblewrap import Bubblewrap
from agent.edges.sandbox.oci.backend import Oci
from agent.edges.sandbox.oci.facts import EngineName
from agent.ports import Sandbox
from tests.escape.controls import CARELESS, NAIVE, Bare
from tests.escape.suite import Tried, catalogue, try_all
from tests.escape.surroundings import PYTHON
from tests.sandboxes import as_ordinary_user

ROOT, USER = "root", "user"


class Backend(NamedTuple):
    """One kind of sandbox."""

    name: str
    make: Callable[[Path], Sandbox]
    """Gets a runtime directory of its own."""
    why_not: Callable[[], str]
    """Why this machine has none; empty when it has."""
    users: tuple[str, ...] = (ROOT, USER)
    """As whom its agent can be."""


def _made(name: str, directory: Path) -> Sandbox:
    return Bubblewrap(directory) if name == "bubblewrap" else Oci(directory, EngineName(name))


@cache
def _why_not(name: str) -> str:
    with tempfile.TemporaryDirectory(prefix="ga-") as directory:
        facts = asyncio.run(_made(name, Path(directory)).probe())
    return "" if facts.usable else facts.detail


def _kind(name: str, users: tuple[str, ...]) -> Backend:
    return Backend(name, partial(_made, name), partial(_why_not, name), users)


# Without root, podman needs an account with subordinate ids, which these tests have not.
BACKENDS = tuple(_kind(name, (ROOT, USER) if name == "bubblewrap" else (ROOT,)) for name in ("bubblewrap", *EngineName))


def _no_bwrap() -> str:
    return "" if Path(NAIVE[0]).exists() else f"there is no {NAIVE[0]}"


CONTROLS = (
    Backend("naive", lambda _: Bare(*NAIVE), _no_bwrap),
    Backend("careless", lambda _: Bare(*CARELESS), _no_bwrap),
    Backend("none", lambda _: Bare(), lambda: ""),
)
"""What must be found open, or an attempt proves nothing: what one would type first, what leaks, nothing at all."""


def why_not(backend: Backend, user: str) -> str:
    """Why the attempts cannot be made here; empty when they can."""
    if PYTHON is None:
        return "the attempts need a Python in /usr/bin"
    if user == ROOT and os.geteuid() != 0:
        return "needs root"
    if user == USER and user not in backend.users:
        return "needs root"
    return backend.why_not()


def tried_in(backends: Sequence[Backend], user: str) -> Mapping[str, Mapping[str, Tried]]:
    """Backend → attempt → verdict, with the agent as that user. They run side by side: most of them wait."""
    catalogue()  # before privileges are dropped

    async def attempts(backend: Backend) -> Mapping[str, Tried]:
        with tempfile.TemporaryDirectory(prefix="ga-") as directory:
            return await try_all(backend.make(Path(directory)))

    async def all_of_them() -> list[Mapping[str, Tried]]:
        return await asyncio.gather(*map(attempts, backends))

    made = asyncio.run(all_of_them()) if user == ROOT else as_ordinary_user(all_of_them)
    return {backend.name: tried for backend, tried in zip(backends, made, strict=True)}
