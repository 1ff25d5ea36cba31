"""Arbitrary load over a scripted model, compared with each request alone."""

import asyncio
from typing import Any, NamedTuple

import pytest
from fake_mtp import FakeHidden, FakeMtp
from fakes import (
    NUM_VOCAB,
    FakeBackend,
    FakeDrafter,
    next_token,
    reference,
    run,
    running,
    settle,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from localinfra.engine.drafting import Drafting
from localinfra.engine.engine import Engine
from localinfra.engine.policy.speculation import Speculator
from localinfra.engine.request import GenerationParams, GenerationRequest

FAMILIES = [list(range(40)), [*range(20), *range(30, 48)], [5] * 40]


# How cells can be copied and cut.
MEMORIES: dict[str, Any] = {
    "shared": {},
    "pieces": {"max_saved": 16},
    "states": {"needs_states": True, "max_rollback": 0},
    "rollback": {"needs_states": True, "max_rollback": 3},
    "whole": {"needs_states": True, "max_rollback": 0, "shares_cells": False},
}


class Visit(NamedTuple):
    """A request, and when its client leaves."""

    prompt: list[int]
    max_tokens: int
    num_choices: int
    is_scored: bool
    leaves_after: int  # in events; 0: never


GPU: dict[str, Any] = {"is_on_device": True, "num_candidates": NUM_VOCAB}

PROMPTS = st.builds(
    lambda family, size, ending: family[:size] + ending,
    st.sampled_from(FAMILIES),
    st.integers(1, 40),
    st.lists(st.integers(0, 48), max_size=3),
)
VISITS = st.builds(
    Visit, PROMPTS, st.integers(1, 30), st.integers(1, 3), st.booleans(), st.integers(0, 12)
)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(VISITS, min_size=1, max_size=14),
    st.sampled_from([70, 90, 140, 400]),
    st.integers(1, 5),
    st.sampled_from([5, 8, 32]),
    st.sampled_from(["shared", "pieces", "states", "rollback", "whole"]),
    st.sampled_from([0, 400, 100_000]),
    st.booleans(),
    st.sampled_from([None, 0.0, 0.5, 50.0]),
    st.sampled_from([None, 4, 1000]),
    st.sampled_from([{}, GPU]),
)
def test_any_load_gives_each_request_the_same_answer_as_alone(
    load: list[Visit],
    num_cells: int,
    num_sequences: int,
    batch_size: int,
    memory: str,
    max_offloaded: int,
    tidies: bool,
    noise: float | None,
    kept_hidden: int | None,
    device: dict[str, Any],
) -> None:
    """With sharing, offloading, eviction, preemption, drafts, clients that leave; on GPUs, too."""
    size: dict[str, Any] = {
        "num_cells": num_cells, "num_sequences": num_sequences, "batch_size": batch_size,
        "num_slots": num_sequences + 4, "context_length": 70,
    }  # fmt: skip
    size_of_main = {"idle_cells_slow_steps": tidies, **size, **MEMORIES[memory], **device}
    backend = FakeBackend(**size_of_main)
    drafter = None if noise is None else FakeDrafter(noise, **size)
    if noise is not None and kept_hidden:
        backend = verifier = FakeHidden(kept_hidden, **size_of_main)
        drafter = FakeMtp(verifier, noise, **size)

    async def one(engine: Engine, visit: Visit) -> None:
        prompt, max_tokens, num_choices, score, leaves_after = visit
        params = GenerationParams(
            num_choices=num_choices, top_logprobs=1 if score else None, score_prompt=score
        )
        request = GenerationRequest(prompt, max_tokens, params)
        got: list[list[int]] = [[] for _ in range(num_choices)]
        async with engine.generate([request]) as generation:
            count = 0
            async for events in generation:
                for event in events:
                    assert event.token is not None
                    got[event.choice].append(event.token)
                    if score and event.num_generated == 1:
                        assert event.prompt_logprobs is not None
                        assert [s.token for s in event.prompt_logprobs] == prompt
                        assert [s.top[0][0] for s in event.prompt_logprobs[1:]] == [
                            next_token(prompt[:size]) for size in range(1, len(prompt))
                        ]
                count += 1
                if count == leaves_after:
                    return
        assert got == [reference(prompt, max_tokens, 70, i) for i in range(num_choices)]

    async def test() -> None:
        async with running(backend, drafter, max_offloaded=max_offloaded) as engine:
            await asyncio.gather(*(one(engine, visit) for visit in load))
            await settle(engine)
            await asyncio.sleep(0.002)
            assert engine.stats.kv_used == backend.num_used

    with pytest.MonkeyPatch.context() as patch:
        if drafter:
            patch.setattr(Speculator, "sizes", eager)
            patch.setattr(Drafting, "_is_worth_reading", lambda *_: True)
        run(test)


def eager(_: Speculator, chances: list[list[float]], limit: int, *__: object) -> list[int]:
    """As if rows were free."""
    return [min(len(each), limit // len(chances)) for each in chances]
