"""A request's place in the queue, from its submission to the end of its deltas."""

import asyncio

import pytest
from fakes import FakeBackend, running

from localinfra.engine.deltas import AT_ONCE, Deltas
from localinfra.engine.engine import Engine
from localinfra.engine.output import ChoiceOutput
from localinfra.engine.request import GenerationParams, GenerationRequest
from localinfra.engine.stops import Stops
from localinfra.errors import QueueFull


def submitted(engine: Engine, num_choices: int = 1, max_tokens: int = 50) -> Deltas:
    request = GenerationRequest([1, 2, 3], max_tokens, GenerationParams(num_choices=num_choices))
    outputs = [
        ChoiceOutput(choice, lambda token: b"%d " % token, Stops(()))
        for choice in range(num_choices)
    ]
    return Deltas(engine.generate([request]), outputs)


def test_a_place_is_taken_at_once_and_freed_by_closing_even_if_never_read() -> None:
    async def test() -> None:
        async with running(FakeBackend(num_sequences=1), max_waiting=2) as engine:
            taken = []
            with pytest.raises(QueueFull):
                while True:
                    taken.append(submitted(engine, max_tokens=100))
            for deltas in taken:
                await deltas.aclose()
            while engine.stats.num_running or engine.num_waiting:
                await asyncio.sleep(0.001)
            await taken[0].aclose()  # idempotent
            assert [step async for step in submitted(engine)]

    asyncio.run(asyncio.wait_for(test(), 120))


def test_many_choices_of_a_step_are_split_so_that_other_tasks_can_run() -> None:
    async def test() -> None:
        async with running(FakeBackend(num_sequences=16, num_slots=20)) as engine:
            turns = 0

            async def other() -> None:
                nonlocal turns
                while True:
                    turns += 1
                    await asyncio.sleep(0)

            task = asyncio.create_task(other())
            deltas = submitted(engine, num_choices=16, max_tokens=1)
            await asyncio.sleep(0.2)  # all are sampled by then
            turns, sizes, turns_at = 0, [], []
            async for step in deltas:
                sizes.append(len(step))
                turns_at.append(turns)
            task.cancel()
            assert sum(sizes) == 16 and max(sizes) <= AT_ONCE
            assert sorted(set(turns_at)) == turns_at
            await deltas.aclose()

    asyncio.run(asyncio.wait_for(test(), 120))
