"""A kept conditioning is dropped when, and only when, its key can not tell that the text encoder changed."""

from __future__ import annotations

from typing import Any

import pytest

from lycopatch.hosts.a1111.conditioning import ConditioningGuard

INK = {"lora": ["ink"]}
PAPER = {"lora": ["paper"]}


def cache(tags: dict[str, list[str]] | None, value: Any = None, length: int = 2) -> list[Any]:
    """A cache of the WebUI's: of nothing, or of a conditioning for a prompt with these tags."""
    if tags is None:
        return [None] * length
    key = (["a cat"], 20, None, False, 1, tags, 0, 0, 512, 512)
    return [key, object() if value is None else value, *[7] * (length - 2)]


def test_the_same_tags_with_another_text_encoder_are_dropped() -> None:
    guard, kept = ConditioningGuard(), cache(INK)
    guard.observe([kept], "old")
    assert guard.drop_stale([kept], INK, "new") == 1
    assert kept == [None, None]


def test_a_list_of_three_is_emptied_and_stays_the_same_list() -> None:
    guard, kept = ConditioningGuard(), cache(INK, length=3)
    same = kept
    guard.observe([kept], "old")
    guard.drop_stale([kept], INK, "new")
    assert same is kept
    assert kept == [None, None, None]


@pytest.mark.parametrize("state", ["old", "new"])
def test_other_tags_are_left_to_the_webui(state: str) -> None:
    guard, kept = ConditioningGuard(), cache(INK)
    before = list(kept)
    guard.observe([kept], "old")
    assert guard.drop_stale([kept], PAPER, state) == 0
    assert kept == before


def test_the_same_text_encoder_keeps_everything() -> None:
    guard, kept = ConditioningGuard(), cache(INK)
    guard.observe([kept], "old")
    assert guard.drop_stale([kept], INK, "old") == 0
    assert kept[1] is not None


def test_the_tags_of_other_extensions_do_not_matter() -> None:
    guard, kept = ConditioningGuard(), cache({**INK, "hypernet": ["x"]})
    guard.observe([kept], "old")
    assert guard.drop_stale([kept], INK, "new") == 1


def test_a_conditioning_is_remembered_as_it_was_made_not_as_it_is_seen_later() -> None:
    guard, kept = ConditioningGuard(), cache(INK)
    guard.observe([kept], "old")
    guard.observe([kept], "between")
    assert guard.drop_stale([kept], INK, "old") == 0
    assert guard.drop_stale([kept], INK, "between") == 1


def test_a_conditioning_that_was_made_anew_counts_as_new() -> None:
    guard, kept = ConditioningGuard(), cache(INK)
    guard.observe([kept], "old")
    kept[1] = object()
    guard.observe([kept], "new")
    assert guard.drop_stale([kept], INK, "new") == 0


def test_two_caches_of_one_conditioning_go_together() -> None:
    guard, first = ConditioningGuard(), cache(INK)
    second = list(first)
    guard.observe([first, second], "old")
    assert guard.drop_stale([first, second], INK, "new") == 2


def test_everything_made_with_networks_is_dropped_when_tags_do_not_count() -> None:
    guard, some, other, empty = ConditioningGuard(), cache(INK), cache(PAPER), cache(None)
    guard.observe([some, other, empty], "old")
    assert guard.drop_stale([some, other, empty], None, "new") == 2
    assert some == other == empty == [None, None]


def test_a_negative_prompt_without_tags_is_made_by_the_same_text_encoder() -> None:
    """Both prompts of a picture have the tags of the positive one in their keys."""
    guard, positive, negative = ConditioningGuard(), cache(INK), cache(INK)
    guard.observe([positive, negative], "old")
    assert guard.drop_stale([positive, negative], INK, "new") == 2


def test_only_what_is_still_kept_is_remembered() -> None:
    guard, kept = ConditioningGuard(), cache(INK)
    for _ in range(100):
        kept[1] = object()
        guard.observe([kept], "state")
    assert len(guard._made) == 1
