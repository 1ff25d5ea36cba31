"""What the engine says it has computed for a request whose client has left, in every phase, and
that it says so whatever becomes of it."""

import asyncio
import threading
from collections.abc import Mapping

import pytest
from fakes import FakeBackend, run, running
from waiting import until

from localinfra.engine.backend import Batch
from localinfra.engine.deltas import Deltas
from localinfra.engine.engine import Engine
from localinfra.engine.output import ChoiceOutput
from localinfra.engine.request import (
    EngineSettings,
    GenerationParams,
    GenerationRequest,
    SamplingParams,
)
from localinfra.engine.sequence import Computed
from localinfra.engine.stops import Stops
from localinfra.errors import EngineFailed, InvalidRequest

PROMPT = [(7 * at) % 49 for at in range(40)]
NEVER_ENDS = SamplingParams(temperature=0, logit_bias={49: -100})


class Gated(FakeBackend):
    """Decodes 8 tokens of a prompt at most, and only while the gate is open."""

    def __init__(self) -> None:
        super().__init__(num_sequences=2, batch_size=8, num_cells=400)
        self.gate = threading.Event()
        self.num_begun = 0
        self.num_read = 0  # rows, with the prompt's

    def decode(self, batch: Batch) -> None:
        self.num_begun += 1
        self.num_read += len(batch)
        assert self.gate.wait(600)
        super().decode(batch)


class Left:
    """A request, and what its client is told once it has left."""

    def __init__(self, engine: Engine, num_choices: int = 1, prompt: list[int] = PROMPT) -> None:
        params = GenerationParams(sampling=NEVER_ENDS, num_choices=num_choices)
        request = GenerationRequest(prompt, 60, params)
        outputs = [
            ChoiceOutput(choice, lambda token: b"%d " % token, Stops(()))
            for choice in range(num_choices)
        ]
        self.deltas = Deltas(engine.generate([request]), outputs)
        self.told: list[Mapping[int, Computed]] = []
        self.deltas.when_left(self.told.append)


def test_in_the_queue_nothing_was_computed() -> None:
    async def test() -> None:
        backend = Gated()
        async with running(backend) as engine:
            others = [Left(engine, prompt=[at, *PROMPT]) for at in (1, 2)]
            await until(lambda: backend.num_begun > 0)
            left = Left(engine, prompt=[3, *PROMPT])
            closing = asyncio.create_task(left.deltas.aclose())
            await asyncio.sleep(0)
            backend.gate.set()
            await closing
            assert left.told == [{0: Computed(0, 0, 0)}]
            for other in others:
                await other.deltas.aclose()

    run(test)


@pytest.mark.parametrize("num_choices", [1, 2])
def test_while_the_prompt_is_read_it_is_what_was_read_with_the_step_under_way(
    num_choices: int,
) -> None:
    async def test() -> None:
        backend = Gated()
        async with running(backend) as engine:
            for num_cached in (0, 8):
                backend.gate.clear()
                backend.num_begun = backend.num_read = 0
                left = Left(engine, num_choices)
                await until(lambda: backend.num_begun == 1)
                closing = asyncio.create_task(left.deltas.aclose())
                await asyncio.sleep(0)
                assert not closing.done()
                backend.gate.set()
                await closing
                await left.deltas.aclose()
                [told] = left.told
                assert told[0] == Computed(8, num_cached, 0) and backend.num_read == 8
                assert len(told) == num_choices and sum(one.num_read for one in told.values()) == 8

    run(test)


def test_of_an_answer_it_is_all_that_was_sampled_read_or_not() -> None:
    async def test() -> None:
        backend = Gated()
        backend.gate.set()
        async with running(backend) as engine:
            left = Left(engine)
            steps = aiter(left.deltas)
            num_seen = max(delta.num_generated for delta in await anext(steps))
            await until(lambda: not engine.stats.num_running)  # to its end, which nobody reads
            await left.deltas.aclose()
            assert num_seen < 60 and left.told == [{0: Computed(40, 0, 60)}]

    run(test)


def test_choices_that_have_ended_are_not_told_of_again() -> None:
    async def test() -> None:
        backend = Gated()
        backend.gate.set()
        async with running(backend) as engine:
            whole = Left(engine)
            async for _ in whole.deltas:
                pass
            await whole.deltas.aclose()
            assert whole.told == []

    run(test)


def test_an_engine_that_is_abandoned_charges_nothing_and_keeps_nobody_waiting() -> None:
    async def test() -> None:
        backend = Gated()
        engine = Engine(backend, EngineSettings())
        before, after = Left(engine), Left(engine, prompt=[1, *PROMPT])
        await until(lambda: backend.num_begun == 1)
        closing = asyncio.create_task(before.deltas.aclose())
        await asyncio.sleep(0.01)
        engine.abandon("it hangs")
        await closing
        await after.deltas.aclose()
        backend.gate.set()
        await until(lambda: backend.closed)
        assert before.told == after.told == []

    run(test)


def test_an_engine_that_is_closed_meanwhile_keeps_nobody_waiting() -> None:
    async def test() -> None:
        backend = Gated()
        engine = Engine(backend, EngineSettings())
        before, after = Left(engine), Left(engine, prompt=[1, *PROMPT])
        await until(lambda: backend.num_begun == 1)
        closing = asyncio.create_task(before.deltas.aclose())
        await asyncio.sleep(0.01)
        backend.gate.set()
        await asyncio.to_thread(engine.close)
        await closing
        await after.deltas.aclose()
        assert after.told == []

    run(test)


def test_a_step_that_fails_is_charged_to_nobody() -> None:
    async def test() -> None:
        backend = Gated()
        backend.broken = True
        async with running(backend) as engine:
            left = Left(engine)
            backend.gate.set()
            with pytest.raises(EngineFailed):
                await anext(aiter(left.deltas))
            await left.deltas.aclose()
            assert left.told == []

    run(test)


def test_who_fails_by_its_own_fault_pays_like_one_that_leaves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise InvalidRequest("The grammar allows nothing more.", "response_format")

    async def test() -> None:
        backend = Gated()
        backend.gate.set()
        monkeypatch.setattr("localinfra.engine.postprocess.sample", refuse)
        async with running(backend) as engine:
            left = Left(engine)
            with pytest.raises(InvalidRequest):
                while True:
                    await anext(aiter(left.deltas))
            await left.deltas.aclose()
            assert left.told == [{0: Computed(8, 0, 0)}]

    run(test)


def test_who_is_cancelled_twice_is_charged_all_the_same() -> None:
    async def test() -> None:
        backend = Gated()
        async with running(backend) as engine:
            left = Left(engine)
            await until(lambda: backend.num_begun == 1)
            closing = asyncio.create_task(left.deltas.aclose())
            await asyncio.sleep(0)
            closing.cancel()
            await asyncio.wait([closing])
            assert left.told == []
            backend.gate.set()
            await until(lambda: left.told == [{0: Computed(8, 0, 0)}])

    run(test)
