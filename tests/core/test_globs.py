"""Patterns of output files."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.globs import any_matches, matches

NAMES = st.lists(st.binary(min_size=1, max_size=5).filter(lambda it: b"/" not in it), min_size=1, max_size=5)


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("**", "a", True),
        ("**", "a/b/c", True),
        ("*", "a", True),
        ("*", "a/b", False),
        ("*.png", "frame.png", True),
        ("*.png", "frames/1.png", False),
        ("**/*.png", "frames/1.png", True),
        ("**/*.png", "1.png", True),
        ("frames/*", "frames/1.png", True),
        ("frames/**", "frames/a/b.png", True),
        ("frames/**", "frames", True),
        ("f?ame", "frame", True),
        ("f?ame", "fame", False),
        ("a/**/b", "a/b", True),
        ("a/**/b", "a/x/y/b", True),
        ("a/**/b", "a/x/y/c", False),
        ("*a*b*c", "xxaxxbxxc", True),
        ("*a*b*c", "xxaxxcxxb", False),
        ("a**b", "axxb", True),
        ("", "a", False),
        (".*", ".hidden", True),
        ("[a]", "a", False),
    ],
)
def test_a_pattern_means_what_it_means_in_a_shell(pattern: str, path: str, expected: bool):
    assert matches(pattern.encode(), path.encode()) is expected


@given(NAMES)
def test_two_stars_match_every_path_and_a_path_without_wildcards_itself(names: list[bytes]):
    path = b"/".join(names)
    assert matches(b"**", path)
    if not set(path) & set(b"*?"):
        assert any_matches([b"nothing/else", path], path)


def test_a_pattern_made_to_be_slow_ends_within_the_life_of_a_test():
    """A matcher that goes back over what it tried would take years."""
    assert not matches(b"*a" * 127, b"a" * 254 + b"b")
    assert not matches(b"**/" * 80 + b"b", b"a/" * 31 + b"a")
