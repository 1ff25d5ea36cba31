"""Clients and requests take turns, however much they ask for."""

from collections import Counter
from typing import Any

import pytest
from fakes import FakeBackend
from hypothesis import given, settings
from hypothesis import strategies as st

from localinfra.engine.request import EngineSettings, GenerationRequest
from localinfra.engine.scheduler import Scheduler
from localinfra.engine.sequence import Group, Sequence
from localinfra.engine.turns import PATIENCE, prompts_in_turn


class Steps:
    """A scheduler over a fake backend: each step decodes and appends a token, without sampling."""

    def __init__(self, num_sequences: int = 4, **options: Any):
        self.backend = FakeBackend(
            num_cells=4000, num_sequences=num_sequences, num_slots=num_sequences + 40,
            context_length=1000, batch_size=64, **options,
        )  # fmt: skip
        self.scheduler = Scheduler(self.backend, EngineSettings(prompt_lookup=False))
        self.num_steps = 0
        self.row_s = 0.0  # seconds per row of a step; 0: all steps take equally long
        self.first_token: dict[Sequence, int] = {}  # the step that produced it

    def submit(
        self, num_prompts: int, size: int, max_tokens: int, client: str = ""
    ) -> list[Sequence]:
        """Adds one request; no two prompts share a prefix."""
        group, start = Group(client), 100 * self.num_steps + len(self.first_token)
        sequences = []
        for number in range(num_prompts):
            prompt = [(start + number * 7 + i * (3 + number)) % 48 for i in range(size)]
            request = GenerationRequest(
                prompt, max_tokens, client=client, cache_salt=f"{id(group)}{number}"
            )
            sequences.append(Sequence(request, number, group=group))
            self.scheduler.add(sequences[-1])
        return sequences

    def step(self) -> None:
        self.num_steps += 1
        step = self.scheduler.schedule()
        self.backend.decode(step.batch)
        self.scheduler.advance(step)
        self.scheduler.observe(step, self.row_s * len(step.batch) or 0.01)
        for chunk in step.chunks:
            sequence = chunk.sequence
            if sequence.num_pending:
                continue
            self.first_token.setdefault(sequence, self.num_steps)
            sequence.append(1)
            if sequence.num_generated == sequence.request.max_tokens:
                sequence.finished = True
                self.scheduler.remove(sequence)

    def wait_for(self, sequence: Sequence, limit: int = 2000) -> int:
        """Runs steps until the sequence has its first token; returns their number."""
        start = self.num_steps
        while sequence not in self.first_token:
            self.step()
            assert self.num_steps - start < limit
        return self.first_token[sequence] - start


@pytest.mark.parametrize("num_prompts", [5, 10, 32])
def test_a_request_of_many_prompts_is_preempted_for_a_short_one(num_prompts: int) -> None:
    steps = Steps()
    many = steps.submit(num_prompts, 20, 500)
    for _ in range(50):
        steps.step()
    assert len(steps.scheduler.running) == 4
    [short] = steps.submit(1, 10, 5)
    assert steps.wait_for(short) <= 3
    while not short.finished:
        steps.step()
    for _ in range(2100 * num_prompts // 4 + 100):
        if all(sequence.finished for sequence in many):
            break
        steps.step()
    assert all(sequence.finished for sequence in many)  # also the preempted ones


def test_clients_share_the_slots_equally() -> None:
    steps = Steps(num_sequences=6)
    for _ in range(20):
        steps.submit(1, 10, 300, client="a")
    for _ in range(30):
        steps.step()
    for _ in range(10):
        steps.submit(1, 10, 300, client="b")
    for _ in range(3):
        steps.step()
    running = Counter(sequence.group.client for sequence in steps.scheduler.running)
    assert running == {"a": 3, "b": 3}


def test_requests_of_one_choice_come_in_order_of_arrival() -> None:
    steps = Steps(num_sequences=1)
    sequences = [steps.submit(1, 10, 3)[0] for _ in range(6)]
    while not all(sequence.finished for sequence in sequences):
        steps.step()
    assert list(steps.first_token) == sequences


def test_with_one_slot_a_client_of_many_requests_alternates_with_another() -> None:
    steps = Steps(num_sequences=1)
    ours = [steps.submit(1, 10, 3, client="a")[0] for _ in range(6)]
    steps.step()
    theirs = [steps.submit(1, 10, 3, client="b")[0] for _ in range(2)]
    while not all(sequence.finished for sequence in ours + theirs):
        steps.step()
    order = [sequence.group.client for sequence in steps.first_token]
    assert order == ["a", "b", "a", "b", "a", "a", "a", "a"]


@pytest.mark.parametrize("num_sequences", [1, 2, 4])
def test_a_lone_request_does_not_wait_for_a_hundred_of_another_client(num_sequences: int) -> None:
    """At most for the one that runs, and its prompt for those that are prefilled beside it."""
    steps, size = Steps(num_sequences), 20
    for _ in range(100):
        steps.submit(1, 10, size, client="a")
    for _ in range(5):
        steps.step()
    [lone] = steps.submit(1, 10, size, client="b")
    assert steps.wait_for(lone) <= size + 3
    while not lone.finished:
        steps.step()
    assert steps.num_steps <= 5 + 2 * size + 4


def test_a_short_prompt_is_prefilled_before_a_long_one() -> None:
    steps = Steps()
    [long] = steps.submit(1, 900, 5)
    steps.step()
    [short] = steps.submit(1, 30, 5)
    assert steps.wait_for(short) <= 3
    assert long not in steps.first_token


def test_a_long_prompt_is_prefilled_even_if_short_ones_keep_coming() -> None:
    steps = Steps(num_sequences=8)
    [long] = steps.submit(1, 600, 5)
    for _ in range(40 * PATIENCE):
        for _ in range(2):
            steps.submit(1, 60, 1)
        steps.step()
        if long in steps.first_token:
            return
    pytest.fail("it starved")


def test_prompts_of_a_single_client_are_prefilled_shortest_first() -> None:
    group = Group()

    def prompt(size: int, group: Group) -> Sequence:
        return Sequence(GenerationRequest([1] * size, 1), 0, group=group)

    a, b, c, d = prompt(30, group), prompt(5, group), prompt(20, Group()), prompt(10, Group())
    assert prompts_in_turn([a, b, c, d], 0) == [d, c, a, b]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(1, 12), st.integers(1, 80), st.integers(1, 30), st.sampled_from("abc")
        ),
        min_size=1,
        max_size=8,
    ),
    st.integers(1, 5),
    st.booleans(),
)
def test_every_request_is_served_eventually(
    load: list[tuple[int, int, int, str]], num_sequences: int, has_states: bool
) -> None:
    memory = {"needs_states": True, "max_rollback": 0} if has_states else {}
    steps = Steps(num_sequences, **memory)
    waiting = []
    for spec in load:
        waiting += steps.submit(*spec)
        steps.step()
    for _ in range(20_000):
        if all(sequence.finished for sequence in waiting):
            break
        steps.step()
    assert all(sequence.finished for sequence in waiting)
    assert steps.scheduler.is_idle


def test_a_clients_stream_does_not_wait_for_all_prompts_of_another() -> None:
    """Prompts that arrive together wait for each other, but the stream does not wait for them."""
    steps = Steps(num_sequences=9)
    steps.row_s = 0.001
    steps.submit(8, 900, 10, client="a")
    steps.step()
    [short] = steps.submit(1, 5, 30, client="b")
    steps.wait_for(short)
    rows = []
    while short in steps.scheduler.running:
        before = len(steps.backend.batch_sizes)
        steps.step()
        rows += steps.backend.batch_sizes[before:]
    assert sum(rows) / len(rows) < steps.backend.batch_size / 2


@pytest.mark.parametrize("num_prompts", [1, 3, 24])
def test_a_stream_waits_no_longer_for_a_request_of_many_prompts(num_prompts: int) -> None:
    """Its steps take as long as their rows."""
    steps = Steps(num_sequences=25)
    steps.row_s = 0.001
    steps.submit(1, 5, 900, client="a")
    for _ in range(60):
        steps.step()
    many = steps.submit(num_prompts, 60, 1, client="b")
    before = len(steps.backend.batch_sizes)
    while not all(sequence in steps.first_token for sequence in many):
        steps.step()
    assert 2 <= max(steps.backend.batch_sizes[before:]) <= 4


def test_streams_wait_longer_for_more_requests_than_there_are_streams() -> None:
    steps = Steps(num_sequences=13)
    steps.row_s = 0.001
    steps.submit(1, 5, 900, client="a")
    for _ in range(60):
        steps.step()
    many = [steps.submit(1, 200, 1, client="b")[0] for _ in range(12)]
    before = len(steps.backend.batch_sizes)
    while not all(sequence in steps.first_token for sequence in many):
        steps.step()
    assert max(steps.backend.batch_sizes[before:]) > 20


def rows_beside(steps: Steps, stream: Sequence) -> int:
    """Of the largest step from the stream's first token on."""
    steps.wait_for(stream)
    before = len(steps.backend.batch_sizes)
    while stream in steps.scheduler.running:
        steps.step()
    return max(steps.backend.batch_sizes[before:])


def test_a_stream_that_comes_while_a_prompt_is_read_flows_too() -> None:
    steps = Steps()
    steps.row_s = 0.001
    steps.submit(10, 200, 1)
    for _ in range(10):
        steps.step()
    [stream] = steps.submit(1, 5, 40)
    assert rows_beside(steps, stream) <= 4


@pytest.mark.parametrize(("num_requests", "is_shared"), [(1, False), (3, True)])
def test_requests_that_come_together_share_the_wait(num_requests: int, is_shared: bool) -> None:
    """But one long prompt makes no other request wait."""
    steps = Steps()
    steps.row_s = 0.001
    [stream] = steps.submit(1, 5, 8)
    for _ in range(num_requests):
        steps.submit(1, 200, 1)
    assert (rows_beside(steps, stream) > 30) is is_shared
