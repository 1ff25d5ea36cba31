"""A second model that drafts, on simulated machines: the same texts in fewer steps."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from fakes import NUM_VOCAB, FakeBackend, FakeDrafter, hashed
from numpy.typing import NDArray

from localinfra.engine import postprocess
from localinfra.engine.backend import Batch
from localinfra.engine.draft_model import DraftModel
from localinfra.engine.draws import weights_of
from localinfra.engine.grammar.constraint import Constraint, Grammar
from localinfra.engine.request import (
    EngineSettings,
    GenerationParams,
    GenerationRequest,
    SamplingParams,
    TokenEvent,
)
from localinfra.engine.sampling import Sampler
from localinfra.engine.scheduler import Scheduler
from localinfra.engine.sequence import Sequence

PROMPT = [1, 2, 3, 4, 5, 6, 7, 8]
GREEDY = SamplingParams(temperature=0)


@dataclass
class Machine:
    """Runs sequences; knows the time."""

    drafter: FakeDrafter | None
    step_s: Callable[[int], float] = lambda rows: 0.1  # of the model, by rows
    draft_s: Callable[[int], float] = lambda rows: 0.01
    backend: FakeBackend = field(
        default_factory=lambda: FakeBackend(num_cells=4000, context_length=1000, max_output_rows=64)
    )
    looks_up: bool = False
    now_s: float = 0.0
    num_steps: int = 0

    def __post_init__(self) -> None:
        # The number of threads follows other work on the machine.
        settings = EngineSettings(prompt_lookup=self.looks_up, adapts_threads=False)
        self.scheduler = Scheduler(self.backend, settings, drafter=self.drafter)
        if self.drafter:
            plain = self.drafter.decode

            def decode(batch: Batch) -> None:
                self.now_s += self.draft_s(len(batch))
                plain(batch)

            self.drafter.decode = decode  # type: ignore[method-assign]

    def texts(self, *requests: GenerationRequest) -> list[list[int]]:
        """What the requests give that run together."""
        sequences = [Sequence(request, 0) for request in requests]
        for sequence in sequences:
            self.scheduler.add(sequence)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("localinfra.engine.draft_model.time.perf_counter", lambda: self.now_s)
            while not self.scheduler.is_idle:
                self.step()
        return [sequence.tokens[sequence.num_prompt :] for sequence in sequences]

    def step(self) -> None:
        step = self.scheduler.schedule()
        self.backend.decode(step.batch)
        seconds = self.step_s(len(step.batch))
        self.now_s += seconds
        self.num_steps += 1
        self.scheduler.advance(step)
        self.scheduler.observe(step, seconds)
        for chunk in step.chunks:
            events: list[TokenEvent] = []
            postprocess.sample(self.backend, chunk, events)
            self.scheduler.accept(chunk)
            if events and events[-1].finish_reason:
                self.scheduler.remove(chunk.sequence)


def drafter(noise: float = 0.0, **options: Any) -> FakeDrafter:
    return FakeDrafter(noise, **{"num_cells": 4000, "context_length": 1000} | options)


def request(
    num_tokens: int = 60,
    sampling: SamplingParams = GREEDY,
    prompt: list[int] = PROMPT,
    grammar: "Grammar | None" = None,
) -> GenerationRequest:
    return GenerationRequest(prompt, num_tokens, GenerationParams(sampling), grammar=grammar)


def prompts(count: int, size: int = 30) -> list[list[int]]:
    return [[(7 * number + 3 * at) % 48 for at in range(size)] for number in range(count)]


@pytest.mark.parametrize("sampling", [GREEDY, SamplingParams(seed=3), SamplingParams(top_p=0.8)])
@pytest.mark.parametrize("noise", [0.0, 0.5, 50.0])
@pytest.mark.parametrize("looks_up", [False, True])
def test_a_draft_model_changes_no_token(
    noise: float, sampling: SamplingParams, looks_up: bool
) -> None:
    requests = [request(60, sampling, prompt) for prompt in prompts(5)]
    alone = [Machine(None).texts(each)[0] for each in requests]
    assert Machine(drafter(noise), looks_up=looks_up).texts(*requests) == alone


def test_a_model_that_is_always_right_saves_most_steps() -> None:
    machine = Machine(drafter())
    [text] = machine.texts(request(200))
    assert machine.num_steps < len(text) / 5
    drafting = machine.scheduler.drafting
    assert drafting.num_accepted == drafting.num_drafted > 0.8 * len(text)


def test_a_slow_first_step_of_the_draft_model_does_not_count() -> None:
    """It may have read the weights from disk."""
    first = iter([5.0])
    machine = Machine(drafter(), draft_s=lambda rows: next(first, 0.01))
    [text] = machine.texts(request(200, prompt=[1, 2]))
    assert len(text) > 100 and machine.num_steps < len(text) / 4


def test_both_caches_hold_what_was_accepted_and_no_more() -> None:
    machine = Machine(model := drafter(0.5))
    sequence = Sequence(request(100), 0)
    machine.scheduler.add(sequence)
    while sequence.num_generated < 90:
        machine.step()
        held = model.history(0)
        assert held == sequence.tokens[: len(held)]
        assert machine.backend.history(0) == sequence.tokens[: sequence.num_cached]
    assert machine.scheduler.drafting.num_accepted < machine.scheduler.drafting.num_drafted
    assert len(held) > 90


def test_a_prompt_is_read_once_by_the_draft_model_however_many_answers_it_gets() -> None:
    machine = Machine(model := drafter())
    machine.texts(request(200))  # shows what drafts are worth
    prompt = [*range(48)] * 4
    machine.texts(request(60, prompt=prompt))
    assert sum(model.batch_sizes) > 200 + len(prompt)
    model.batch_sizes.clear()
    machine.texts(request(60, prompt=prompt))
    assert 10 < sum(model.batch_sizes) < 100


def test_a_prompt_that_costs_more_than_the_answer_can_save_is_not_read() -> None:
    machine = Machine(model := drafter(), draft_s=lambda rows: 0.03 * rows)
    for prompt in prompts(4):
        machine.texts(request(60, prompt=prompt))  # learns what reading takes
    model.batch_sizes.clear()
    machine.texts(request(8, prompt=[*range(48)] * 8))
    assert sum(model.batch_sizes) < 48


class Follower(Constraint):
    """Allows two tokens at most places, and forces one at every seventh and the next."""

    def __init__(self) -> None:
        self.num_tokens = 0

    def fork(self) -> "Follower":
        fork = Follower()
        fork.num_tokens = self.num_tokens
        return fork

    @property
    def allowed(self) -> tuple[int, ...]:
        return allowed_at(self.num_tokens)

    @property
    def is_complete(self) -> bool:
        return False

    def allows(self, token: int) -> bool:
        return token in self.allowed

    def forbid(self, row: NDArray[np.float32]) -> None:
        row[[token not in self.allowed for token in range(NUM_VOCAB)]] = -np.inf

    def accept(self, token: int) -> None:
        assert self.allows(token)
        self.num_tokens += 1

    def forced(self) -> list[int]:
        found: list[int] = []
        while len(allowed := allowed_at(self.num_tokens + len(found))) == 1:
            found.append(allowed[0])
        return found


def allowed_at(place: int) -> tuple[int, ...]:
    token = place % 40
    return (token,) if place % 7 in (3, 4) else (token, token + 5)


class TwoTokens(Grammar):
    def __init__(self) -> None:
        pass

    def follow(self) -> Follower:
        return Follower()


@pytest.mark.parametrize("sampling", [GREEDY, SamplingParams(seed=3)])
def test_what_the_grammar_forbids_is_not_drafted(
    sampling: SamplingParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    drafts: list[tuple[int, list[int]]] = []
    plain = DraftModel.draft

    def spy(*args: Any) -> dict[Sequence, list[int]]:
        found = plain(*args)
        drafts.extend((each.num_generated, draft) for each, draft in found.items())
        return found

    monkeypatch.setattr(DraftModel, "draft", spy)
    held = request(80, sampling, grammar=TwoTokens())
    machine = Machine(drafter(1.0))
    [text] = machine.texts(held)
    assert [text] == Machine(None).texts(held)
    assert [text] == Machine(None, lambda rows: 0.1, looks_up=True).texts(held)
    assert len(drafts) > 5
    for start, draft in drafts:
        for place, token in enumerate(draft, start):
            assert token in allowed_at(place)
    assert machine.scheduler.drafting.num_accepted > 10


def test_a_draft_model_that_fails_is_given_up_and_answers_go_on() -> None:
    expected = Machine(None).texts(request(60))
    machine = Machine(model := drafter())
    machine.texts(request(20))
    model.broken = True
    assert machine.texts(request(60)) == expected
    model.batch_sizes.clear()
    assert machine.texts(request(60)) == expected and not model.batch_sizes


def test_a_draft_model_without_finite_logits_is_given_up() -> None:
    expected = Machine(None).texts(request(60))
    machine = Machine(drafter(fails_after=20))
    assert machine.texts(request(60)) == expected


@pytest.mark.parametrize("size", [NUM_VOCAB - 3, NUM_VOCAB + 3])
def test_a_vocabulary_that_is_padded_otherwise_still_drafts(size: int) -> None:
    class Padded(FakeDrafter):
        def logits(self, row: int) -> NDArray[np.float32]:
            return np.resize(super().logits(row), size)

    machine = Machine(Padded(num_cells=4000, context_length=1000))
    biased = SamplingParams(temperature=0, logit_bias={NUM_VOCAB - 1: -100})
    assert machine.texts(request(60, biased)) == Machine(None).texts(request(60, biased))
    assert machine.scheduler.drafting.num_accepted > 20


def test_texts_that_outgrow_the_draft_models_context_go_on_without_it() -> None:
    machine = Machine(model := drafter(context_length=40))
    assert machine.texts(request(100)) == Machine(None).texts(request(100))
    assert len(model.batch_sizes) > 3 and machine.scheduler.drafting.num_accepted < 40


# How many tokens pay.

MACHINES: dict[str, Callable[[int], float]] = {
    "rows are free": lambda rows: 0.1,
    "a batch of 4 costs 1.75 steps": lambda rows: 0.075 + 0.025 * rows,
    "a batch of 4 costs 2.5 steps": lambda rows: 0.05 + 0.05 * rows,
    "rows cost in proportion": lambda rows: 0.1 * rows,
}


def speedup(name: str, share: float, noise: float, sampling: SamplingParams = GREEDY) -> float:
    """Of 12 answers one after the other, by a draft model whose step takes a `share`."""
    step_s = MACHINES[name]
    requests = [request(100, sampling, prompt) for prompt in prompts(12)]
    plain = Machine(None, step_s)
    drafted = Machine(drafter(noise), step_s, lambda rows: 0.1 * share * (0.8 + 0.2 * rows))
    for each in requests:
        assert plain.texts(each) == drafted.texts(each)
    return plain.now_s / drafted.now_s


@pytest.mark.parametrize(
    ("name", "share", "factor"),
    [
        ("rows are free", 0.05, 5.0),
        ("rows are free", 0.2, 2.5),
        ("a batch of 4 costs 1.75 steps", 0.05, 2.2),
        ("a batch of 4 costs 2.5 steps", 0.05, 1.35),
        ("a batch of 4 costs 2.5 steps", 0.2, 1.1),
    ],
)
@pytest.mark.parametrize("sampling", [GREEDY, SamplingParams(seed=1)])
def test_a_good_draft_model_is_worth_its_time(
    name: str, share: float, factor: float, sampling: SamplingParams
) -> None:
    assert speedup(name, share, 0.0, sampling) > factor


@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize("share", [0.05, 0.2, 0.6])
@pytest.mark.parametrize("noise", [1.0, 100.0])
def test_a_draft_model_that_is_seldom_or_never_right_costs_two_percent_at_most(
    name: str, share: float, noise: float
) -> None:
    assert speedup(name, share, noise) > 0.98


def test_a_model_that_seemed_slow_at_first_is_tried_again_with_prompts_that_cost_time() -> None:
    """As where other programs ran meanwhile."""
    machine = Machine(drafter(), draft_s=lambda rows: 0.1 + 0.01 * rows)
    machine.texts(*[request(100, prompt=prompt) for prompt in prompts(2)])
    machine.draft_s = lambda rows: 0.008 + 0.002 * rows
    while machine.scheduler.drafting.num_accepted < 200:
        machine.texts(request(100, prompt=[*range(48)]))
        assert machine.num_steps < 8000
    machine.num_steps = 0
    machine.texts(request(100, prompt=[*range(48)] * 2))
    assert machine.num_steps < 50


def test_a_draft_model_as_slow_as_the_model_itself_is_left_alone() -> None:
    assert speedup("a batch of 4 costs 2.5 steps", 1.0, 0.0) > 0.98


# One random stream for both models.


def test_two_models_draw_the_same_token_about_as_often_as_they_agree() -> None:
    """At least (1 - d) / (1 + d) of the time, for distributions whose total variation is d; a
    draft of independent random numbers would be right a few percent of the time."""
    num_draws, same = 4000, 0
    row, other = 2 * hashed([1]), 2 * hashed([1]) + 0.7 * hashed([2])
    first, second = (weights_of(each, each.max()) for each in (row, other))
    distance = float(abs(first / first.sum() - second / second.sum()).sum()) / 2
    sampler = Sampler(SamplingParams(seed=5), 0, [1])
    counts = np.zeros(NUM_VOCAB)
    for _ in range(num_draws // 2):
        guesses = [sampler.guess(other.copy(), ahead)[0] for ahead in range(2)]
        tokens = [sampler.sample(row.copy()) for _ in guesses]
        same += sum(a == b for a, b in zip(guesses, tokens, strict=True))
        counts[tokens[0]] += 1
        counts[tokens[1]] += 1
    least = (1 - distance) / (1 + distance)
    assert same / num_draws > least - 0.03
    # Guessing has not changed what is drawn.
    expected = first / first.sum() * num_draws
    assert (abs(counts - expected) < 5 * np.sqrt(expected) + 5).all()
