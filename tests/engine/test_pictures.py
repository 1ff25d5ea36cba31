"""Pictures in prompts, over a scripted model that sees."""

import asyncio
import itertools
import threading
from typing import Any

import numpy as np
import pytest
from fake_pictures import FakeSeer, picture, request_of, with_pictures
from fakes import NUM_VOCAB, FakeDrafter, answer, collect, reference, run, running, settle
from hypothesis import given, settings
from hypothesis import strategies as st

from localinfra.engine.backend import Batch
from localinfra.engine.borders import ends_alike, saved_positions
from localinfra.engine.drafts import Drafter
from localinfra.engine.engine import Engine
from localinfra.engine.pictures import Picture
from localinfra.engine.radix import Match
from localinfra.engine.request import GenerationParams, GenerationRequest, SamplingParams
from localinfra.engine.sampling import Penalties
from localinfra.engine.sequence import Sequence
from localinfra.errors import EngineFailed, InvalidRequest

DOG, CAT = picture(1), picture(2)
LARGE = picture(3, 20, is_causal=True, grid=(4, 5))

MEMORIES: dict[str, Any] = {
    "shared": {},
    "pieces": {"max_saved": 16},
    "states": {"needs_states": True, "max_rollback": 0},
    "rollback": {"needs_states": True, "max_rollback": 3},
    "whole": {"needs_states": True, "max_rollback": 0, "shares_cells": False},
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
MUTUAL = picture(7, 14)  # more rows than any canonical step has
PARTS = st.one_of(TEXTS, st.just([MUTUAL]), st.sampled_from([[each] for each in PICTURES]))
VISITS = st.builds(
    Visit, st.lists(PARTS, max_size=3), st.integers(1, 20), st.integers(1, 3), st.integers(0, 8)
)


@settings(max_examples=60, deadline=None)
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
        if any(
            (p.grid and not backend.has_grid_positions)
            or (not p.is_causal and p.num_tokens > batch_size)
            for _, p in request.pictures
        ):
            with pytest.raises((EngineFailed, InvalidRequest)):
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


TEXT = [1, 2, 3, 4]


async def ask(engine: Engine, *parts: int | Picture, **options: Any) -> tuple[list[int], int]:
    """The answer's tokens, and how many of the prompt were cached."""
    [events] = await collect(engine, request_of(*parts, **options))
    return [event.token or 0 for event in events], events[0].num_cached


def test_choices_and_requests_at_the_same_time_share_a_picture_that_is_read_once() -> None:
    backend, large = FakeSeer(), picture(1, 12)

    async def test() -> None:
        async with running(backend) as engine:
            params = GenerationParams(num_choices=3)
            one, other = request_of(*TEXT, large, 8, params=params), request_of(*TEXT, large, 9)
            await asyncio.gather(answer(engine, one), answer(engine, other))

    run(test)
    assert backend.looks == [(large.digest, 12)]


@pytest.mark.parametrize("memory", [name for name in MEMORIES if name != "whole"])
def test_the_next_turn_reads_only_the_new_picture(memory: str) -> None:
    backend = FakeSeer(**MEMORIES[memory])

    async def test() -> None:
        async with running(backend, max_offloaded=100_000) as engine:
            first = [*range(20), DOG, *range(9)]
            said, cached = await ask(engine, *first)
            assert cached == 0
            second = [*first, *said, 7, CAT, *range(9)]
            _, cached = await ask(engine, *second)
            assert cached >= len(with_pictures(*first)[0]) - 6

    run(test)
    assert backend.looks == [(DOG.digest, 5), (CAT.digest, 5)]


def test_another_picture_shares_what_comes_before_it() -> None:
    backend = FakeSeer()

    async def test() -> None:
        async with running(backend) as engine:
            await ask(engine, *TEXT, DOG, 8)
            assert (await ask(engine, *TEXT, CAT, 8))[1] == len(TEXT)
            assert (await ask(engine, *TEXT, DOG, CAT))[1] == len(TEXT) + 5
            assert (await ask(engine, *TEXT, DOG))[1] == len(TEXT), "its last row gives the logits"

    run(test)


def test_a_client_that_leaves_within_a_picture_leaves_no_part_of_it() -> None:
    long = picture(9, 100, is_causal=True)
    has_begun, may_go_on = threading.Event(), threading.Event()

    class Watched(FakeSeer):
        def decode(self, batch: Batch) -> None:
            super().decode(batch)
            if len(self.looks) == 3:
                has_begun.set()
                assert may_go_on.wait(60)

    backend = Watched(batch_size=8)

    async def test() -> None:
        async with running(backend) as engine:
            async with engine.generate([request_of(*TEXT, long, 8)]):
                await asyncio.to_thread(has_begun.wait)
            may_go_on.set()
            await settle(engine)
            assert len(backend.looks) == 3
            assert engine.stats.kv_used == backend.num_used == len(TEXT)
            assert (await ask(engine, *TEXT, long, 8, max_tokens=2))[1] == len(TEXT)

    run(test)


@pytest.mark.parametrize("is_causal", [False, True])
def test_a_stream_goes_on_between_any_two_steps_of_pictures(is_causal: bool) -> None:
    backend = FakeSeer(num_sequences=4, batch_size=16, num_cells=1000, context_length=200)
    stream = GenerationRequest([2, 3], 60)
    assert len(reference(stream.prompt, 60, 200)) == 60
    looks = [
        request_of(number, *(picture(10 * number + at, 16, is_causal=is_causal) for at in range(3)))
        for number in (1, 2, 3)
    ]

    async def test() -> None:
        async with running(backend) as engine:
            got = await collect(engine, stream, *looks)
            assert [e.token for e in got[0]] == reference(stream.prompt, 60, 200)

    run(test)
    kinds = backend.kinds
    last = max(at for at, (_, slots) in enumerate(kinds) if 0 in slots)
    streams = [is_picture for is_picture, _ in kinds[1 : last + 1]]
    assert sum(streams) >= 9, "all pictures were read meanwhile"
    assert not any(a and b for a, b in itertools.pairwise(streams))


def test_what_a_model_cannot_read_is_refused_before_it_waits() -> None:
    scored = GenerationParams(top_logprobs=0, score_prompt=True)
    narrow = Picture(b"", np.zeros((4, 1), np.float32))

    async def test() -> None:
        async with running(FakeSeer(batch_size=8)) as engine:
            for request, error, words in (
                (request_of(1, picture(1, 9), 2), InvalidRequest, "takes 9 tokens.* at most 8 "),
                (request_of(1, DOG, 2, params=scored), InvalidRequest, "leave out echo"),
                (request_of(1, narrow, 2), EngineFailed, "rows of 2 numbers.* gives 1"),
                (request_of(1, LARGE, 2), EngineFailed, "numbers a picture's rows otherwise"),
            ):
                with pytest.raises(error, match=words):
                    engine.generate([request])
            assert engine.num_waiting == 0

    run(test)


@pytest.mark.parametrize(
    "rows",
    [
        np.full((4, 2), np.nan, np.float32),
        np.zeros((0, 2), np.float32),
        np.zeros((4, 2), np.float64),
        np.zeros((4, 4), np.float32)[:, ::2],
        np.zeros(8, np.float32),
    ],
)
def test_rows_that_are_none_make_no_picture(rows: Any) -> None:
    with pytest.raises(EngineFailed, match="rows"):
        Picture(b"", rows)


def test_a_grid_must_have_all_rows() -> None:
    with pytest.raises(EngineFailed, match="became 5 rows"):
        picture(1, 5, grid=(2, 3))


def test_penalties_know_texts_only() -> None:
    params = SamplingParams(temperature=0, repetition_penalty=1.5)
    prompt, _ = with_pictures(7, *PICTURES, 8)
    rows = [np.linspace(1, 2, NUM_VOCAB, dtype=np.float32) for _ in range(2)]
    Penalties(params, prompt).apply(rows[0])
    Penalties(params, [7, 8]).apply(rows[1])
    assert (rows[0] == rows[1]).all()


def test_no_picture_is_drafted() -> None:
    prompt, _ = with_pictures(1, 2, 3, 4, DOG, 9, 1, 2, 3, 4)
    drafter = Drafter(prompt)
    assert not drafter.chances(8)
    drafter = Drafter(with_pictures(1, 2, 3, 4, 5, 6, DOG, 9, 1, 2, 3, 4)[0])
    assert len(drafter.chances(8)) == 2
    assert drafter.draft(2) == [5, 6]


def test_neither_a_draft_model_nor_its_cells_know_of_pictures() -> None:
    backend, drafter = FakeSeer(num_cells=1000), FakeDrafter(num_cells=1000)

    async def test() -> None:
        async with running(backend, drafter, prompt_lookup=False) as engine:
            seen = await ask(engine, 5, 6, DOG, 7, max_tokens=60)
            assert seen[0] == reference(with_pictures(5, 6, DOG, 7)[0], 60, 128)

    run(test)
    assert not drafter.batch_sizes


SHAPES: dict[str, Any] = {
    "any size": {"canonical_rows": 7},
    "fixed sizes": {"canonical_rows": 8, "least_rows": 4},
    "answers apart": {"canonical_rows": 8, "least_rows": 4, "canonical_decode_rows": 2},
    "alone, with states": {
        "canonical_rows": 8, "is_canonical_alone": True, "needs_states": True, "max_rollback": 0,
    },
}  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(PARTS, min_size=1, max_size=3), min_size=1, max_size=3),
    st.lists(VISITS, max_size=6),
    st.sampled_from(list(SHAPES)),
    st.sampled_from([0, 100_000]),
)
def test_seeded_answers_to_pictures_are_the_same_in_any_company(
    prompts: list[list[list[int | Picture]]], others: list[Visit], shape: str, max_offloaded: int
) -> None:
    seeded = GenerationParams(SamplingParams(seed=3, is_reproducible=True))
    requests = [
        request_of(*(part for parts in each for part in parts), max_tokens=12, params=seeded)
        for each in prompts
    ]
    options: dict[str, Any] = {
        "num_cells": 500, "batch_size": 32, "context_length": 128, "has_grid_positions": True,
        **SHAPES[shape],
    }  # fmt: skip

    async def test() -> None:
        alone = []
        for request in requests:
            async with running(FakeSeer(**options)) as engine:
                alone.append(await answer(engine, request))
        async with running(FakeSeer(**options), max_offloaded=max_offloaded) as engine:
            for _ in range(2):
                several = [*requests, *(visit.request for visit in others)]
                got = await asyncio.gather(*(answer(engine, request) for request in several))
                assert got[: len(alone)] == alone

    run(test)


@pytest.mark.parametrize("chunk", [3, 4, 8])
def test_canonical_states_are_saved_where_chunks_end_alike(chunk: int) -> None:
    request = request_of(*range(17), DOG, *range(9), LARGE, CAT, *range(30))
    last = {len(request.prompt), *(placed.end for placed in request.pictures)}
    saved = saved_positions(Sequence(request, 0), Match(), chunk)
    assert last - {len(request.prompt)} <= saved
    assert max(saved) > max(saved & last)
    assert all(ends_alike(request, at, chunk) for at in saved)
    reached, at = {0}, 0
    for stop in sorted(last | {placed.at for placed in request.pictures}):
        while at < stop:
            at = min(at + chunk, stop)
            reached.add(at)
    assert saved <= reached
