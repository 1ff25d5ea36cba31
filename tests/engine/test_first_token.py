"""How soon a first token is on its way to its client."""

import asyncio
import threading

import pytest
from fakes import FakeBackend, running

from localinfra.engine.canonical import CanonicalShapes
from localinfra.engine.request import GenerationParams, GenerationRequest, SamplingParams
from localinfra.engine.step import Step


def test_a_first_token_does_not_wait_until_cells_are_in_order_for_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arrived, waits = threading.Event(), list[bool]()
    complete = CanonicalShapes.complete

    def slowly(shapes: CanonicalShapes, step: Step) -> None:
        if not step.num_prompt_tokens:
            waits.append(arrived.wait(60))
        complete(shapes, step)

    monkeypatch.setattr(CanonicalShapes, "complete", slowly)

    async def test() -> None:
        seeded = GenerationParams(SamplingParams(is_reproducible=True))
        request = GenerationRequest(list(range(10)), 3, seeded)
        async with (
            running(FakeBackend(canonical_rows=8)) as engine,
            engine.generate([request]) as generation,
        ):
            async for _ in generation:
                arrived.set()

    asyncio.run(test())
    assert waits and all(waits)
