"""The engine over a scripted model whose answers depend on every cell it was given."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from fakes import END, FakeBackend, next_token, reference, running
from hypothesis import given, settings
from hypothesis import strategies as st

from localinfra.engine.engine import REST_AFTER_S, Engine
from localinfra.engine.request import (
    EngineSettings,
    FinishReason,
    GenerationParams,
    GenerationRequest,
    SamplingParams,
    TokenEvent,
)
from localinfra.engine.scheduler import Scheduler
from localinfra.engine.sequence import Sequence
from localinfra.errors import EngineFailed, ModelUnavailable, QueueFull

PROMPT = [1, 2, 3, 4, 5, 6, 7, 8]


async def collect(engine: Engine, *requests: GenerationRequest) -> list[list[TokenEvent]]:
    """All events, by choice."""
    async with engine.generate(list(requests)) as generation:
        choices: list[list[TokenEvent]] = [[] for _ in range(generation.num_choices)]
        async for events in generation:
            for event in events:
                choices[event.choice].append(event)
    return choices


def tokens(events: list[TokenEvent]) -> list[int]:
    return [event.token for event in events if event.token is not None]


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 20))


async def settle(engine: Engine) -> None:
    while engine.stats.num_running or engine.num_waiting:
        await asyncio.sleep(0.001)


def test_a_request_gives_what_the_model_says_until_max_tokens() -> None:
    async def test() -> None:
        async with running(FakeBackend()) as engine:
            [events] = await collect(engine, GenerationRequest(PROMPT, 5))
        assert tokens(events) == reference(PROMPT, 5, 128)
        assert [event.num_generated for event in events] == [1, 2, 3, 4, 5]
        assert events[-1].finish_reason is FinishReason.LENGTH

    run(test)


def test_an_end_token_ends_the_turn() -> None:
    prompt = next(p for i in range(99) if END in reference(p := [i, 3], 40, 128))

    async def test() -> None:
        async with running(FakeBackend()) as engine:
            [events] = await collect(engine, GenerationRequest(prompt, 40))
        assert events[-1].token == END and events[-1].is_end_token
        assert events[-1].finish_reason is FinishReason.STOP

    run(test)


def test_generation_ends_with_length_where_the_context_does() -> None:
    async def test() -> None:
        async with running(FakeBackend(context_length=12)) as engine:
            [events] = await collect(engine, GenerationRequest(PROMPT, 1000))
        assert len(PROMPT) + len(tokens(events)) == 12
        assert events[-1].finish_reason is FinishReason.LENGTH

    run(test)


def test_choices_share_one_computed_prompt_and_draw_from_their_own_streams() -> None:
    backend = FakeBackend(num_sequences=3, context_length=200)
    prompt = list(range(40)) + list(range(40))

    async def test() -> None:
        async with running(backend) as engine:
            choices = await collect(
                engine, GenerationRequest(prompt, 4, GenerationParams(num_choices=5))
            )
            assert [tokens(events) for events in choices] == [
                reference(prompt, 4, 200, stream) for stream in range(5)
            ]
            assert [events[0].num_cached for events in choices] == [0, 79, 79, 79, 79]
        # the prompt once, its last token again for each other choice, and what was drawn
        drawn = [len(tokens(events)) - 1 for events in choices]
        assert sum(backend.batch_sizes) == 80 + 4 + sum(drawn)

    run(test)


def test_requests_that_come_together_are_read_one_after_the_other() -> None:
    """And whoever comes later, beside streams that flow, is read in small chunks."""
    backend = FakeBackend(num_cells=4000, context_length=600, batch_size=512)

    def prompt(start: int) -> list[int]:
        return [(start + 7 * i) % 49 for i in range(150)]

    async def test() -> None:
        async with running(backend) as engine:
            await collect(engine, GenerationRequest(prompt(1), 1))  # shows what a token costs
            backend.batch_sizes.clear()
            await collect(engine, *(GenerationRequest(prompt(start), 9) for start in (2, 3, 4)))
            assert backend.batch_sizes[:3] == [150, 151, 152]

    run(test)


def test_a_later_request_reuses_the_longest_cached_prefix() -> None:
    async def test() -> None:
        async with running(FakeBackend()) as engine:
            await collect(engine, GenerationRequest(PROMPT, 3))
            [same] = await collect(engine, GenerationRequest(PROMPT, 3))
            [longer] = await collect(engine, GenerationRequest([*PROMPT, 9, 9], 3))
            [partial] = await collect(engine, GenerationRequest([1, 2, 3, 9], 3))
            [other] = await collect(engine, GenerationRequest([9, 2, 3], 3))
        assert same[0].num_cached == 7  # the last token is always computed: its logits are needed
        assert longer[0].num_cached == 8
        assert partial[0].num_cached == 3
        assert other[0].num_cached == 0
        assert tokens(partial) == reference([1, 2, 3, 9], 3, 128)

    run(test)


def test_what_leaves_the_cells_is_parked_and_comes_back() -> None:
    """Conversations that together need three times the cells, each with two turns."""
    backend = FakeBackend(num_cells=120, num_sequences=2, context_length=110)
    system = [i % 49 for i in range(40)]
    first = [system + [i] * 20 for i in range(10)]

    async def test() -> None:
        async with running(backend, max_parked=1 << 20) as engine:
            answers = [
                tokens((await collect(engine, GenerationRequest(prompt, 4)))[0]) for prompt in first
            ]
            assert [
                answer == reference(p, 4, 110) for p, answer in zip(first, answers, strict=True)
            ] == [True] * 10
            for prompt, answer in zip(first, answers, strict=True):
                second = [*prompt, *answer, 7, 7]
                [events] = await collect(engine, GenerationRequest(second, 3))
                assert events[0].num_cached >= len(prompt) + len(answer) - 1
                assert tokens(events) == reference(second, 3, 110)
        assert sum(backend.batch_sizes) < 60 + 9 * 20 + 10 * 20

    run(test)


def test_parked_prefixes_keep_to_their_room() -> None:
    backend = FakeBackend(num_cells=100, num_sequences=1, context_length=90)

    async def test() -> None:
        async with running(backend, max_parked=40 * 8) as engine:  # 8 bytes for one fake cell
            for start in (1, 2, 3, 4):
                await collect(engine, GenerationRequest([start] * 60, 1))
            hits = [
                (await collect(engine, GenerationRequest([start] * 60, 1)))[0][0].num_cached
                for start in (4, 3, 2, 1)
            ]
        assert hits[0] >= 59 and hits[-1] == 0

    run(test)


def test_prefixes_that_cannot_be_parked_are_computed_again() -> None:
    backend = FakeBackend(num_cells=100, num_sequences=1, context_length=90)
    backend.has_host_memory = False

    async def test() -> None:
        async with running(backend, max_parked=1 << 20) as engine:
            for start in (1, 2, 1):
                prompt = [start] * 60
                [events] = await collect(engine, GenerationRequest(prompt, 3))
                assert tokens(events) == reference(prompt, 3, 90)

    run(test)


def test_an_engine_without_requests_gives_its_threads_back_once() -> None:
    backend = FakeBackend()

    async def test() -> None:
        async with running(backend) as engine:
            await collect(engine, GenerationRequest(PROMPT, 3))
            while not backend.num_rests:
                await asyncio.sleep(0.01)
            await asyncio.sleep(3 * REST_AFTER_S)
            assert backend.num_rests == 1
            [events] = await collect(engine, GenerationRequest(PROMPT, 3))
            assert tokens(events) == reference(PROMPT, 3, 128)

    run(test)


def test_idle_cells_are_parked_while_others_run() -> None:
    backend = FakeBackend(num_cells=1300, context_length=900, idle_cells_slow_steps=True)
    long = [i % 49 for i in range(700)]

    async def test() -> None:
        async with running(backend, max_parked=1 << 20) as engine:
            start = next([i, 3] for i in range(99) if len(reference([i, 3], 60, 900)) == 60)
            both = [GenerationRequest(long, 1), GenerationRequest(start, 60)]
            await collect(engine, *both)
            assert 60 < backend.num_used < 700
            [events] = await collect(engine, GenerationRequest([*long, 2], 2))
            assert events[0].num_cached >= 700
            assert tokens(events) == reference([*long, 2], 2, 900)

    run(test)


def test_requests_that_come_together_wait_for_the_first_to_compute_their_prefix() -> None:
    backend = FakeBackend(num_sequences=4, batch_size=16)
    prefix = list(range(48))

    async def test() -> None:
        async with running(backend) as engine:
            requests = [GenerationRequest([*prefix, i, i], 2) for i in range(4)]
            choices = await collect(engine, *requests)
        assert [events[0].num_cached for events in choices] == [0, 48, 48, 48]
        assert sum(backend.batch_sizes) == 50 + 3 * 2 + 4

    run(test)


def test_models_without_partial_copies_compute_every_prompt() -> None:
    backend = FakeBackend(can_share_prefixes=False, num_sequences=2)

    async def test() -> None:
        async with running(backend) as engine:
            choices = await collect(
                engine, GenerationRequest(PROMPT, 4, GenerationParams(num_choices=3))
            )
            assert [tokens(c) for c in choices] == [reference(PROMPT, 4, 128, i) for i in range(3)]
            assert all(events[0].num_cached == 0 for events in choices)
            await settle(engine)
            assert backend.num_used == 0

    run(test)


def test_prompt_scores_have_one_entry_a_token_the_first_without_a_number() -> None:
    async def test() -> None:
        async with running(FakeBackend(max_output_rows=4)) as engine:
            for _ in range(2):  # the second time the prefix is cached, and scored all the same
                [events] = await collect(
                    engine,
                    GenerationRequest(
                        PROMPT, 2, GenerationParams(top_logprobs=1, score_prompt=True)
                    ),
                )
                scores = events[0].prompt_logprobs
                assert scores is not None and events[1].prompt_logprobs is None
                assert [score.token for score in scores] == PROMPT
                assert scores[0].logprob is None
                for position in range(1, 8):  # entry i comes from the logits at i - 1
                    best = next_token(PROMPT[:position])
                    assert [token for token, _ in scores[position].top] == [best]

    run(test)


@pytest.mark.parametrize("prompt", [[7], PROMPT])
def test_scoring_alone_draws_nothing(prompt: list[int]) -> None:
    async def test() -> None:
        async with running(FakeBackend()) as engine:
            request = GenerationRequest(
                prompt, 0, GenerationParams(top_logprobs=0, score_prompt=True)
            )
            [[event]] = await collect(engine, request)
        assert event.token is None and event.finish_reason is FinishReason.LENGTH
        assert event.prompt_logprobs is not None and len(event.prompt_logprobs) == len(prompt)

    run(test)


def test_a_failed_batch_fails_its_requests_and_the_next_one_works() -> None:
    backend = FakeBackend()

    async def test() -> None:
        async with running(backend) as engine:
            await collect(engine, GenerationRequest(PROMPT, 2))
            backend.broken = True
            with pytest.raises(EngineFailed):
                await collect(engine, GenerationRequest(PROMPT, 5), GenerationRequest([4], 5))
            [events] = await collect(engine, GenerationRequest(PROMPT, 5))
            assert tokens(events) == reference(PROMPT, 5, 128)
            assert events[0].num_cached == 0  # what the cache held is not trusted any more

    run(test)


def test_logits_that_are_not_finite_fail_one_request_alone() -> None:
    backend = FakeBackend(fails_after=20)
    short, long = [3, 3], list(range(30))

    async def test() -> None:
        async with running(backend) as engine:
            both = await asyncio.gather(
                collect(engine, GenerationRequest(short, 5)),
                collect(engine, GenerationRequest(long, 5, GenerationParams(num_choices=2))),
                return_exceptions=True,
            )
        assert not isinstance(both[0], BaseException)
        assert tokens(both[0][0]) == reference(short, 5, 128)
        assert isinstance(both[1], EngineFailed)

    run(test)


def test_a_stopped_choice_gives_up_its_place_while_others_go_on() -> None:
    backend = FakeBackend()

    async def test() -> None:
        async with running(backend) as engine:
            seen: dict[int, list[int]] = {0: [], 1: []}
            async with engine.generate(
                [GenerationRequest([3, 3], 60, GenerationParams(num_choices=2))]
            ) as generation:
                async for events in generation:
                    for event in events:
                        seen[event.choice].append(event.num_generated)
                        if event.choice == 0 and event.num_generated == 3:
                            generation.stop(0)
                            await asyncio.sleep(0)
            assert seen[0][:3] == [1, 2, 3]  # what was drawn already may still come
            assert len(seen[1]) == len(reference([3, 3], 60, 128, 1))
            await settle(engine)
            assert engine.stats.kv_used == backend.num_used

    run(test)


def test_too_many_waiting_choices_are_refused() -> None:
    async def test() -> None:
        async with running(FakeBackend(num_sequences=1), max_waiting=2) as engine:
            async with engine.generate(
                [GenerationRequest(PROMPT, 50, GenerationParams(num_choices=3))]
            ):
                with pytest.raises(QueueFull, match="max_queue"):
                    for _ in range(100):
                        engine.generate([GenerationRequest(PROMPT, 1)])
            await settle(engine)

    run(test)


def test_closing_answers_those_who_still_wait() -> None:
    async def test() -> None:
        backend = FakeBackend(num_sequences=1)
        async with running(backend) as engine:
            waits = [
                asyncio.create_task(collect(engine, GenerationRequest([i], 100))) for i in range(4)
            ]
            await asyncio.sleep(0)
            await asyncio.to_thread(engine.close)
            results = await asyncio.gather(*waits, return_exceptions=True)
            assert all(isinstance(result, ModelUnavailable | list) for result in results)
            with pytest.raises(ModelUnavailable):
                engine.generate([GenerationRequest([1], 1)])

    run(test)


@pytest.mark.parametrize("can_share", [True, False])
def test_scores_survive_being_sent_back(can_share: bool) -> None:
    """Decoding sequences outgrow the cells while a long prompt is scored a few rows at a time."""
    backend = FakeBackend(
        num_cells=200, num_sequences=3, batch_size=8, max_output_rows=4, context_length=190,
        can_share_prefixes=can_share,
    )  # fmt: skip
    prompt = [i % 49 for i in range(120)]
    starts = [[i, j] for i in range(40) for j in (1, 2) if len(reference([i, j], 70, 190)) > 60]

    async def test() -> None:
        async with running(backend) as engine:
            growing = [GenerationRequest(start, 70) for start in starts[:2]]
            scored = GenerationRequest(
                prompt, 1, GenerationParams(num_choices=2, top_logprobs=1, score_prompt=True)
            )
            choices = await collect(engine, *growing, scored)
        for events in choices[2:]:
            scores = events[0].prompt_logprobs or []
            assert [score.token for score in scores] == prompt
            assert [score.top[0][0] for score in scores[1:]] == [
                next_token(prompt[:size]) for size in range(1, len(prompt))
            ]

    run(test)


def test_every_choice_of_a_request_draws_from_its_own_stream() -> None:
    async def test() -> None:
        async with running(FakeBackend()) as engine:
            same = [GenerationRequest(PROMPT, 6, GenerationParams(num_choices=2)) for _ in range(2)]
            choices = await collect(engine, *same)
        expected = [reference(PROMPT, 6, 128, stream) for stream in range(4)]
        assert [tokens(events) for events in choices] == expected

    run(test)


def test_choices_run_together_though_their_prompt_fills_most_of_the_cells() -> None:
    backend = FakeBackend(num_cells=256, num_sequences=4, context_length=256)
    prompt = [i % 49 for i in range(150)]

    async def test() -> None:
        async with running(backend) as engine:
            await collect(engine, GenerationRequest(prompt, 15, GenerationParams(num_choices=4)))
        assert backend.most_together == 4

    run(test)


def test_right_guesses_save_steps_and_wrong_ones_leave_nothing_behind() -> None:
    """On a machine where a step takes the same time whatever its rows."""
    backend = FakeBackend(num_cells=400, context_length=300)
    scheduler = Scheduler(backend, EngineSettings())
    sequence = Sequence(
        GenerationRequest(PROMPT, 200, GenerationParams(SamplingParams(temperature=0))), 0
    )
    scheduler.add(sequence)
    num_steps = 0
    while sequence.num_generated < 200:
        step = scheduler.next_step()
        backend.decode(step.batch)
        scheduler.computed(step, 1.0)
        num_steps += 1
        [chunk] = step.chunks
        num_right = 0
        for row, guess in enumerate([*chunk.draft, None]):
            token = int(backend.logits(chunk.first_row + chunk.num_tokens - 1 + row).argmax())
            sequence.tokens.append(token)
            if token != guess:
                break
            num_right += 1
        scheduler.judged(chunk, num_right)
        assert backend.history(0) == sequence.tokens[: sequence.num_cached]
        assert scheduler.cache.num_used == backend.num_used
    tokens_alone = list(PROMPT)
    while len(tokens_alone) < len(sequence.tokens):
        tokens_alone.append(next_token(tokens_alone))
    assert sequence.tokens == tokens_alone
    assert num_steps < 170  # of 201 without guesses


requests = st.lists(
    st.tuples(
        st.integers(0, 2),  # which family of prompts
        st.integers(1, 40),  # how much of it
        st.lists(st.integers(0, 48), max_size=3),  # and an ending of its own
        st.integers(1, 30),  # max_tokens
        st.integers(1, 3),  # choices
        st.booleans(),  # scored
        st.integers(0, 12),  # leaves after so many events; 0 never
    ),
    min_size=1,
    max_size=14,
)
FAMILIES = [list(range(40)), [*range(20), *range(30, 48)], [5] * 40]


@settings(max_examples=100, deadline=None)
@given(
    requests,
    st.sampled_from([70, 90, 140, 400]),
    st.integers(1, 5),
    st.sampled_from([5, 8, 32]),
    st.booleans(),
    st.sampled_from([0, 400, 100_000]),
    st.booleans(),
)
def test_any_load_gives_each_request_what_it_gives_alone(
    load: list[tuple[int, int, list[int], int, int, bool, int]],
    num_cells: int,
    num_sequences: int,
    batch_size: int,
    can_share: bool,
    max_parked: int,
    tidies: bool,
) -> None:
    """Whatever is shared, parked, evicted, sent back or abandoned; and the cells are accounted
    for."""
    backend = FakeBackend(
        num_cells=num_cells, num_sequences=num_sequences, batch_size=batch_size,
        num_slots=num_sequences + 4, context_length=70, can_share_prefixes=can_share,
        idle_cells_slow_steps=tidies,
    )  # fmt: skip

    async def one(engine: Engine, spec: tuple[int, int, list[int], int, int, bool, int]) -> None:
        family, size, ending, max_tokens, num_choices, score, leaves_after = spec
        prompt = FAMILIES[family][:size] + ending
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
        async with running(backend, max_parked=max_parked) as engine:
            await asyncio.gather(*(one(engine, spec) for spec in load))
            await settle(engine)
            await asyncio.sleep(0.002)
            assert engine.stats.kv_used == backend.num_used

    run(test)
