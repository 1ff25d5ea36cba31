"""An error of one sequence ends its request, an error of a step ends the running requests, and the
engine continues. Tried at every call of the backend."""

import asyncio
import itertools
from typing import Any

import numpy as np
import pytest
from fakes import FakeBackend, answer, reference, run, settle
from msgspec import structs
from numpy.typing import NDArray

from localinfra.engine.backend import Batch, DecodeFailed, DeviceFailed
from localinfra.engine.engine import MAX_FAULTS, Engine
from localinfra.engine.generation import Generation
from localinfra.engine.request import (
    EngineSettings,
    GenerationParams,
    GenerationRequest,
    SamplingParams,
    TokenEvent,
)
from localinfra.errors import ApiError, EngineFailed, ModelUnavailable
from localinfra.journal import CrashJournal, StepKind
from localinfra.logs import id_of, request_id


class Panic(BaseException):
    """Like a panic of a Rust library."""


ERRORS = [DecodeFailed, RuntimeError, MemoryError, Panic]
METHODS = [
    *("decode", "logits", "is_end", "set_threads"),
    *("copy", "drop", "save", "restore", "clear", "stays_ordered", "canonical_threads"),
]


class Faulty(FakeBackend):
    """Raises at a given call of one method; counts the calls of all methods."""

    def __init__(
        self, method: str = "", at: int = -1, error: type[BaseException] = RuntimeError, **more: Any
    ):
        super().__init__(**more)
        self.method, self.at, self.error = method, at, error
        self.calls = dict.fromkeys(METHODS, 0)

    def called(self, method: str) -> None:
        self.calls[method] += 1
        if method == self.method and self.calls[method] == self.at:
            raise self.error("scripted")

    def decode(self, batch: Batch) -> None:
        self.called("decode")
        super().decode(batch)

    def logits(self, row: int) -> NDArray[np.float32]:
        self.called("logits")
        return super().logits(row)

    def copy(self, source: int, target: int, start: int, stop: int) -> None:
        self.called("copy")
        super().copy(source, target, start, stop)

    def drop(self, slot: int, start: int, stop: int | None = None) -> None:
        self.called("drop")
        super().drop(slot, start, stop)

    def save(self, slot: int) -> NDArray[np.uint8]:
        self.called("save")
        return super().save(slot)

    def restore(self, slot: int, data: NDArray[np.uint8]) -> bool:
        self.called("restore")
        return super().restore(slot, data)

    def clear(self) -> None:
        self.called("clear")
        super().clear()

    def set_threads(self, num_threads: int) -> None:
        self.called("set_threads")
        super().set_threads(num_threads)

    def stays_ordered(self, batch: Batch, slots: set[int]) -> bool:
        self.called("stays_ordered")
        return super().stays_ordered(batch, slots)

    def canonical_threads(self) -> int:
        self.called("canonical_threads")
        return super().canonical_threads()

    def is_end(self, token: int) -> bool:
        self.called("is_end")
        return super().is_end(token)


SMALL: dict[str, Any] = {
    "num_cells": 70, "num_sequences": 2, "num_slots": 6, "batch_size": 16, "context_length": 60,
}  # fmt: skip
SHARED = list(range(24))
LOAD = [  # prefixes that are shared, offloaded, restored and evicted
    GenerationRequest([*SHARED, 1], 6),
    GenerationRequest([*SHARED, 2], 6, GenerationParams(num_choices=2)),
    GenerationRequest([7] * 40, 8),
    GenerationRequest([8] * 40, 3, cache_salt="other"),
    GenerationRequest([*SHARED, 3], 5),
]
AFTER = GenerationRequest([*SHARED, 4], 6)
SEEDED = SamplingParams(seed=7, is_reproducible=True)


class Load:
    """Requests, their backend, and the answer of each alone."""

    def __init__(self, is_seeded: bool) -> None:
        """If seeded, the backend rounds like real kernels."""
        self.options = {**SMALL, "canonical_rows": 8} if is_seeded else SMALL
        requests = [*LOAD, AFTER]
        if is_seeded:
            requests = [
                structs.replace(request, params=structs.replace(request.params, sampling=SEEDED))
                for request in requests
            ]
        *self.requests, self.after = requests
        self.expected: dict[int, list[list[int]]] = {}
        run(self._alone)

    async def _alone(self) -> None:
        for request in [*self.requests, self.after]:
            engine = Engine(FakeBackend(**self.options))
            got = await answer(engine, request)
            assert not isinstance(got, ApiError)
            self.expected[id(request)] = got
            await asyncio.to_thread(engine.close)


async def serve(load: Load, backend: Faulty) -> int:
    """Runs the load, partly concurrent, then one more request; returns the number of failures."""
    engine = Engine(backend, EngineSettings(max_offloaded=100_000))
    answers = list(await asyncio.gather(*(answer(engine, each) for each in load.requests[:3])))
    answers += [await answer(engine, each) for each in load.requests[3:]]
    answers.append(await answer(engine, load.after))
    if engine.fault is None:
        await settle(engine)
        assert engine.stats.kv_used == backend.num_used
        backend.method = ""
        assert await answer(engine, load.after) == load.expected[id(load.after)]
    else:
        assert engine.stats.num_running == engine.stats.kv_used == 0
        assert isinstance(answers[-1], ApiError)
    for request, got in zip([*load.requests, load.after], answers, strict=True):
        if isinstance(got, ApiError):
            assert got.status in (500, 503)
        else:
            assert got == load.expected[id(request)]
    await asyncio.to_thread(engine.close)
    assert backend.closed
    return sum(isinstance(got, ApiError) for got in answers)


def failures(load: Load, backend: Faulty) -> int:
    return asyncio.run(asyncio.wait_for(serve(load, backend), 60))


@pytest.fixture(scope="module", params=[False, True], ids=["", "seeded"])
def load(request: pytest.FixtureRequest) -> Load:
    return Load(request.param)


@pytest.fixture(scope="module")
def counts(load: Load) -> dict[str, int]:
    """The number of calls of each method by the load."""
    backend = Faulty(**load.options)
    assert failures(load, backend) == 0
    return backend.calls


def test_the_load_calls_every_method(counts: dict[str, int]) -> None:
    assert {name for name, count in counts.items() if count} >= {
        *("decode", "logits", "is_end", "set_threads", "copy", "drop", "save", "restore")
    }


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("method", METHODS)
def test_an_error_at_any_call_harms_only_the_requests_it_concerns(
    load: Load, counts: dict[str, int], method: str, error: type[BaseException]
) -> None:
    """The other requests and the next one get the same answers as alone, and no cell or slot is
    lost."""
    for at in range(1, min(counts[method], 50) + 1):
        num_failed = failures(load, Faulty(method, at, error, **load.options))
        assert num_failed < len(LOAD), (method, at)
        if method in ("logits", "is_end"):
            assert num_failed <= 1, (method, at)  # the sequence's own


@pytest.mark.parametrize("error", ERRORS)
def test_waiting_requests_survive_a_failed_step(error: type[BaseException]) -> None:
    async def test() -> None:
        backend = Faulty("decode", 2, error, num_sequences=1)
        engine = Engine(backend)
        prompts = [[1, 2], [3, 4], [5, 6]]
        requests = [GenerationRequest(prompt, 5) for prompt in prompts]
        first, *others = await asyncio.gather(*(answer(engine, each) for each in requests))
        assert isinstance(first, EngineFailed)
        assert others == [[reference(prompt, 5, 128)] for prompt in prompts[1:]]
        await asyncio.to_thread(engine.close)

    run(test)


def test_a_backend_that_keeps_failing_is_given_up() -> None:
    class Broken(Faulty):
        def decode(self, batch: Batch) -> None:
            raise RuntimeError("out of order")

    async def test() -> None:
        backend = Broken()
        engine = Engine(backend, name="m")
        got = [await answer(engine, GenerationRequest([1], 2)) for _ in range(MAX_FAULTS)]
        assert all(isinstance(each, EngineFailed) for each in got)
        while not backend.closed:
            await asyncio.sleep(0.001)
        assert engine.fault and "out of order" in engine.fault
        with pytest.raises(ModelUnavailable) as caught:
            engine.generate([GenerationRequest([1], 2)])
        assert caught.value.retry_after_s
        await asyncio.to_thread(engine.close)

    run(test)


def test_a_device_that_fails_is_given_up_at_once() -> None:
    async def test() -> None:
        backend = Faulty("decode", 1, DeviceFailed)
        engine = Engine(backend, name="m")
        assert isinstance(await answer(engine, GenerationRequest([1], 2)), EngineFailed)
        while not backend.closed:
            await asyncio.sleep(0.001)
        assert engine.is_device_lost and engine.fault
        await asyncio.to_thread(engine.close)

    run(test)


def test_each_kind_of_step_is_noted_for_a_supervisor() -> None:
    async def test() -> None:
        journal, seen = CrashJournal(), list[StepKind]()

        class Watched(FakeBackend):
            def decode(self, batch: Batch) -> None:
                seen.extend(one.step for one in journal.at_work())
                super().decode(batch)

        engine = Engine(Watched(), name="m")
        engine.mark = journal.open("m", "a" * 32)
        await answer(engine, GenerationRequest([1, 2, 3], 3))
        await asyncio.to_thread(engine.close)
        assert seen[0] is StepKind.PREFILL and set(seen[1:]) == {StepKind.DECODE}

    run(test)


def test_cells_that_cannot_be_cleared_end_the_engine_and_all_requests() -> None:
    class Broken(Faulty):
        def clear(self) -> None:
            raise RuntimeError("no")

    async def test() -> None:
        backend = Broken("decode", 2, num_sequences=1)
        engine = Engine(backend)
        requests = [GenerationRequest([at], 9) for at in range(4)]
        got = await asyncio.gather(*(answer(engine, each) for each in requests))
        assert all(isinstance(each, ApiError) for each in got)
        await asyncio.to_thread(engine._thread.join)
        assert engine.fault and backend.closed
        await asyncio.to_thread(engine.close)

    run(test)


def test_a_thread_that_has_ended_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "_run", lambda self: None)
    engine = Engine(FakeBackend())
    engine._thread.join()
    assert engine.fault == "the engine's thread has ended"


def test_threads_that_cannot_rest_do_no_harm() -> None:
    class Restless(FakeBackend):
        def rest(self) -> None:
            super().rest()
            raise RuntimeError

    async def test() -> None:
        backend = Restless()
        engine = Engine(backend)
        while not backend.num_rests:
            await asyncio.sleep(0.01)
        assert await answer(engine, GenerationRequest([1, 2], 3)) == [reference([1, 2], 3, 128)]
        await asyncio.to_thread(engine.close)

    run(test)


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_grammar_that_fails_when_its_request_is_added_fails_only_that_request(at: int) -> None:
    calls = itertools.count(1)

    class Grammar:
        def follow(self) -> None:
            if next(calls) == at:
                raise Panic("poisoned")

    async def test() -> None:
        engine = Engine(FakeBackend())
        bad = GenerationRequest([1, 2], 30, GenerationParams(num_choices=3), grammar=Grammar())  # type: ignore[arg-type]
        got, other = await asyncio.gather(
            answer(engine, bad), answer(engine, GenerationRequest([3, 4], 20))
        )
        assert isinstance(got, EngineFailed) and other == [reference([3, 4], 20, 128)]
        await settle(engine)
        await asyncio.to_thread(engine.close)

    run(test)


def test_what_can_not_be_delivered_to_one_client_costs_the_others_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    deliver = Generation.deliver

    def fail(generation: Generation, events: list[TokenEvent]) -> None:
        if generation.requests[0].prompt == [1]:
            raise MemoryError("scripted")
        deliver(generation, events)

    monkeypatch.setattr(Generation, "deliver", fail)

    async def test() -> None:
        engine = Engine(FakeBackend())
        requests = [GenerationRequest([at], 20) for at in range(4)]
        outcomes = await asyncio.gather(
            *(answer(engine, request) for request in requests), return_exceptions=True
        )
        assert isinstance(outcomes[1], EngineFailed)
        assert all(not isinstance(outcomes[at], BaseException) for at in (0, 2, 3))
        await asyncio.to_thread(engine.close)

    asyncio.run(test())


def test_the_log_names_the_request_that_failed(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        engine = Engine(Faulty("logits", 1, **SMALL))
        request_id.set("id-7")
        assert isinstance(await answer(engine, LOAD[0]), ApiError)
        await asyncio.to_thread(engine.close)

    run(main)
    [record] = [record for record in caplog.records if "a request failed" in record.message]
    assert id_of(record) == "id-7"
