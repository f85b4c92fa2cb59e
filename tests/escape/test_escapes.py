"""Every way out that we know of is tried from inside real sandboxes, and docs/escape.md tells what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import pytest

from tests.escape.backends import BACKENDS, CONTROLS, ROOT, USER, Backend, tried_in, why_not
from tests.escape.known import KNOWN
from tests.escape.page import documented, documented_openings
from tests.escape.suite import Tried, Verdict, catalogue

PLACES = [(backend.name, user) for backend in BACKENDS for user in backend.users]
in_every_place = pytest.mark.parametrize(("backend", "user"), PLACES)
CONTROLS_OF = {ROOT: ("careless",), USER: ("naive", "none")}
"""Enough to prove what can be; `make escape` runs all of them as both."""
NEEDS_MORE_THAN_LINUX = (
    "device_", "socket_", "write_", "read_", "kexec", "module", "remove_a_module", "quotactl", "io_p", "calls_of_x32",
)  # fmt: skip
"""Beginnings of attempts on what not every kernel has, so that not every machine can prove them."""
NEEDS_PRIVILEGE = {
    "raise_a_limit", "protection_from_the_oom_killer", "more_user_namespaces", "memory_map_of_the_kernels_view",
}  # fmt: skip
"""CAP_SYS_RESOURCE, which even root lacks in many places."""
NEEDS_HARM = {"program_changed", "mounts_left", "cgroups_left", "hostname_changed"}
"""No control does that to the machine."""
NEEDS_SERVICES = {"sockets_of_services", "groups_of_the_agent", "limit_of_core_dumps", "numbers_past_the_end"}
"""What a bare machine may not have."""


@cache
def found(user: str) -> Mapping[str, Mapping[str, Tried]]:
    """Backend or control → attempt → verdict, as that user."""
    wanted = (*BACKENDS, *(named(name) for name in CONTROLS_OF[user]))
    return tried_in([backend for backend in wanted if not why_not(backend, user)], user)


def tried(backend: str, user: str) -> Mapping[str, Tried]:
    if reason := why_not(named(backend), user):
        pytest.skip(f"{backend}, {user}: {reason}")
    return found(user)[backend]


def named(name: str) -> Backend:
    return next(backend for backend in (*BACKENDS, *CONTROLS) if backend.name == name)


def opened(backend: str, user: str) -> set[str]:
    return {name for name, what in tried(backend, user).items() if what.verdict is Verdict.OPEN}


def test_there_are_more_than_seventy() -> None:
    assert len(catalogue()) > 200


@in_every_place
def test_nothing_is_open_but_what_is_known(backend: str, user: str) -> None:
    new = {name: tried(backend, user)[name].got for name in opened(backend, user) - KNOWN[backend].keys()}
    assert not new, "a way out: close it, or say in tests/escape/known.py why it stays"


@pytest.mark.parametrize("backend", KNOWN)
def test_what_is_known_as_open_is_open(backend: str) -> None:
    users = [user for user in named(backend).users if not why_not(named(backend), user)]
    if not users:
        pytest.skip(f"{backend}: {why_not(named(backend), ROOT)}")
    always = {name for name, opening in KNOWN[backend].items() if not opening.sometimes}
    assert all(always <= opened(backend, user) for user in users), "closed by now: take it out of known.py"


def test_without_a_sandbox_the_attempts_do_get_out() -> None:
    """Otherwise the tests above would prove nothing."""
    users = [user for user in (ROOT, USER) if not why_not(named("none"), user)]
    proven = set().union(*(opened(control, user) for user in users for control in CONTROLS_OF[user]))
    needs = NEEDS_PRIVILEGE | NEEDS_HARM | NEEDS_SERVICES
    unproven = {name for name in catalogue() if name not in needs and not name.startswith(NEEDS_MORE_THAN_LINUX)}
    if ROOT not in users:
        pytest.skip("most attempts can succeed for root only")
    assert unproven <= proven
    assert len(proven) > 150


def test_a_naive_sandbox_leaves_most_of_it_open() -> None:
    assert len(opened("naive", USER)) > 50


def test_the_page_lists_every_attempt_as_it_is() -> None:
    told = {name: tries for name, (tries, _) in documented().items()}
    assert told == {name: about.tries for name, about in catalogue().items()}, (
        'make escape ARGS="--write docs/escape.md"'
    )


def test_the_page_tells_what_is_open_and_nothing_else() -> None:
    known = {name for openings in KNOWN.values() for name in openings}
    sometimes = {name for openings in KNOWN.values() for name, opening in openings.items() if opening.sometimes}
    assert known - sometimes <= documented_openings() <= known, 'make escape ARGS="--write docs/escape.md"'
