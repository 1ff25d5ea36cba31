"""Prompt lookup on plain lists: what is guessed, and whether it pays on simulated machines."""

import random
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localinfra.engine.policy import speculation
from localinfra.engine.policy.speculation import Drafter, PastIndex, RowCosts, draft_sizes

Machine = Callable[[int], float]  # rows → seconds of a step


def naive_match(tokens: list[int]) -> tuple[int, int]:
    """Distance and length of the longest earlier occurrence of the list's end."""
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


# What is guessed.


@given(st.lists(st.integers(0, 2), max_size=30))
def test_the_index_finds_the_longest_match_and_of_equals_the_most_recent(tokens: list[int]) -> None:
    assert PastIndex(tokens).find() == naive_match(tokens)


@given(st.lists(st.integers(0, 2), max_size=10), st.lists(st.lists(st.integers(0, 2), max_size=3)))
def test_a_match_that_is_followed_stays_the_longest(
    prompt: list[int], steps: list[list[int]]
) -> None:
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
def test_steps_of_several_tokens_leave_a_true_match(prompt: list[int], sizes: list[int]) -> None:
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


def test_a_match_that_reaches_the_end_goes_on_periodically() -> None:
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
    monkeypatch.setattr(speculation, "INDEXED_PER_LOOKUP", 10)
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
        assert tokens.num_reads < 300  # 32 candidates that end alike, and some that are compared


# How likely a guess is.


def test_chances_fall_and_longer_matches_are_surer() -> None:
    text = list(range(50))
    short, long = Drafter([*text, 20, 21]), Drafter([*text, *range(20)])
    assert all(later < sooner for sooner, later in pairwise(short.chances(8)))
    assert short.chances(1) < long.chances(1)


def test_rates_are_learned_from_the_tokens_that_come_drafted_or_not() -> None:
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
        tokens.append(next(new_words))  # nothing goes on as it did in the prompt
        refuted = chance_after_two_words_of_the_prompt()
    for _ in range(60):
        tokens.append(drafter.draft(1)[0])
        confirmed = chance_after_two_words_of_the_prompt()
    assert refuted < unproven / 2
    assert confirmed > unproven


def test_tokens_of_steps_without_guesses_are_no_credit() -> None:
    tokens = [*range(100, 200), *range(100, 110)]
    drafter = Drafter(tokens)
    hoped = drafter.chances(8)
    drafter.draft(8)
    drafter.judged(0)
    tokens += [7, *range(300, 330)]  # while a prompt was read, say
    tokens += range(150, 160)
    assert drafter.chances(8)[0] < hoped[0] / 2


def test_guesses_that_disappoint_are_trusted_less_for_a_while() -> None:
    tokens = [*range(100, 200), *range(100, 110)]
    drafter = Drafter(tokens)
    hoped = drafter.chances(8)
    guesses = drafter.draft(8)
    drafter.judged(0)
    tokens.append(7)
    drafter.chances(8)
    tokens += range(150, 160)  # as long a match elsewhere
    disappointed = drafter.chances(8)
    assert guesses == list(range(110, 118))
    assert disappointed[0] < hoped[0] - 0.2
    for _ in range(150):
        tokens.append(tokens[-50] + 1000)
        drafter.chances(8)
    tokens += range(120, 130)
    assert drafter.chances(8)[0] > disappointed[0] + 0.1


def test_a_step_takes_a_bounded_number_of_guesses() -> None:
    drafter = Drafter([7] * 1000)
    for _ in range(3):
        assert len(drafter.chances(10**6)) <= speculation.MAX_GUESSES


# What a step costs.


def measured(machine: Machine, counts: tuple[int, ...] = (1, 2, 4, 8, 16)) -> RowCosts:
    costs = RowCosts()
    for num_rows in counts[1:]:
        for _ in range(4):
            costs.observe(counts[0], machine(counts[0]))
            costs.observe(num_rows, machine(num_rows))
    return costs


def test_an_unknown_machine_is_taken_for_one_where_rows_cost_in_proportion() -> None:
    costs = RowCosts()
    assert costs.cost(8) == 8 * costs.cost(1)
    costs.observe(1, 0.01)
    assert costs.cost(8) == 8 * costs.cost(1)


def test_between_known_counts_the_cost_is_on_the_line_and_beyond_them_in_proportion() -> None:
    costs = measured(lambda rows: 0.5 + 0.5 * rows, (1, 4, 8))
    relative = [costs.cost(rows) / costs.cost(1) for rows in (2, 4, 6, 8, 16)]
    assert relative == pytest.approx([1.5, 2.5, 3.5, 4.5, 9.0])


def test_a_bit_beyond_known_counts_a_row_may_cost_what_the_last_ones_did() -> None:
    costs = measured(lambda rows: 0.5 + 0.5 * rows, (1, 4))
    estimated = [costs.estimate(rows) / costs.cost(1) for rows in (2, 4, 6, 8, 16)]
    assert estimated == pytest.approx([1.5, 2.5, 3.5, 4.5, 9.0])


def test_a_step_is_not_compared_with_one_before_an_interruption() -> None:
    costs = RowCosts()
    for _ in range(10):
        costs.observe(1, 1.0)
        costs.observe(4, 2.5)
        costs.interrupt()
        costs.observe(4, 70.0)  # two thousand tokens later
        costs.interrupt()
    assert costs.cost(4) / costs.cost(1) == pytest.approx(2.5)


def test_slow_steps_now_and_then_change_nothing() -> None:
    costs = RowCosts()
    for turn in range(60):
        for num_rows in (1, 4):
            disturbed = turn % 7 == 3
            costs.observe(num_rows, (1 if num_rows == 1 else 2.5) * (20 if disturbed else 1))
    assert costs.cost(4) / costs.cost(1) == pytest.approx(2.5)


def test_a_machine_that_is_slower_for_a_while_costs_the_same_in_proportion() -> None:
    costs = measured(lambda rows: 0.5 + 0.5 * rows)
    for _ in range(50):
        costs.observe(1, 3.0)  # a long context, or another program
    assert costs.cost(4) / costs.cost(1) == pytest.approx(2.5)


@given(st.lists(st.tuples(st.integers(1, 70), st.floats(0.001, 10)), max_size=60))
def test_the_curve_never_falls_and_is_never_above_proportion(
    steps: list[tuple[int, float]],
) -> None:
    costs = RowCosts()
    for num_rows, seconds in steps:
        costs.observe(num_rows, seconds)
        draft_sizes([[0.99] * 16], num_rows, 16, costs)
    curve = [costs.cost(rows) for rows in range(1, 90)]
    assert all(later >= sooner * (1 - 1e-9) for sooner, later in pairwise(curve))
    assert all(cost <= rows * curve[0] * (1 + 1e-9) for rows, cost in enumerate(curve, 1))


# How many guesses a step takes.


def test_no_guesses_no_rows() -> None:
    assert draft_sizes([], 3, 8, RowCosts()) == []
    assert draft_sizes([[], []], 2, 8, RowCosts()) == [0, 0]


def test_what_speeds_its_sequence_up_most_comes_first() -> None:
    free = measured(lambda rows: 1.0, (1, 2, 4, 8, 16, 32))
    chances = [[0.5, 0.2], [], [0.9, 0.8, 0.7]]
    assert draft_sizes(chances, 3, 16, free) == [2, 0, 3]
    assert draft_sizes(chances, 3, 4, free) == [1, 0, 3]
    assert draft_sizes(chances, 3, 2, free) == [1, 0, 1]
    assert draft_sizes(chances, 3, 0, free) == [0, 0, 0]


def test_guesses_go_as_far_as_they_pay_for_their_rows() -> None:
    costs = measured(lambda rows: 0.5 + 0.5 * rows)
    assert draft_sizes([[0.3]], 1, 16, costs) == [0]
    assert draft_sizes([[0.95, 0.9, 0.2, 0.1]], 1, 16, costs) == [2]


def test_a_sequence_that_repeats_itself_may_not_slow_many_others() -> None:
    costs = measured(lambda rows: 0.5 + 0.5 * rows)
    likely = [0.98, 0.95, 0.93]
    assert draft_sizes([likely], 1, 16, costs) == [3]
    assert draft_sizes([likely, [], [], []], 4, 16, costs) == [0, 0, 0, 0]
    assert all(draft_sizes([likely] * 4, 4, 16, costs))


def test_where_each_row_costs_as_much_as_a_step_nothing_is_guessed() -> None:
    costs = measured(lambda rows: float(rows))
    assert draft_sizes([[0.99, 0.98, 0.97]], 1, 16, costs) == [0]


# Whether it pays: whole answers on simulated machines.


def repeating(seed: int, length: int = 1200) -> tuple[list[int], list[int]]:
    """A prompt, and an answer that copies passages of it with some words of its own between."""
    source = random.Random(seed)
    prompt = [source.randrange(2000) for _ in range(500)]
    answer: list[int] = []
    while len(answer) < length:
        start = source.randrange(400)
        answer += prompt[start : start + source.randint(15, 90)]
        answer += [source.randrange(2000) for _ in range(source.randint(1, 6))]
    return prompt, answer[:length]


def unrelated(seed: int, num_words: int, length: int = 1200) -> tuple[list[int], list[int]]:
    source = random.Random(seed)
    prompt = [source.randrange(num_words) for _ in range(500)]
    return prompt, [source.randrange(num_words) for _ in range(length)]


def speedup(
    texts: list[tuple[list[int], list[int]]],
    machine: Machine,
    costs: RowCosts | None = None,
    seed: int = 0,
) -> float:
    """How many times faster than without drafts the texts, decoded together, are done.

    The times that are observed are noisy; those that count are not.
    """
    costs = costs or RowCosts()
    noise = random.Random(seed)
    sequences = [(list(prompt), prompt + answer) for prompt, answer in texts]
    drafters = [Drafter(tokens) for tokens, _ in sequences]
    with_drafts = 0.0
    while running := [i for i, (tokens, text) in enumerate(sequences) if len(tokens) < len(text)]:
        chances = [drafters[i].chances(16) for i in running]
        sizes = draft_sizes(chances, len(running), 48, costs)
        for i, size in zip(running, sizes, strict=True):
            tokens, text = sequences[i]
            draft = drafters[i].draft(size)
            assert len(draft) == size
            expected = text[len(tokens) : len(tokens) + size + 1]
            right = next(
                (n for n, (a, b) in enumerate(zip(draft, expected, strict=False)) if a != b), size
            )
            drafters[i].judged(right)
            tokens += expected[: right + 1]
        num_rows = len(running) + sum(sizes)
        with_drafts += machine(num_rows)
        slow = 5.0 if noise.random() < 0.02 else 1.0
        costs.observe(num_rows, machine(num_rows) * slow * noise.lognormvariate(0, 0.05))
    lengths = [len(answer) for _, answer in texts]
    without = sum(machine(sum(length > step for length in lengths)) for step in range(max(lengths)))
    return without / with_drafts


# SmolLM2-135M in Q8_0 on two cores with AVX2
SHARE_OF_A_ROW = (0, 1, 1.49, 2.15, 2.13, 2.65, 2.57, 3.28, 3.18)


def q8_0(rows: int) -> float:
    return 0.01 * (SHARE_OF_A_ROW[rows] if rows <= 8 else 3.18 + 0.31 * (rows - 8))


MACHINES: dict[str, Machine] = {
    "Q8_0 on two cores": q8_0,
    "rows are free": lambda rows: 0.01,
    "a batch of 4 costs 2.5 steps": lambda rows: 0.005 + 0.005 * rows,
    "a batch of 8 costs 5.4 steps": lambda rows: 0.0037 + 0.0063 * rows,
    "rows cost in proportion": lambda rows: 0.01 * rows,
    "free to 8 rows, then dear": lambda rows: 0.01 if rows <= 8 else 0.005 * rows,
}
SEEDS = range(4)


def total_speedup(texts: list[list[tuple[list[int], list[int]]]], name: str) -> float:
    """Over texts of equal length, one after the other, on a server that has just started: what
    its steps cost is found out on the way."""
    costs = RowCosts()
    factors = [speedup(text, MACHINES[name], costs, seed) for seed, text in enumerate(texts)]
    return len(factors) / sum(1 / factor for factor in factors)


@pytest.mark.parametrize(
    ("name", "factor"),
    [
        ("Q8_0 on two cores", 1.9),
        ("rows are free", 4.5),
        ("a batch of 4 costs 2.5 steps", 1.3),
        ("a batch of 8 costs 5.4 steps", 1.0),
        ("rows cost in proportion", 0.98),
        ("free to 8 rows, then dear", 3.0),
    ],
)
def test_text_that_repeats_its_prompt_is_faster_where_rows_are_cheap(
    name: str, factor: float
) -> None:
    assert total_speedup([[repeating(seed)] for seed in SEEDS], name) >= factor


def test_a_short_first_answer_is_faster_already() -> None:
    factors = [speedup([repeating(seed, 128)], q8_0, seed=seed) for seed in range(12)]
    assert len(factors) / sum(1 / factor for factor in factors) > 1.6


@pytest.mark.parametrize("num_words", [2, 8, 300, 50_000])
@pytest.mark.parametrize("name", MACHINES)
def test_random_text_is_never_slower_by_more_than_two_percent(name: str, num_words: int) -> None:
    assert total_speedup([[unrelated(seed, num_words)] for seed in SEEDS], name) >= 0.98


@pytest.mark.parametrize("name", MACHINES)
def test_sequences_that_are_decoded_together_are_not_slower(name: str) -> None:
    mixed = [[repeating(1), unrelated(2, 300), unrelated(3, 8), repeating(4)] for _ in SEEDS]
    assert total_speedup(mixed, name) >= 0.98
    alone = [[unrelated(2, 300), unrelated(3, 8), unrelated(4, 2)] for _ in SEEDS]
    assert total_speedup(alone, name) >= 0.98


@pytest.mark.parametrize("num_rows", [1, 2, 7, 100])
def test_a_server_that_began_with_many_sequences_learns_what_one_costs(num_rows: int) -> None:
    machine = MACHINES["a batch of 4 costs 2.5 steps"]
    costs = RowCosts()
    for _ in range(50):
        costs.observe(num_rows, machine(num_rows))
    speedup([repeating(1)], machine, costs)
    assert speedup([repeating(2)], machine, costs) > 1.3


def test_a_text_that_begins_to_repeat_late_is_faster_from_there_on() -> None:
    costs = measured(MACHINES["a batch of 4 costs 2.5 steps"])
    prompt, answer = repeating(1)
    late = (prompt, unrelated(2, 50_000, 600)[1] + answer)
    without_repeats = speedup(
        [(prompt, late[1][:600])], MACHINES["a batch of 4 costs 2.5 steps"], costs
    )
    assert without_repeats > 0.98
    assert speedup([late], MACHINES["a batch of 4 costs 2.5 steps"], costs) > 1.2


def test_a_machine_whose_rows_become_dear_stops_guessing() -> None:
    costs = measured(MACHINES["rows are free"])
    text = repeating(1)
    assert speedup([text], MACHINES["rows are free"], costs) > 2
    dear = MACHINES["rows cost in proportion"]
    speedup([text], dear, costs)  # learns
    assert speedup([text], dear, costs) > 0.97
