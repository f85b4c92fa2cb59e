"""A real sandbox backend, and a directory that a sandbox and its test share."""

import os

import pytest

from tests.sandboxes import BACKENDS, make_backend, require_sandbox


@pytest.fixture(scope="session")
def sandboxes():
    """Skips where none can be made."""
    require_sandbox()


SAME_FOR_ALL = {
    "test_a_directory_is_given_read_only",
    "test_a_file_and_the_number_of_open_files_are_bounded",
    "test_a_flood_that_never_ends_does_not_keep_a_kill_from_ending",
    "test_a_mount_that_does_not_exist_is_refused",
    "test_a_program_above_its_memory_is_killed_and_named",
    "test_a_program_that_ignores_the_request_is_killed",
    "test_a_program_that_outlives_the_kill_of_its_child_ended_by_itself",
    "test_a_sandbox_leaves_no_cgroup_behind",
    "test_a_working_directory_that_is_no_place_inside_is_refused",
    "test_cancelling_one_who_waits_leaves_the_sandbox_alone",
    "test_only_the_given_environment_is_there",
    "test_output_as_large_as_allowed_is_no_fault",
    "test_running_out_of_time_is_named",
    "test_the_program_starts_where_it_was_told",
    "test_too_much_output_is_named_also_when_nobody_reads_it",
    "test_who_closes_ends_the_program_and_its_own_reading",
    "test_who_fills_the_disk_and_succeeds_has_just_ended",
    "test_without_an_allowance_stdout_goes_nowhere",
    "test_without_an_allowance_there_is_no_out",
}
"""What backends share, what only bubblewrap has, and what test_asked.py tries in each: here in bubblewrap alone, since
a container takes a third of a second."""


def pytest_generate_tests(metafunc):
    if "backend_name" in metafunc.fixturenames:
        alone = metafunc.function.__name__ in SAME_FOR_ALL
        metafunc.parametrize("backend_name", ["bubblewrap"] if alone else [str(name) for name in BACKENDS])


@pytest.fixture
def sandbox(backend_name, tmp_path):
    """Each backend; skips those that this machine does not have."""
    require_sandbox(backend_name)
    return make_backend(backend_name, tmp_path)


@pytest.fixture
def shared(tmp_path):
    """A socket directory with a fifo `up`: reading it waits until the program has written and all writers are gone."""
    directory = tmp_path / "shared"
    directory.mkdir()
    os.mkfifo(directory / "up")
    (directory / "up").chmod(0o666)
    return directory
