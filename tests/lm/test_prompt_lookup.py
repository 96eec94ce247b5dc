"""A guess is what followed the latest place of the last few tokens."""

from __future__ import annotations

from harness.lm.prompt_lookup import PromptLookup


def test_what_followed_the_latest_place_is_guessed() -> None:
    assert PromptLookup([1, 2, 3, 4, 1, 2, 5, 6, 1, 2]).guess(3) == [5, 6, 1]


def test_more_tokens_alike_count_more_than_a_later_place() -> None:
    """After 1, 2, 3 came 4; after 2, 3 alone came 5, later."""
    assert PromptLookup([1, 2, 3, 4, 9, 2, 3, 5, 1, 2, 3]).guess(1) == [4]


def test_text_that_repeats_itself_is_guessed_to_go_on() -> None:
    """A guess may be longer than the loop it has seen."""
    assert PromptLookup([7, 1, 2, 3, 1, 2, 3]).guess(7) == [1, 2, 3, 1, 2, 3, 1]


def test_a_guess_has_its_length_where_nothing_was_said_before() -> None:
    assert PromptLookup([1, 2, 3]).guess(2) == [3, 3]
    assert PromptLookup([4]).guess(0) == []


def test_what_is_said_counts_as_what_was_asked() -> None:
    lookup = PromptLookup([1, 2])
    for token in (8, 1, 2):
        lookup.append(token)
    assert lookup.tokens == [1, 2, 8, 1, 2]
    assert lookup.guess(2) == [8, 1]
