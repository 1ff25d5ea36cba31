"""Pictures in prompts, over a scripted model that sees."""

import asyncio
from typing import Any

import pytest
from fake_pictures import FakeSeer, picture, with_pictures
from fakes import reference, run, running, settle
from hypothesis import given, settings
from hypothesis import strategies as st

from localinfra.engine.engine import Engine
from localinfra.engine.pictures import Picture
from localinfra.engine.request import GenerationParams, GenerationRequest
from localinfra.errors import EngineFailed

DOG, CAT = picture(1), picture(2)
LARGE = picture(3, 20, is_causal=True, grid=(4, 5))

MEMORIES: dict[str, Any] = {
    "shared": {},
    "pieces": {"max_saved": 16},
    "states": {"needs_states": True, "max_rollback": 0},
    "rollback": {"needs_states": True, "max_rollback": 3},
    "whole": {"can_share_prefixes": False},
    "grids": {"has_grid_positions": True},
    "grids with states": {"has_grid_positions": True, "needs_states": True, "max_rollback": 0},
}
PICTURES = [
    DOG,
    CAT,
    picture(4, 1),
    picture(5, 3, is_causal=True),
    picture(6, 25, is_causal=True),
    LARGE,
]


class Visit:
    """A request, and after how many events its client leaves; 0: never."""

    def __init__(
        self, parts: list[list[int | Picture]], max_tokens: int, choices: int, leaves: int
    ):
        prompt, placed = with_pictures(*(part for several in parts for part in several))
        params = GenerationParams(num_choices=choices)
        self.request = GenerationRequest(prompt or [1], max_tokens, params, pictures=placed)
        self.leaves_after = leaves


TEXTS = st.sampled_from([[7], [7, 8, 9], [5] * 20, list(range(18))])
PARTS = st.one_of(TEXTS, st.sampled_from([[each] for each in PICTURES]))
VISITS = st.builds(
    Visit, st.lists(PARTS, max_size=3), st.integers(1, 20), st.integers(1, 3), st.integers(0, 8)
)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(VISITS, min_size=1, max_size=10),
    st.sampled_from([90, 140, 400]),
    st.integers(1, 4),
    st.sampled_from([5, 8, 32]),
    st.sampled_from(list(MEMORIES)),
    st.sampled_from([0, 400, 100_000]),
    st.booleans(),
)
def test_any_load_with_pictures_gives_each_request_the_same_answer_as_alone(
    load: list[Visit],
    num_cells: int,
    num_sequences: int,
    batch_size: int,
    memory: str,
    max_offloaded: int,
    tidies: bool,
) -> None:
    backend = FakeSeer(
        num_cells=num_cells, num_sequences=num_sequences, batch_size=batch_size,
        num_slots=num_sequences + 4, context_length=90, idle_cells_slow_steps=tidies,
        **MEMORIES[memory],
    )  # fmt: skip

    async def one(engine: Engine, visit: Visit) -> None:
        request, count = visit.request, 0
        got: list[list[int]] = [[] for _ in range(request.params.num_choices)]
        if any(p.grid and not backend.has_grid_positions for _, p in request.pictures):
            with pytest.raises(EngineFailed):
                engine.generate([request])
            return
        async with engine.generate([request]) as generation:
            async for events in generation:
                for event in events:
                    got[event.choice].append(event.token or 0)
                count += 1
                if count == visit.leaves_after:
                    return
        expected = [
            reference(request.prompt, request.max_tokens, 90, stream) for stream in range(len(got))
        ]
        assert got == expected

    async def test() -> None:
        async with running(backend, max_offloaded=max_offloaded) as engine:
            await asyncio.gather(*(one(engine, visit) for visit in load))
            await settle(engine)
            await asyncio.sleep(0.002)
            assert engine.stats.kv_used == backend.num_used

    run(test)
