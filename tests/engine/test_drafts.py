"""Prompt lookup on plain lists: drafts and their probabilities."""

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from localinfra.engine import drafts
from localinfra.engine.drafts import NUMBERS, Drafter, PastIndex


def naive_match(tokens: list[int]) -> tuple[int, int]:
    """The distance and length of the longest earlier match of the list's end."""
    best = (0, 1)
    for distance in range(1, len(tokens)):
        length = 0
        while (
            length + distance < len(tokens)
            and tokens[-1 - length] == tokens[-1 - length - distance]
        ):
            length += 1
        if length > best[1]:
            best = (distance, length)
    return best if best[0] else (0, 0)


def naive_draft(tokens: list[int], num_tokens: int) -> list[int]:
    distance, _ = naive_match(tokens)
    text = list(tokens)
    for _ in range(num_tokens if distance else 0):
        text.append(text[-distance])
    return text[len(tokens) :]


# The guesses.


@given(st.lists(st.integers(0, 2), max_size=30))
def test_the_index_finds_the_longest_match_and_the_most_recent_of_equals(tokens: list[int]) -> None:
    assert PastIndex(tokens).find() == naive_match(tokens)


@given(st.lists(st.integers(0, 2), max_size=10), st.lists(st.lists(st.integers(0, 2), max_size=3)))
def test_a_continued_match_stays_the_longest(prompt: list[int], steps: list[list[int]]) -> None:
    tokens = list(prompt)
    drafter = Drafter(tokens)
    for step in steps:
        for token in step:
            if len(tokens) < 32:
                tokens.append(token)
                drafter.chances(4)
        assert bool(drafter.chances(4)) == bool(naive_match(tokens)[0])
        assert drafter.draft(4) == naive_draft(tokens, 4)


@given(st.lists(st.integers(0, 2), max_size=40), st.lists(st.integers(1, 6), max_size=10))
def test_steps_of_several_tokens_keep_a_valid_match(prompt: list[int], sizes: list[int]) -> None:
    source = random.Random(len(prompt))
    tokens = list(prompt)
    drafter = Drafter(tokens)
    for size in sizes:
        tokens += [source.randrange(3) for _ in range(size)]
        assert bool(drafter.chances(1)) == bool(naive_match(tokens)[0])


@pytest.mark.parametrize("tokens", [[], [7], [7, 7], [1, 2], [1, 2, 3, 4]])
def test_too_little_text_gives_no_guess(tokens: list[int]) -> None:
    drafter = Drafter(tokens)
    assert drafter.chances(8) == []
    assert drafter.draft(0) == []


def test_a_match_that_overlaps_the_end_continues_periodically() -> None:
    for tokens, expected in (
        ([7, 7, 7], [7, 7, 7, 7, 7]),
        ([1, 2, 1, 2, 1], [2, 1, 2, 1, 2]),
        ([1, 2, 3, 1, 2, 3, 1, 2], [3, 1, 2, 3, 1]),
    ):
        drafter = Drafter(tokens)
        assert drafter.chances(5)
        assert drafter.draft(5) == expected
        assert drafter.draft(2) == expected[:2]


def test_a_long_prompt_is_indexed_over_several_lookups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drafts, "NUMBERS", structs.replace(NUMBERS, indexed_per_lookup=10))
    tokens = [*range(100), 90, 91]
    drafter = Drafter(tokens)
    lookups = 1
    while not drafter.chances(3):
        lookups += 1
    assert lookups == 10
    assert drafter.draft(3) == [92, 93, 94]


class CountingList(list[int]):
    num_reads = 0

    def __getitem__(self, index):  # type: ignore[no-untyped-def]  # either overload
        self.num_reads += 1
        return super().__getitem__(index)


@pytest.mark.parametrize("num_words", [1, 2, 30, 50_000])
def test_a_step_reads_few_tokens_of_a_long_text(num_words: int) -> None:
    source = random.Random(1)
    tokens = CountingList(source.randrange(num_words) for _ in range(20_000))
    index = PastIndex(tokens)
    for _ in range(5):
        index.find()
    for _ in range(100):
        tokens.append(source.randrange(num_words))
        tokens.num_reads = 0
        index.find()
        assert tokens.num_reads < 300  # 32 candidates, some of them compared in full


# Their probabilities.


def test_chances_fall_along_a_draft_and_rise_with_the_match() -> None:
    text = list(range(50))
    short, long = Drafter([*text, 20, 21]), Drafter([*text, *range(20)])
    assert all(later < sooner for sooner, later in pairwise(short.chances(8)))
    assert short.chances(1) < long.chances(1)


def test_rates_are_learned_from_all_new_tokens_drafted_or_not() -> None:
    source = random.Random(2)
    tokens = [*range(100)]
    drafter = Drafter(tokens)
    new_words = iter(range(1000, 10_000))

    def chance_after_two_words_of_the_prompt() -> float:
        start = source.randrange(90)
        tokens.extend([next(new_words), start, start + 1])
        return sum(drafter.chances(1))

    unproven = chance_after_two_words_of_the_prompt()
    for _ in range(60):
        tokens.append(next(new_words))  # nothing continues as in the prompt
        refuted = chance_after_two_words_of_the_prompt()
    for _ in range(60):
        tokens.append(drafter.draft(1)[0])
        confirmed = chance_after_two_words_of_the_prompt()
    assert refuted < unproven / 2
    assert confirmed > unproven


def test_tokens_of_steps_without_drafts_do_not_count_as_accepted() -> None:
    tokens = [*range(100, 200), *range(100, 110)]
    drafter = Drafter(tokens)
    hoped = drafter.chances(8)
    drafter.draft(8)
    drafter.accept(0)
    tokens += [7, *range(300, 330)]  # while a prompt was read, say
    tokens += range(150, 160)
    assert drafter.chances(8)[0] < hoped[0] / 2


def test_rejected_drafts_lower_the_chances_for_a_while() -> None:
    tokens = [*range(100, 200), *range(100, 110)]
    drafter = Drafter(tokens)
    hoped = drafter.chances(8)
    guesses = drafter.draft(8)
    drafter.accept(0)
    tokens.append(7)
    drafter.chances(8)
    tokens += range(150, 160)  # an equally long match elsewhere
    disappointed = drafter.chances(8)
    assert guesses == list(range(110, 118))
    assert disappointed[0] < hoped[0] - 0.2
    for _ in range(150):
        tokens.append(tokens[-50] + 1000)
        drafter.chances(8)
    tokens += range(120, 130)
    assert drafter.chances(8)[0] > disappointed[0] + 0.1


def test_the_draft_of_a_step_is_bounded() -> None:
    drafter = Drafter([7] * 1000)
    for _ in range(3):
        assert len(drafter.chances(10**6)) <= NUMBERS.max_draft
