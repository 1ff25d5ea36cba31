"""How much of a draft is verified, and whether it pays on simulated machines."""

import random
from collections.abc import Callable

import pytest
from msgspec import structs

from localinfra.engine.drafts import Drafter
from localinfra.engine.policy import speculation
from localinfra.engine.policy.numbers import NUMBERS
from localinfra.engine.policy.speculation import Speculator
from localinfra.engine.policy.step_times import StepTimes

Machine = Callable[[int], float]  # rows → seconds of a step
Sizes = Callable[[list[list[float]], int, Machine], list[int]]


class Server:
    """What has been learned of a machine."""

    def __init__(self) -> None:
        self._times = StepTimes()
        self._speculator = Speculator()

    def sizes(self, chances: list[list[float]]) -> list[int]:
        def cost(num_rows: int) -> float:
            return self._times.expected(num_rows, 0, 1) or num_rows

        return self._speculator.sizes(chances, 48, cost)

    def observe(self, num_rows: int, seconds: float) -> None:
        self._times.observe(num_rows, 0, 1, seconds)


def measured(machine: Machine) -> Server:
    server = Server()
    for num_rows in (2, 4, 8, 16):
        for _ in range(4):
            server.observe(1, machine(1))
            server.observe(num_rows, machine(num_rows))
    return server


def in_proportion(num_rows: int) -> float:
    return float(num_rows)


@pytest.fixture
def sizes_of(monkeypatch: pytest.MonkeyPatch) -> Sizes:
    """Without trials."""
    monkeypatch.setattr(speculation, "NUMBERS", structs.replace(NUMBERS, allowance=0.0))
    return Speculator().sizes


# How many guesses a step takes.


def test_no_guesses_no_rows(sizes_of: Sizes) -> None:
    assert sizes_of([], 8, in_proportion) == []
    assert sizes_of([[], []], 8, in_proportion) == [0, 0]


def test_what_speeds_its_sequence_up_most_comes_first(sizes_of: Sizes) -> None:
    chances = [[0.5, 0.2], [], [0.9, 0.8, 0.7]]
    assert sizes_of(chances, 16, lambda rows: 1.0) == [2, 0, 3]
    assert sizes_of(chances, 4, lambda rows: 1.0) == [1, 0, 3]
    assert sizes_of(chances, 2, lambda rows: 1.0) == [1, 0, 1]
    assert sizes_of(chances, 0, lambda rows: 1.0) == [0, 0, 0]


def test_guesses_go_as_far_as_they_pay_for_their_rows(sizes_of: Sizes) -> None:
    def costs(rows: int) -> float:
        return 0.5 + 0.5 * rows

    assert sizes_of([[0.3]], 16, costs) == [0]
    assert sizes_of([[0.95, 0.9, 0.2, 0.1]], 16, costs) == [2]


def test_a_sequence_that_repeats_itself_may_not_slow_many_others(sizes_of: Sizes) -> None:
    def costs(rows: int) -> float:
        return 0.5 + 0.5 * rows

    likely = [0.98, 0.95, 0.93]
    assert sizes_of([likely], 16, costs) == [3]
    assert sizes_of([likely, [], [], []], 16, costs) == [0, 0, 0, 0]
    assert all(sizes_of([likely] * 4, 16, costs))


def test_where_each_row_costs_as_much_as_a_step_nothing_is_guessed(sizes_of: Sizes) -> None:
    assert sizes_of([[0.99, 0.98, 0.97]], 16, in_proportion) == [0]


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
    server: Server | None = None,
    seed: int = 0,
) -> float:
    """How many times faster than without drafts the texts, decoded together, are done.

    The times that are observed are noisy; those that count are not.
    """
    server = server or Server()
    noise = random.Random(seed)
    sequences = [(list(prompt), prompt + answer) for prompt, answer in texts]
    drafters = [Drafter(tokens) for tokens, _ in sequences]
    with_drafts = 0.0
    while running := [i for i, (tokens, text) in enumerate(sequences) if len(tokens) < len(text)]:
        chances = [drafters[i].chances(16) for i in running]
        sizes = server.sizes(chances)
        for i, size in zip(running, sizes, strict=True):
            tokens, text = sequences[i]
            draft = drafters[i].draft(size)
            assert len(draft) == size
            expected = text[len(tokens) : len(tokens) + size + 1]
            right = next(
                (n for n, (a, b) in enumerate(zip(draft, expected, strict=False)) if a != b), size
            )
            drafters[i].accept(right)
            tokens += expected[: right + 1]
        num_rows = len(running) + sum(sizes)
        with_drafts += machine(num_rows)
        slow = 5.0 if noise.random() < 0.02 else 1.0
        server.observe(num_rows, machine(num_rows) * slow * noise.lognormvariate(0, 0.05))
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
    server = Server()
    factors = [speedup(text, MACHINES[name], server, seed) for seed, text in enumerate(texts)]
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


def test_where_two_rows_cost_twice_but_more_hardly_more_larger_steps_are_tried() -> None:
    """As with Q8_0 on one thread."""
    server = Server()
    speedup([repeating(0)], lambda rows: 0.016 * min(rows, 1.75 + rows / 8), server)
    assert speedup([repeating(1)], lambda rows: 0.016 * min(rows, 1.75 + rows / 8), server) > 1.8


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
    server = Server()
    for _ in range(50):
        server.observe(num_rows, machine(num_rows))
    speedup([repeating(1)], machine, server)
    assert speedup([repeating(2)], machine, server) > 1.3


def test_a_text_that_begins_to_repeat_late_is_faster_from_there_on() -> None:
    server = measured(MACHINES["a batch of 4 costs 2.5 steps"])
    prompt, answer = repeating(1)
    late = (prompt, unrelated(2, 50_000, 600)[1] + answer)
    without_repeats = speedup(
        [(prompt, late[1][:600])], MACHINES["a batch of 4 costs 2.5 steps"], server
    )
    assert without_repeats > 0.98
    assert speedup([late], MACHINES["a batch of 4 costs 2.5 steps"], server) > 1.2


def test_a_machine_whose_rows_become_dear_stops_guessing() -> None:
    server = measured(MACHINES["rows are free"])
    text = repeating(1)
    assert speedup([text], MACHINES["rows are free"], server) > 2
    dear = MACHINES["rows cost in proportion"]
    speedup([text], dear, server)  # learns
    assert speedup([text], dear, server) > 0.97


def test_rows_that_become_cheap_again_are_found_out() -> None:
    """As where other programs ran for a while."""
    server = measured(MACHINES["rows cost in proportion"])
    for seed in range(6):
        speedup([repeating(seed)], MACHINES["rows cost in proportion"], server)
    free = MACHINES["rows are free"]
    speedup([repeating(6)], free, server)
    assert speedup([repeating(7)], free, server) > 1.5
