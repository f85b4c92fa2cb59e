"""Stop strings, and which texts an engine may deliver that met one or overlooked it."""

from __future__ import annotations

import pytest

from agent.core.checks import stops


@pytest.mark.parametrize(
    ("text", "withheld", "delivered"),
    [
        ("plain", False, {"plain"}),
        ("one. two! three.", False, {"one"}),
        ("one. two! three.", True, {"one"}),  # nothing is near that tokens are withheld for
        ("one.😀 two! three.", False, {"one"}),
        ("one.😀 two! three.", True, {"one", "one.😀 two"}),
        ("one.😀", True, {"one", "one.😀"}),
        (".", False, {""}),
    ],
)
def test_only_beside_a_character_that_tokens_are_withheld_for_a_stop_string_may_be_overlooked(
    text: str, withheld: bool, delivered: set[str]
):
    parts = {text[:end] for end in range(len(text) + 1)}
    assert {part for part in parts if stops.fits((".", "!"), text, part, withheld=withheld)} == delivered
    assert not stops.fits((".", "!"), text, "else", withheld=withheld)


def test_a_sign_that_stands_for_any_bytes_may_have_stopped_a_text_anywhere_or_nowhere():
    assert stops.fits(("\ufffd", "."), "a\ufffdb.", "a\ufffdb.", withheld=False)
    assert stops.fits(("\ufffd", "."), "a\ufffdb.", "a", withheld=False)
    assert not stops.fits(("\ufffd", "."), "a\ufffdb.", "b", withheld=False)
    assert stops.met(("\ufffd", ".", ""), "a\ufffdb.", withheld=False) == {3: "."}
    assert stops.may_cut(("\ufffd",), "ab")
    assert not stops.may_cut((".", ""), "ab")


def test_what_may_begin_a_stop_string_is_held_back_at_the_limit():
    texts = ("ab\n\n", "ab\n", "ab", "a")
    assert stops.held_at_limit(("\n\n\n",), texts) == ("ab\n", "ab")
    assert stops.held_at_limit(("\n\n",), texts[1:]) == ("ab",)
    assert stops.held_at_limit(("b", "."), texts) == stops.held_at_limit((), texts) == ()
