"""What is done while a GPU computes a step: texts go out, the next step's books are kept, masks are
made. None of that waits for the GPU, and the GPU waits for none of it."""

import threading
from collections.abc import Callable

import numpy as np
import pytest
from fakes import NUM_VOCAB, FakeBackend, collect, reference, run, running, tokens
from numpy.typing import NDArray

from localinfra.engine import engine as engine_file
from localinfra.engine.backend import Batch
from localinfra.engine.grammar.constraint import Constraint, Grammar
from localinfra.engine.request import (
    GenerationParams,
    GenerationRequest,
    SamplingParams,
    TokenEvent,
)
from localinfra.engine.scheduler import Scheduler
from localinfra.engine.step import Step

PROMPT = [1, 2, 3, 4, 5, 6, 7, 8]


class Reader(FakeBackend):
    """A device that ends no step before the tokens of all earlier ones have been read."""

    def __init__(self) -> None:
        super().__init__(is_on_device=True)
        self.has_read = threading.Semaphore(0)  # a token

    def wait(self) -> None:
        if self.is_computing and len(self.batch_sizes) > 1:
            assert self.has_read.acquire(timeout=300), "the text waits for the device"
        super().wait()


def test_texts_go_out_while_the_device_computes_the_next_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine_file, "HAND_OVER_INTERVAL_S", 0.0)
    backend = Reader()
    found: list[TokenEvent] = []

    async def test() -> None:
        async with running(backend, prompt_lookup=False) as engine:
            async with engine.generate([GenerationRequest(PROMPT, 6)]) as generation:
                async for events in generation:
                    found.extend(events)
                    backend.has_read.release(len(events))

    run(test)
    assert tokens(found) == reference(PROMPT, 6, 128) and len(backend.batch_sizes) == 6


class Free(Constraint):
    """Allows everything, and notes when it makes a mask."""

    def __init__(self, note: Callable[[str], None]):
        self._note = note
        self._is_made = False

    @property
    def is_complete(self) -> bool:
        return False

    def prepare(self) -> None:
        if not self._is_made:
            self._is_made = True
            self._note("mask")

    def forbid(self, row: NDArray[np.float32]) -> None:
        self.prepare()

    def accept(self, token: int) -> None:
        assert token < NUM_VOCAB
        self._is_made = False

    def forced(self) -> list[int]:
        return []


class Freedom(Grammar):
    def __init__(self, note: Callable[[str], None]):
        self._follower = Free(note)

    def follow(self) -> Free:
        return self._follower


@pytest.mark.parametrize("is_on_device", [True, False])
def test_masks_and_books_are_made_while_the_device_computes(
    is_on_device: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = FakeBackend(is_on_device=is_on_device)
    noted: list[tuple[str, bool]] = []

    def note(what: str) -> None:
        noted.append((what, backend.is_computing))

    advance, decode = Scheduler.advance, FakeBackend.decode

    def noting_advance(scheduler: Scheduler, step: Step) -> None:
        note("books")
        advance(scheduler, step)

    def noting_decode(own: FakeBackend, batch: Batch) -> None:
        decode(own, batch)
        note("step")

    monkeypatch.setattr(Scheduler, "advance", noting_advance)
    monkeypatch.setattr(FakeBackend, "decode", noting_decode)
    sampled = GenerationParams(SamplingParams(seed=3))

    async def test() -> None:
        async with running(backend, prompt_lookup=False) as engine:
            request = GenerationRequest(PROMPT, 5, sampled, grammar=Freedom(note))
            await collect(engine, request)

    run(test)
    assert [what for what, _ in noted] == ["step", "books", "mask"] * 5
    assert {is_computing for _, is_computing in noted} == {is_on_device}
