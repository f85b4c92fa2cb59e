"""Why a text ended: every way to end honestly, and every way to lie about it."""

from __future__ import annotations

import msgspec
import pytest

from agent.core.checks.claims import Position
from agent.core.checks.ending import Ending, Hidden, Told, check_ending
from agent.core.model import FinishReason
from agent.core.proof.header import Header
from tests.core.proof.making import header

STOP, LENGTH = FinishReason.STOP, FinishReason.LENGTH


def ended(finish: FinishReason, counted: int, *, allowed: int = 8, stop: tuple[str, ...] = ()) -> Header:
    return msgspec.structs.replace(header(), finish=finish, completion_tokens=counted, max_tokens=allowed, stop=stop)


def shown(count: int) -> list[Position]:
    return [Position(at) for at in range(count)]


HONEST = {
    "end of text": (ended(STOP, 5), 5, "abcd", Told(True, "abcd")),
    "end of text with the last token": (ended(STOP, 8), 8, "abcdefg", Told(True, "abcdefg")),
    "nothing but the end": (ended(STOP, 1), 1, "", Told(True, "")),
    "all that was allowed": (ended(LENGTH, 8), 8, "abcdefgh", Told(False, "abcdefgh")),
    "cut inside a character": (ended(LENGTH, 8), 6, "abcdef", Told(False, "abcdef", Hidden(True, all_known=True))),
    "cut inside one, and nobody knows which": (ended(LENGTH, 8), 6, "abcdef", Told(None, "abcdef")),
    "a stop string": (ended(STOP, 4, stop=("\n",)), 4, "abc", Told(False, "abc\n")),
    "a stop string inside a token": (ended(STOP, 2, stop=(", ",)), 2, "ab", Told(False, "ab, c")),
    "the first of two stop strings": (ended(STOP, 5, stop=("x", "cd")), 5, "ab", Told(False, "abcdx")),
    "cut where a stop string may begin": (
        *(ended(LENGTH, 8, stop=("\n\n", "zz")), 8, "abcdef"),
        Told(False, "abcdef \n", shorter=("abcdef", "abcd")),
    ),
    "cut there, in two tokens": (
        *(ended(LENGTH, 8, stop=("\n\n\n",)), 8, "abc"),
        Told(False, "abc\n\n", shorter=("abc\n", "abc", "ab")),
    ),
    "cut there, by an engine that shows it": (ended(LENGTH, 8, stop=("\n\n",)), 8, "ab\n", Told(False, "ab\n")),
    "a stop string that may stand for any bytes": (
        ended(LENGTH, 8, stop=("\ufffd",)),
        8,
        "a\ufffdb",
        Told(False, "a\ufffdb"),
    ),
    "the same, and it was met": (ended(STOP, 4, stop=("\ufffd",)), 4, "a", Told(False, "a\ufffd")),
    "ended inside a character": (ended(STOP, 8), 4, "abcd", Told(True, "abcd", Hidden(True, all_known=True))),
    "not all tokens known": (ended(STOP, 5), 5, "ab", Told(True)),
}


@pytest.mark.parametrize(("made", "tokens", "delivered", "told"), HONEST.values(), ids=HONEST.keys())
def test_an_honest_end_passes(made: Header, tokens: int, delivered: str, told: Told):
    found = check_ending(made, shown(tokens), delivered=delivered, told=told)
    assert found == Ending()


LIES = {
    "more than was allowed": (ended(LENGTH, 9), 9, "", None, "9 tokens are counted where 8"),
    "tokens that nobody saw": (
        ended(STOP, 28, allowed=28),
        3,
        "",
        None,
        "28 tokens are counted, but the transcript has 3",
    ),
    "tokens that one would see": (
        ended(LENGTH, 8),
        7,
        "abc",
        Told(False, "abc", Hidden(False, all_known=True)),
        "nobody",
    ),
    "another text, and a pretext": (ended(LENGTH, 8), 7, "good", Told(None, "bad"), "not the text of the tokens"),
    "tokens that nobody saw, and no end": (ended(STOP, 5), 3, "abc", Told(False, "abcde"), "neither by an end-of-text"),
    "more shown than counted": (ended(STOP, 3), 5, "", None, "transcript has 5"),
    "too many cut off": (ended(LENGTH, 28, allowed=28), 4, "", None, "transcript has 4"),
    "cut short, length given": (ended(LENGTH, 5), 5, "", None, "ended after 5 of 8"),
    "cut short, stop given": (ended(STOP, 5), 5, "abcde", Told(False, "abcde"), "neither by an end-of-text token"),
    "cut short, with a stop rule": (ended(STOP, 5, stop=("\n",)), 5, "abcde", Told(False, "abcde"), "neither by"),
    "went on after a stop string": (ended(LENGTH, 8, stop=("\n",)), 8, "a\nb", None, "goes on after the stop string"),
    "ended, length given": (ended(LENGTH, 8), 8, "abcdefg", Told(True, "abcdefg"), "had ended"),
    "another text": (ended(STOP, 5), 5, "good", Told(True, "bad"), "not the text of the tokens"),
    "text left out, and a pretext": (
        *(ended(LENGTH, 8, stop=("\n\n",)), 8, "ab", Told(False, "abc\n", shorter=("abc", "ab"))),
        "not the text of the tokens",
    ),
    "text left out where none may begin": (
        *(ended(LENGTH, 8, stop=("\n\n",)), 8, "ab", Told(False, "abc", shorter=("ab",))),
        "not the text of the tokens",
    ),
    "text left out, and it ended": (
        *(ended(STOP, 5, stop=("\n\n",)), 5, "ab", Told(True, "ab\n", shorter=("ab",))),
        "not the text of the tokens",
    ),
    "text left out": (ended(STOP, 5), 5, "ab", Told(True, "abcd"), "not the text of the tokens"),
    "the stop string delivered": (ended(STOP, 4, stop=("\n",)), 4, "abc\n", Told(False, "abc\n"), "goes on after"),
}


@pytest.mark.parametrize(("made", "tokens", "delivered", "told", "words"), LIES.values(), ids=LIES.keys())
def test_a_lie_about_the_end_is_told(made: Header, tokens: int, delivered: str, told: Told | None, words: str):
    found = check_ending(made, shown(tokens), delivered=delivered, told=told)
    assert any(words in fault for fault in found.faults)


def test_more_hidden_tokens_than_a_character_has_are_a_doubt_until_they_are_known():
    made = ended(LENGTH, 28, allowed=28)
    for told in (None, Told(None), Told(None, hidden=Hidden(True, all_known=False))):
        [doubt] = check_ending(made, shown(18), told=told).doubts
        assert "10 tokens at the end" in doubt
    assert not check_ending(made, shown(18), told=Told(False, hidden=Hidden(True, all_known=True))).doubts
    assert not check_ending(made, shown(25)).doubts


def test_without_the_tokenizer_a_stop_is_not_decided():
    assert not check_ending(ended(STOP, 5), shown(5)).decided
    assert check_ending(ended(LENGTH, 8), shown(8)).decided
    assert not check_ending(ended(STOP, 5, stop=("\n",)), shown(5), told=Told(False)).decided


HELD_BACK = [Position(1), Position(None), Position(None), Position(2), Position(None), Position(3)]


@pytest.mark.parametrize(
    ("delivered", "stop", "faulty"),
    [
        ("aéb😀", (), False),
        ("aé", (), True),
        ("plain", (), True),
        ("é", ("…",), False),
        ("", (".", "éß"), False),
        ("", (".",), True),
    ],
)
def test_withheld_tokens_need_characters_that_could_need_them(delivered: str, stop: tuple[str, ...], faulty: bool):
    found = check_ending(ended(STOP, 6, stop=stop), HELD_BACK, delivered=delivered)
    assert any("withheld in 2 places" in fault for fault in found.faults) == faulty


def test_every_withheld_token_needs_a_byte_of_a_character_that_could_need_it():
    hidden = [Position(1), *[Position(None)] * 4, Position(2), Position(3)]
    for delivered, faulty in (("a😀b", False), ("aéb", True), ("aéßb", False)):
        found = check_ending(ended(STOP, 7), hidden, delivered=delivered)
        assert any("4 tokens are withheld" in fault for fault in found.faults) == faulty, delivered
    last = [*hidden[:5], *[Position(None)] * 4]
    assert not check_ending(ended(STOP, 9, allowed=9), last, delivered="a😀b").faults  # cut off in the middle
    unnamed = msgspec.structs.replace(ended(STOP, 7), samplers=())
    assert not check_ending(unnamed, [Position(None)] * 7, delivered="abc").faults  # an engine that tells no ids


STOPS = ended(STOP, 5, stop=("\n",))


@pytest.mark.parametrize(
    ("made", "told", "words"),
    [
        (ended(LENGTH, 8, stop=("\n",)), Told(False, "a\nbcdefg", shorter=("a\nbcdef",)), "after a stop string"),
        (STOPS, Told(False, "a\nbc", shorter=("a\nb",)), "after a stop string"),
        (STOPS, Told(True, "a\nbc", shorter=("a\nb",)), "after a stop string"),
        (ended(LENGTH, 8), Told(False, "a", went_on=True), "after a token that ends the text"),
    ],
    ids=["to the limit", "to another one", "to the end", "behind the end"],
)
def test_who_is_paid_for_tokens_behind_the_end_is_found(made: Header, told: Told, words: str):
    found = check_ending(made, shown(made.completion_tokens), delivered="a", told=told)
    assert [fault for fault in found.faults if words in fault]


def test_a_stop_string_that_the_last_token_makes_up_is_the_end():
    assert check_ending(STOPS, shown(5), delivered="abc", told=Told(False, "abc\nd", shorter=("abc",))).faults == ()
    behind = [*shown(3), Position(None), Position(4)]  # inside a character no engine looks for one
    assert "after a stop" not in str(
        check_ending(STOPS, behind, delivered="a", told=Told(False, "a\né", shorter=("a\n",)))
    )


def test_more_tokens_than_characters_have_are_withheld_hardly_ever_and_many_more_by_nobody():
    for count, doubts, faults in (16, 0, 0), (17, 1, 0), (64, 1, 0), (65, 1, 1):
        claimed = [Position(1), *[Position(None)] * count, Position(2)]
        found = check_ending(ended(LENGTH, count + 2, allowed=count + 2), claimed, delivered="é" * 200)
        assert (len(found.doubts), len(found.faults)) == (doubts, faults), count


@pytest.mark.parametrize(("counted", "allowed"), [(90, 90), (60, 90), (20, 20)])
def test_pieces_of_an_engine_that_tells_no_tokens_are_not_counted(counted: int, allowed: int):
    """Some send several at once, or think in silence; some have less room than max_tokens."""
    made = msgspec.structs.replace(ended(LENGTH, counted, allowed=allowed), samplers=(), engine="openai")
    assert check_ending(made, [Position(None)] * 25, delivered="plain").faults == ()
    assert check_ending(made, shown(25), delivered="plain").faults  # with ids each is one


def test_a_stop_string_in_a_token_that_was_withheld_is_nobodys_fault():
    """A blank and the first bytes of an emoji are one token of many models: no engine looks for the blank there."""
    made = ended(LENGTH, 4, allowed=4, stop=(" ",))
    claimed, text = [Position(1), Position(None), Position(2), Position(3)], "Hi 😀!"
    assert check_ending(made, claimed, delivered=text, told=Told(False, text)).faults == ()
    for tokens, said in (shown(4), text), (claimed, "Hi, you 😀"):
        found = check_ending(made, tokens, delivered=said, told=Told(False, said))
        assert any("goes on after the stop string ' '" in fault for fault in found.faults)
