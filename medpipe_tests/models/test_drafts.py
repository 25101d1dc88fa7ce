"""What a message is likely to go on with: looked up in the order of the sources, the longest match first."""

from __future__ import annotations

from medpipe.models.drafts import Draft


def test_what_followed_the_last_tokens_is_the_draft() -> None:
    draft = Draft([[1, 2, 3, 4, 5, 6]])
    assert draft.after([9, 2, 3], 16) == [4, 5, 6]
    assert draft.after([9, 2, 3], 2) == [4, 5]
    assert draft.after([5, 6], 16) == [] and draft.after([7, 8], 16) == []  # nothing follows; stands nowhere


def test_a_single_token_is_too_weak_a_match() -> None:
    draft = Draft([[1, 2, 3]])
    assert draft.after([2], 16) == [] and draft.after([8, 2], 16) == []


def test_the_longest_match_decides_then_the_earlier_source_then_the_later_place() -> None:
    assert Draft([[1, 2, 7], [5, 1, 2, 8]]).after([5, 1, 2], 1) == [8]
    assert Draft([[1, 2, 7], [1, 2, 8]]).after([1, 2], 1) == [7]
    assert Draft([[1, 2, 7, 1, 2, 8]]).after([1, 2], 1) == [8]


def test_without_room_or_sources_there_is_no_draft() -> None:
    assert Draft([[1, 2, 3]]).after([1, 2], 0) == [] and Draft([[1, 2, 3]]).after([1, 2], -1) == []
    assert Draft([]).after([1, 2], 16) == [] and Draft([[], [1]]).after([], 16) == []
