"""Every way out that we know of is tried from inside real sandboxes, and docs/escape.md tells what is open."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import pytest

from tests.escape.backends import BACKENDS, CONTROLS, ROOT, USER, Backend, tried_in, why_not
from tests.escape.known import KNOWN
from tests.escape.page import PAGE, documented, documented_openings
from tests.escape.suite import Tried, Verdict, catalogue

PLACES = [(backend.name, user) for backend in BACKENDS for user in backend.users]
in_every_place = pytest.mark.parametrize(("backend", "user"), PLACES)
CONTROLS_OF = {ROOT: ("careless",), USER: ("naive", "none")}
"""Enough to prove what can be; `make escape` runs all of them as both."""
NEEDS_ONLY_LINUX = {
    "abstract_socket_of_the_host", "accounts", "canary_changed", "capabilities", "clone_user_namespace",
    "controlling_terminal", "environment_of_init", "file_in_the_hosts_shared_memory", "file_in_the_hosts_tmp",
    "fill_out", "fill_shared_memory", "fill_the_socket_directory", "fill_tmp", "gain_privileges", "home_directories",
    "host_file", "inherited_descriptors", "input_changed", "large_file", "listen_for_the_host",
    "listen_on_an_abstract_name",
    "loopback_of_the_host", "lower_the_oom_score", "many_files", "memory", "memory_in_files", "memory_in_segments",
    "memory_of_init", "memory_of_many", "no_filter", "open_files", "options_of_init", "outlive_the_sandbox",
    "personality", "posix_shared_memory_of_the_host", "processes", "processes_of_the_host", "queue_of_the_host",
    "root_of_init", "root_of_the_host", "secret_of_the_agent", "semaphore_of_the_host", "setuid_program",
    "shared_memory_for_the_host", "shared_memory_of_the_host", "signal_a_process_by_descriptor",
    "signal_a_process_of_the_host", "signal_the_agent", "socket_buffers", "socket_file_of_the_host", "threads",
    "time_that_is_over", "trace_a_child", "udp_of_the_host", "unshare_user", "writable_kernel_settings",
    "write_a_host_file", "write_an_input", "write_etc", "write_root", "write_run", "write_usr",
}  # fmt: skip
"""What any machine can prove, whatever its kernel has been built with and its network is."""


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
    if ROOT not in users:
        pytest.skip("most attempts can succeed for root only")
    assert proven >= NEEDS_ONLY_LINUX
    assert len(proven) > 120


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


def test_the_page_gives_every_reason() -> None:
    page = PAGE.read_text()
    missing = [name for openings in KNOWN.values() for name, opening in openings.items() if opening.why not in page]
    assert not missing, 'make escape ARGS="--write docs/escape.md"'
