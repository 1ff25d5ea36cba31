"""What names a seed, or is scored, gets the same bits whatever runs beside it and is cached: over a
fake that rounds as kernels do."""

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import pytest
from fakes import FakeBackend, next_token, reference, running
from hypothesis import given, settings
from hypothesis import strategies as st

from localinfra.engine import canonical
from localinfra.engine.engine import Engine
from localinfra.engine.policy.speculation import Speculator
from localinfra.engine.request import (
    GenerationParams,
    GenerationRequest,
    SamplingParams,
    TokenEvent,
)

SEEDED = GenerationParams(SamplingParams(is_reproducible=True))
CONTEXT = 100


async def events_of(engine: Engine, request: GenerationRequest) -> list[list[TokenEvent]]:
    choices: list[list[TokenEvent]] = [[] for _ in range(request.params.num_choices)]
    async with engine.generate([request]) as generation:
        async for events in generation:
            for event in events:
                choices[event.choice].append(event)
    return choices


def texts(choices: list[list[TokenEvent]]) -> list[list[int | None]]:
    return [[event.token for event in events] for events in choices]


def expected(prompt: list[int], max_tokens: int, num_choices: int = 1) -> list[list[int]]:
    return [reference(prompt, max_tokens, CONTEXT, stream) for stream in range(num_choices)]


class Shape(NamedTuple):
    """Of steps that round alike."""

    canonical_rows: int
    least_rows: int = 1
    canonical_decode_rows: int = 0
    is_canonical_alone: bool = False


@pytest.mark.parametrize(("least_rows", "single_row_threads"), [(1, 1), (1, 2), (2, 2), (4, 2)])
@pytest.mark.parametrize("size", [1, 2, 7, 8, 9, 15, 40])
def test_alone_a_seeded_text_is_the_canonical_one(
    size: int, least_rows: int, single_row_threads: int
) -> None:
    prompt = [(7 * i) % 48 for i in range(size)]
    backend = FakeBackend(
        canonical_rows=8, least_rows=least_rows, single_row_threads=single_row_threads
    )

    async def test() -> None:
        async with running(backend) as engine:
            got = await events_of(engine, GenerationRequest(prompt, 30, SEEDED))
            assert texts(got) == expected(prompt, 30)
        assert max(backend.batch_sizes) <= 8
        assert min(backend.batch_sizes) == least_rows

    asyncio.run(test())


def test_an_unseeded_text_is_computed_as_fast_as_can_be_and_its_prefix_is_not_reused() -> None:
    prompt = [(7 * i) % 48 for i in range(30)]
    backend = FakeBackend(canonical_rows=7)

    async def test() -> None:
        async with running(backend) as engine:
            await events_of(engine, GenerationRequest(prompt, 1))
            assert backend.batch_sizes == [30]
            [first] = await events_of(engine, GenerationRequest(prompt, 5, SEEDED))
            [again] = await events_of(engine, GenerationRequest(prompt, 5, SEEDED))
            [plain] = await events_of(engine, GenerationRequest(prompt, 5))
            assert [first[0].num_cached, again[0].num_cached] == [0, 29]
            assert plain[0].num_cached == 29  # what is canonical is good enough for everyone
            assert texts([first, again]) == expected(prompt, 5) * 2

    asyncio.run(test())


def test_prefixes_are_shared_among_requests_of_one_salt_alone() -> None:
    prompt = list(range(30))

    async def test() -> None:
        async with running(FakeBackend(num_cells=400)) as engine:
            seen = []
            for salt in ("a", "b", "a", "", "b"):
                request = GenerationRequest(prompt, 2, cache_salt=salt)
                [events] = await events_of(engine, request)
                seen.append(events[0].num_cached)
            assert seen == [0, 0, 29, 0, 29]

    asyncio.run(test())


def test_nobody_waits_for_a_prefix_that_another_salt_computes() -> None:
    backend = FakeBackend(num_cells=400, batch_size=8)

    async def test() -> None:
        async with running(backend) as engine:
            requests = [GenerationRequest(list(range(40)), 2, cache_salt=salt) for salt in "ab"]
            got = await asyncio.gather(*(events_of(engine, request) for request in requests))
            assert [choices[0][0].num_cached for choices in got] == [0, 0]

    asyncio.run(test())


class Load(msgspec.Struct):
    """One request, and how it behaves."""

    family: int
    size: int
    ending: list[int]
    max_tokens: int
    num_choices: int
    is_seeded: bool
    is_scored: bool
    salt: str
    starts_after: int  # turns of the event loop
    leaves_after: int  # events; 0 never


STATES: dict[str, Any] = {"needs_states": True, "max_rollback": 0}
ALONE = Shape(20, canonical_decode_rows=1, is_canonical_alone=True)
SHAPES = [
    *(Shape(3), Shape(7, 2), Shape(20), Shape(4, 4), Shape(16, 16)),
    *(Shape(24, 8, 3), Shape(16, 8, 1), Shape(16, 8, 2)),
    ALONE,
]
APART: dict[str, Any] = {
    "canonical_rows": 24,
    "least_rows": 8,
    "canonical_decode_rows": 3,
    "context_length": CONTEXT,
}
FAMILIES = [list(range(40)), [*range(20), *range(30, 48)], [5] * 40, [3, 4] * 20]


def request_of(spec: Load) -> GenerationRequest:
    params = GenerationParams(
        SamplingParams(is_reproducible=spec.is_seeded), spec.num_choices,
        top_logprobs=1 if spec.is_scored else None, score_prompt=spec.is_scored,
    )  # fmt: skip
    prompt = FAMILIES[spec.family][: spec.size] + spec.ending
    return GenerationRequest(prompt, spec.max_tokens, params, cache_salt=spec.salt)


def check_scores(request: GenerationRequest, choices: list[list[TokenEvent]]) -> None:
    """The likeliest token of each place is what would be sampled there."""
    for events in choices:
        scores = events[0].prompt_logprobs
        assert scores is not None
        assert [score.top[0][0] for score in scores[1:]] == [
            next_token(request.prompt[:size]) for size in range(1, len(request.prompt))
        ]


def scores(choices: list[list[TokenEvent]]) -> list[object]:
    return [events[0].prompt_logprobs for events in choices]


loads = st.builds(
    Load,
    st.integers(0, 3),
    st.integers(1, 40),
    st.lists(st.integers(0, 48), max_size=3),
    st.integers(1, 30),
    st.integers(1, 3),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["", "", "a"]),
    st.integers(0, 20),
    st.integers(0, 12),
)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(loads, min_size=1, max_size=12),
    st.sampled_from([104, 140, 400]),
    st.integers(1, 5),
    st.sampled_from(SHAPES),
    st.sampled_from([1, 2]),
    st.sampled_from([2, 4]),
    st.sampled_from([0, 400, 100_000]),
    st.sampled_from(["shared", "states", "whole"]),
    st.booleans(),
)
def test_seeded_texts_are_the_same_in_any_company(
    load: list[Load],
    num_cells: int,
    num_sequences: int,
    shape: Shape,
    single_row_threads: int,
    max_threads: int,
    max_offloaded: int,
    memory: str,
    tidies: bool,
) -> None:
    if memory == "shared" and shape.is_canonical_alone:
        memory = "states"

    def backend_of(**options: Any) -> FakeBackend:
        return FakeBackend(
            batch_size=32, context_length=CONTEXT,
            needs_states=memory != "shared", shares_cells=memory != "whole",
            max_rollback=CONTEXT if memory == "shared" else 0,
            single_row_threads=single_row_threads, max_threads=max_threads,
            idle_cells_slow_steps=tidies,
            **shape._asdict(), **options,
        )  # fmt: skip

    async def check(spec: Load, choices: list[list[TokenEvent]]) -> None:
        request = request_of(spec)
        if not shape.canonical_decode_rows:
            assert texts(choices) == expected(request.prompt, spec.max_tokens, spec.num_choices)
        else:
            async with running(backend_of()) as engine:
                alone = await events_of(engine, request)
            assert texts(choices) == texts(alone)
            assert scores(choices) == scores(alone)
        if spec.is_scored and not shape.is_canonical_alone:
            check_scores(request, choices)

    async def one(engine: Engine, spec: Load) -> None:
        for _ in range(spec.starts_after):
            await asyncio.sleep(0)
        request = request_of(spec)
        choices: list[list[TokenEvent]] = [[] for _ in range(spec.num_choices)]
        async with engine.generate([request]) as generation:
            count = 0
            async for events in generation:
                for event in events:
                    choices[event.choice].append(event)
                count += 1
                if count == spec.leaves_after:
                    return
        if spec.is_seeded or spec.is_scored:
            await check(spec, choices)

    async def test() -> None:
        backend = backend_of(
            num_cells=num_cells, num_sequences=num_sequences, num_slots=num_sequences + 4
        )
        async with running(backend, max_offloaded=max_offloaded) as engine:
            await asyncio.gather(*(one(engine, spec) for spec in load))

    asyncio.run(asyncio.wait_for(test(), 600))


def test_an_answer_computed_apart_is_read_anew_by_the_next_turn() -> None:
    """A prompt's tokens have other shapes, so that its text would depend on what was cached."""
    prompt = list(range(30))

    async def test() -> None:
        async with running(FakeBackend(num_cells=400, **APART)) as engine:
            [answer] = await events_of(engine, GenerationRequest(prompt, 20, SEEDED))
            longer = prompt + [event.token for event in answer if event.token is not None]
            [after] = await events_of(engine, GenerationRequest(longer, 20, SEEDED))
            assert after[0].num_cached == len(prompt)
        async with running(FakeBackend(num_cells=400, **APART)) as engine:
            assert texts([after]) == texts(
                await events_of(engine, GenerationRequest(longer, 20, SEEDED))
            )

    asyncio.run(test())


@pytest.mark.parametrize("memory", [{}, STATES])
def test_a_text_computed_apart_is_the_same_after_it_had_to_make_way(memory: dict[str, Any]) -> None:
    requests = [GenerationRequest([i, *range(10)], 89, SEEDED) for i in range(8)]

    async def test() -> None:
        backend = FakeBackend(num_cells=400, **memory, **APART)
        async with running(backend) as engine:
            alone = [texts(await events_of(engine, request)) for request in requests]
        backend = FakeBackend(num_cells=160, **memory, **APART)
        async with running(backend) as engine:
            together = await asyncio.gather(*(events_of(engine, request) for request in requests))
        assert [texts(choices) for choices in together] == alone

    asyncio.run(test())


def test_who_decodes_apart_and_who_does_not_take_turns() -> None:
    """Seven texts with a seed, in threes, and others: nobody waits for more than its turn."""

    async def test() -> None:
        backend = FakeBackend(num_cells=2000, num_sequences=12, **APART)
        async with running(backend) as engine:
            seeded = [GenerationRequest([i], 40, SEEDED) for i in range(7)]
            plain = [GenerationRequest([10 + i], 40) for i in range(4)]
            async with engine.generate(seeded + plain) as generation:  # all arrive at once
                async for _ in generation:
                    pass
        assert backend.batch_sizes[1:21] == [3, 3, 3, 4] * 5

    asyncio.run(test())


def test_those_that_stand_alone_take_turns_with_all_others() -> None:
    async def test() -> None:
        backend = FakeBackend(num_cells=400, context_length=CONTEXT, **STATES, **ALONE._asdict())
        async with running(backend) as engine:
            seeded = [GenerationRequest([i], 40, SEEDED) for i in range(2)]
            plain = [GenerationRequest([10 + i], 40) for i in range(2)]
            async with engine.generate(seeded + plain) as generation:
                async for _ in generation:
                    pass
        assert backend.batch_sizes[:21] == [1, 1, 2] * 7

    asyncio.run(test())


@pytest.mark.parametrize(
    ("shape", "size_of_one"), [(Shape(20), 1), (Shape(20, 2), 2), (Shape(24, 8, 3), 1)]
)
def test_guesses_are_weighed_by_the_rows_that_are_computed(
    shape: Shape, size_of_one: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that is filled up has room for guesses; one that decodes apart pays for each."""
    sizes: set[int] = set()

    drafted = Speculator.sizes

    def spy(
        self: Speculator,
        chances: list[list[float]],
        limit: int,
        cost: Callable[[int], float],
        size_of: Callable[[int], int],
        work: list[float],
    ) -> list[int]:
        sizes.add(size_of(1))
        return drafted(self, chances, limit, cost, size_of, work)

    monkeypatch.setattr(Speculator, "sizes", spy)

    async def test() -> None:
        async with running(FakeBackend(context_length=CONTEXT, **shape._asdict())) as engine:
            await events_of(engine, GenerationRequest([3, 4] * 10, 20, SEEDED))

    asyncio.run(test())
    assert sizes == {size_of_one}


def test_a_broken_order_of_cells_is_mended_and_what_was_idle_comes_back() -> None:
    """Cells freed below a seeded text that runs would hold its next tokens."""
    backend = FakeBackend(num_cells=130, canonical_rows=20, num_sequences=2, context_length=CONTEXT)
    first, second = list(range(40)), list(range(1, 41))

    async def test() -> None:
        async with running(backend, max_offloaded=100_000) as engine:
            await events_of(engine, GenerationRequest(first, 2))
            request = GenerationRequest(second, 40, SEEDED)
            others = [GenerationRequest([i, *range(20)], 4) for i in range(8)]
            got, *_ = await asyncio.gather(*(events_of(engine, r) for r in [request, *others]))
            assert texts(got) == expected(second, 40)
            assert backend.num_relaid > 0
            assert (await events_of(engine, GenerationRequest(first, 2)))[0][0].num_cached == 39

    asyncio.run(test())


@pytest.mark.parametrize(
    ("sizes", "is_large"), [([60], True), ([15], False), ([15] * 3, False), ([15] * 4, True)]
)
def test_prompts_of_greedy_requests_are_shaped_while_that_costs_little(
    monkeypatch: pytest.MonkeyPatch, sizes: list[int], is_large: bool
) -> None:
    """A long one is read in large chunks to its end, and so are short ones that are many."""
    monkeypatch.setattr(canonical, "SHORT_PROMPT", 20)
    monkeypatch.setattr(canonical, "SHORT_PROMPTS", 50)
    backend = FakeBackend(canonical_rows=8, num_sequences=8, num_cells=600)
    greedy = GenerationParams(SamplingParams(temperature=0))

    async def test() -> None:
        async with running(backend, prompt_lookup=False) as engine:
            prompts = [[(i * 7 + at) % 48 for at in range(n)] for i, n in enumerate(sizes)]
            requests = [GenerationRequest(prompt, 1, greedy) for prompt in prompts]
            async with engine.generate(requests) as generation:
                async for _ in generation:
                    pass
        assert (max(backend.batch_sizes) > 8) == is_large
        assert sizes != [60] or min(backend.batch_sizes) > 8

    asyncio.run(test())
