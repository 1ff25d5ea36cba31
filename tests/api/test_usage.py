"""A request's charges as its deltas arrive, and its usage object."""

import time

import msgspec
import pytest
from metering import written

from localinfra.api.anthropic.messages import MessageRequest
from localinfra.api.generation.usage import (
    EXPECTED_ANSWER,
    MOST_EXPECTED_PROMPT,
    Charge,
    UsageMeter,
    expected_tokens,
)
from localinfra.api.openai.chat import ChatCompletionRequest
from localinfra.api.openai.embeddings import EmbeddingsRequest
from localinfra.api.openai.responses.request import ResponsesRequest
from localinfra.costs import Ledger, Used
from localinfra.engine.deltas import Deltas
from localinfra.engine.output import OutputDelta
from localinfra.engine.request import FinishReason
from localinfra.engine.sequence import Computed
from localinfra.image.worker import LeftOver
from localinfra.metrics import Metrics
from localinfra.models.entries import Price

PRICE = Price(input=1.0, output=2.0, image=0.5)


class Account(Ledger):
    """Sums up usage of `key` and `model`."""

    def __init__(self) -> None:
        super().__init__()
        self.used = Used()

    def add(self, key: str, model: str, used: Used) -> None:
        assert (key, model) == ("key", "model")
        self.used.add(used)


class Leaving(Deltas):
    """Of a client that leaves when the test says so."""

    def __init__(self) -> None: ...

    def leave(self, *computed: Computed) -> None:
        assert self._left
        self._left(dict(enumerate(computed)))


@pytest.fixture
def account() -> Account:
    return Account()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def charge(account: Account, metrics: Metrics) -> Charge:
    return Charge(PRICE, "model", "key", time.perf_counter(), metrics, account)


def test_uses_of_one_request_sum_up(charge: Charge, account: Account, metrics: Metrics) -> None:
    assert charge.cost == 0 and account.used == Used()
    charge.add(prompt_tokens=1000, cached_tokens=600)
    charge.add(generated_tokens=100)
    charge.add(images=2)
    assert charge.cost == 1.0012
    assert account.used == Used(
        requests=1,
        prompt_tokens=1000,
        cached_tokens=600,
        generated_tokens=100,
        images=2,
        usd=pytest.approx(1.0012),  # type: ignore[arg-type]  # equals what is near
    )
    text = written(metrics)
    for line in (
        'localinfra_prompt_tokens_total{model="model"} 1000',
        'localinfra_cached_prompt_tokens_total{model="model"} 600',
        'localinfra_generated_tokens_total{model="model"} 100',
        'localinfra_images_total{model="model"} 2',
        'localinfra_cost_usd_total{key="key",model="model"} 1.0012',
        'localinfra_time_to_first_token_seconds_count{model="model"} 1',
    ):
        assert line in text


def test_only_the_first_token_is_timed(charge: Charge, metrics: Metrics) -> None:
    charge.add(prompt_tokens=3)
    assert "first_token_seconds_count" not in written(metrics)
    for _ in range(3):
        charge.add(generated_tokens=1)
    assert 'first_token_seconds_count{model="model"} 1' in written(metrics)


def test_a_prompt_is_charged_after_prefill_and_tokens_as_they_arrive(
    charge: Charge, account: Account
) -> None:
    meter = UsageMeter(charge, Leaving(), [7], 1)
    assert account.used.requests == 0
    meter.add(OutputDelta(0, num_generated=1, num_cached=5))
    assert account.used == Used(
        requests=1,
        prompt_tokens=7,
        cached_tokens=5,
        generated_tokens=1,
        usd=pytest.approx(9e-6),  # type: ignore[arg-type]  # equals what is near
    )
    meter.add(OutputDelta(0, num_generated=4, num_cached=5))
    assert (account.used.prompt_tokens, account.used.cached_tokens) == (7, 5)
    assert account.used.generated_tokens == 4


def test_choices_share_their_prompt_and_prompts_are_charged_one_by_one(
    charge: Charge, account: Account
) -> None:
    meter = UsageMeter(charge, Leaving(), [10, 20], 2)  # choices 0 and 1 are of the first prompt
    meter.add(OutputDelta(1, num_generated=2, num_cached=9))  # shared with choice 0, not reused
    assert (account.used.prompt_tokens, account.used.cached_tokens) == (10, 0)
    meter.add(OutputDelta(0, num_generated=3, num_cached=4))
    assert (account.used.prompt_tokens, account.used.cached_tokens) == (10, 4)
    meter.add(OutputDelta(2, num_generated=1, num_cached=8))
    meter.add(OutputDelta(3, num_generated=1, num_cached=19))
    assert (account.used.prompt_tokens, account.used.cached_tokens) == (30, 12)
    assert (account.used.requests, account.used.generated_tokens) == (1, 7)


def test_at_the_end_the_usage_object_is_what_was_charged(charge: Charge, account: Account) -> None:
    meter = UsageMeter(charge, Leaving(), [10, 20], 2)
    for choice in range(4):
        for num_generated in (1, 5, 9):
            meter.add(OutputDelta(choice, num_generated=num_generated, num_cached=3))
    usage = meter.usage()
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (30, 36, 66)
    assert usage.prompt_tokens_details.cached_tokens == 6
    assert usage.estimated_cost == charge.cost == 0.000102
    assert account.used == Used(
        requests=1,
        prompt_tokens=30,
        cached_tokens=6,
        generated_tokens=36,
        usd=pytest.approx(0.000102),  # type: ignore[arg-type]  # equals what is near
    )


def test_usage_is_complete_once_every_choice_of_every_prompt_has_ended(charge: Charge) -> None:
    meter = UsageMeter(charge, Leaving(), [10, 20], 2)
    for choice in (2, 0, 3, 1):
        assert not meter.is_complete
        meter.add(OutputDelta(choice, num_generated=1))
        meter.add(OutputDelta(choice, num_generated=1, finish_reason=FinishReason.STOP))
    assert meter.is_complete


def test_who_leaves_pays_for_what_was_computed(charge: Charge, account: Account) -> None:
    """Choices 0 and 1 are of a prompt that was begun, 2 and 3 of one that was read, 4 and 5 of one
    that was not: others wait for what the first of them reads."""
    deltas = Leaving()
    meter = UsageMeter(charge, deltas, [10, 20, 30], 2)
    meter.add(OutputDelta(0, num_generated=2, num_cached=3))
    deltas.leave(
        *(Computed(7, 3, 5), Computed(1, 9, 1)),
        *(Computed(20, 0, 1), Computed(0, 0, 0)),
        *(Computed(12, 4, 0), Computed(1, 9, 0)),
    )
    assert account.used.prompt_tokens == 10 + 20 + 12
    assert account.used.generated_tokens == 5 + 1 + 1
    assert account.used.requests == 1
    assert account.used.usd == pytest.approx(PRICE.of(42, 7))
    assert meter.usage().completion_tokens == 7


def test_what_the_cache_had_of_a_prompt_that_was_read_counts_once_its_client_has_left(
    charge: Charge, account: Account
) -> None:
    """Choice 0 is told of before it is left, 2 is not; 4 has not read its prompt."""
    deltas = Leaving()
    meter = UsageMeter(charge, deltas, [10, 20, 30], 2)
    meter.add(OutputDelta(0, num_generated=2, num_cached=3))
    meter.add(OutputDelta(3, num_generated=1, num_cached=19))
    deltas.leave(
        *(Computed(7, 3, 5), Computed(1, 9, 1)),
        *(Computed(15, 5, 1), Computed(1, 19, 1)),
        *(Computed(12, 4, 0), Computed(0, 0, 0)),
    )
    assert account.used.cached_tokens == 3 + 5
    assert account.used.prompt_tokens == 10 + 20 + 12


def test_who_leaves_before_anything_was_computed_pays_nothing(
    charge: Charge, account: Account, metrics: Metrics
) -> None:
    deltas = Leaving()
    UsageMeter(charge, deltas, [10], 1)
    deltas.leave(Computed(0, 0, 0))
    assert account.used == Used() and "first_token_seconds_count" not in written(metrics)


def test_images_that_were_not_finished_cost_their_steps(charge: Charge, account: Account) -> None:
    charge.add_left_over(LeftOver(0, 0.0))
    assert account.used == Used()
    charge.add_left_over(LeftOver(1, 0.75))
    assert (account.used.requests, account.used.images) == (1, 1)
    assert account.used.usd == pytest.approx(0.5 * 1.75)


def test_scoring_a_prompt_costs_the_prompt(charge: Charge, account: Account) -> None:
    UsageMeter(charge, Leaving(), [12], 1).add(OutputDelta(0))
    assert (account.used.prompt_tokens, account.used.generated_tokens) == (12, 0)


def test_the_smallest_prices_are_not_rounded_away(account: Account, metrics: Metrics) -> None:
    cheap = Price(input=1e-9)
    charge = Charge(cheap, "model", "key", 0.0, metrics, account)
    for _ in range(1000):
        charge.add(prompt_tokens=1)
    assert account.used.usd == pytest.approx(1e-12)


MESSAGES = {"model": "m", "messages": [{"role": "user", "content": "x"}]}


@pytest.mark.parametrize(
    ("kind", "fields", "tokens"),
    [
        (ChatCompletionRequest, MESSAGES, 100 + EXPECTED_ANSWER),
        (ChatCompletionRequest, MESSAGES | {"max_tokens": 7}, 107),
        (ChatCompletionRequest, MESSAGES | {"max_completion_tokens": 7, "n": 3}, 121),
        (ChatCompletionRequest, MESSAGES | {"max_tokens": 0}, 100),
        (ChatCompletionRequest, MESSAGES | {"max_tokens": -1}, 100 + EXPECTED_ANSWER),
        (ResponsesRequest, {"model": "m", "input": "x", "max_output_tokens": 7}, 107),
        (MessageRequest, MESSAGES | {"max_tokens": 7}, 107),
        (EmbeddingsRequest, {"model": "m", "input": "x"}, 100),
    ],
)
def test_what_a_body_is_expected_to_use(
    kind: type[msgspec.Struct], fields: dict[str, object], tokens: int
) -> None:
    body = msgspec.convert(fields, kind)
    assert expected_tokens(400, body) == tokens
    assert expected_tokens(10**8, body) == tokens - 100 + MOST_EXPECTED_PROMPT
    assert expected_tokens(400 + 40_000, body, num_data=40_000) == tokens + 100  # a picture
