"""Which requests may wait for a model, and which are refused."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from fakes import FakeBackend, running

from localinfra.engine.engine import Engine
from localinfra.engine.generation import Generation
from localinfra.engine.request import GenerationParams, GenerationRequest
from localinfra.engine.waiting import MAX_CHOICES
from localinfra.errors import QueueFull

LONG = 90  # tokens; the fake's context has 128


def submit(engine: Engine, client: str = "", num_choices: int = 1) -> Generation:
    params = GenerationParams(num_choices=num_choices)
    return engine.generate([GenerationRequest([1, 2, 3], LONG, params, client=client)])


def over_one_slot(max_waiting: int, test: Callable[[Engine], Awaitable[None]]) -> None:
    """The first request has the only slot, later ones wait: the test never lets the loop run, but
    the engine's thread may start any of them."""

    async def run() -> None:
        backend = FakeBackend(num_sequences=1)
        async with running(backend, max_waiting=max_waiting) as engine:
            await test(engine)

    asyncio.run(run())


def fill(
    engine: Engine, client: str = "", num_choices: int = 1, error: str = "raise max_queue"
) -> list[Generation]:
    """Submits requests until one is refused."""
    taken = []
    with pytest.raises(QueueFull, match=error):
        while True:
            taken.append(submit(engine, client, num_choices))
    return taken


def test_a_request_of_many_choices_does_not_keep_others_out() -> None:
    async def test(engine: Engine) -> None:
        many = submit(engine, num_choices=30)
        others = [submit(engine) for _ in range(3)]
        for generation in (many, *others):
            generation.close()

    over_one_slot(4, test)


def test_no_client_takes_the_places_of_others() -> None:
    async def test(engine: Engine) -> None:
        greedy = fill(engine, "a")
        assert len(greedy) >= 8
        shy = fill(engine, "b")
        assert len(shy) == 4  # half of eight
        with pytest.raises(QueueFull):
            submit(engine, "a")
        assert len(fill(engine, "c")) == 3
        for generation in (*greedy, *shy):
            generation.close()

    over_one_slot(8, test)


def test_a_refusal_says_whose_requests_are_waiting() -> None:
    async def test(engine: Engine) -> None:
        greedy = fill(engine, "a", error=r"\d+ requests .*, all with this API key")
        shy = fill(engine, "b", error=r"\d+ requests .*, 2 of them with this API key")
        for generation in (*greedy, *shy):
            generation.close()

    over_one_slot(4, test)


def test_the_number_of_waiting_choices_is_bounded_too() -> None:
    async def test(engine: Engine) -> None:
        taken = fill(engine, num_choices=MAX_CHOICES // 4, error="ask for fewer at once")
        assert 4 <= len(taken) <= 5
        for generation in taken:
            generation.close()

    over_one_slot(8, test)


def test_a_client_that_leaves_frees_its_place() -> None:
    async def test(engine: Engine) -> None:
        for generation in fill(engine):
            generation.close()
        submit(engine).close()

    over_one_slot(2, test)
