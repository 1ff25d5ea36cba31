"""Prefixes are shared, offloaded and restored: less is computed, and the text is the same."""

import asyncio

import pytest
from fakes import FakeBackend, collect, reference, run, running, settle, tokens

from localinfra.engine.request import GenerationParams, GenerationRequest
from localinfra.errors import EngineFailed

PROMPT = [1, 2, 3, 4, 5, 6, 7, 8]


def test_choices_share_one_computed_prompt_and_have_their_own_random_streams() -> None:
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
        # the prompt once, its last token again for each other choice, and the sampled tokens
        drawn = [len(tokens(events)) - 1 for events in choices]
        assert sum(backend.batch_sizes) == 80 + 4 + sum(drawn)

    run(test)


def test_a_later_request_reuses_the_longest_cached_prefix() -> None:
    async def test() -> None:
        async with running(FakeBackend()) as engine:
            await collect(engine, GenerationRequest(PROMPT, 3))
            [same] = await collect(engine, GenerationRequest(PROMPT, 3))
            [longer] = await collect(engine, GenerationRequest([*PROMPT, 9, 9], 3))
            [partial] = await collect(engine, GenerationRequest([1, 2, 3, 9], 3))
            [other] = await collect(engine, GenerationRequest([9, 2, 3], 3))
        assert same[0].num_cached == 7  # the last token is always computed, for its logits
        assert longer[0].num_cached == 8
        assert partial[0].num_cached == 3
        assert other[0].num_cached == 0
        assert tokens(partial) == reference([1, 2, 3, 9], 3, 128)

    run(test)


def test_evicted_prefixes_are_offloaded_and_restored() -> None:
    """Conversations of two turns that together need three times the cells."""
    backend = FakeBackend(num_cells=120, num_sequences=2, context_length=110)
    system = [i % 49 for i in range(40)]
    first = [system + [i] * 20 for i in range(10)]

    async def test() -> None:
        async with running(backend, max_offloaded=1 << 20) as engine:
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


def test_offloaded_prefixes_are_restored_for_their_own_salt_alone() -> None:
    backend = FakeBackend(num_cells=120, num_sequences=2, context_length=110)
    prompts = [[i] * 60 for i in range(6)]  # most of them are offloaded in the end

    async def test() -> None:
        async with running(backend, max_offloaded=1 << 20) as engine:

            async def cached(prompt: list[int], salt: str) -> int:
                [events] = await collect(engine, GenerationRequest(prompt, 2, cache_salt=salt))
                return events[0].num_cached

            for salt in ("ours", "theirs"):
                assert [await cached(prompt, salt) for prompt in prompts] == [0] * 6
            for salt in ("ours", "theirs"):
                assert [await cached(prompt, salt) for prompt in prompts] == [59] * 6

    run(test)


def test_offloaded_prefixes_stay_within_their_limit() -> None:
    backend = FakeBackend(num_cells=100, num_sequences=1, context_length=90)

    async def test() -> None:
        async with running(backend, max_offloaded=40 * 8) as engine:  # 8 bytes per fake cell
            for start in (1, 2, 3, 4):
                await collect(engine, GenerationRequest([start] * 60, 1))
            hits = [
                (await collect(engine, GenerationRequest([start] * 60, 1)))[0][0].num_cached
                for start in (4, 3, 2, 1)
            ]
        assert hits[0] >= 59 and hits[-1] == 0

    run(test)


def test_a_lower_limit_holds_for_an_engine_with_nothing_to_do_and_after_a_failed_step() -> None:
    backend = FakeBackend(num_cells=100, num_sequences=1, context_length=90)

    async def test() -> None:
        async with running(backend, max_offloaded=1 << 20) as engine:
            for start in (1, 2, 3, 4):
                await collect(engine, GenerationRequest([start] * 60, 1))
            before = engine.offloaded_bytes
            engine.limit_offloaded(before - 1)
            while engine.offloaded_bytes >= before:
                await asyncio.sleep(0.001)
            assert engine.offloaded_bytes > 0
            engine.limit_offloaded(0)
            backend.broken = True
            with pytest.raises(EngineFailed):
                await collect(engine, GenerationRequest(PROMPT, 1))
            for start in (1, 2, 3, 4):
                prompt = [start] * 60
                [events] = await collect(engine, GenerationRequest(prompt, 3))
                assert tokens(events) == reference(prompt, 3, 90)
            assert engine.offloaded_bytes == 0

    run(test)


def test_prefixes_that_cannot_be_offloaded_are_recomputed() -> None:
    backend = FakeBackend(num_cells=100, num_sequences=1, context_length=90)
    backend.has_host_memory = False

    async def test() -> None:
        async with running(backend, max_offloaded=1 << 20) as engine:
            for start in (1, 2, 1):
                prompt = [start] * 60
                [events] = await collect(engine, GenerationRequest(prompt, 3))
                assert tokens(events) == reference(prompt, 3, 90)

    run(test)


def test_idle_cells_are_offloaded_while_others_run() -> None:
    backend = FakeBackend(num_cells=1300, context_length=900, idle_cells_slow_steps=True)
    long = [i % 49 for i in range(700)]

    async def test() -> None:
        async with running(backend, max_offloaded=1 << 20) as engine:
            start = next([i, 3] for i in range(99) if len(reference([i, 3], 60, 900)) == 60)
            both = [GenerationRequest(long, 1), GenerationRequest(start, 60)]
            await collect(engine, *both)
            assert 60 < backend.num_used < 700
            [events] = await collect(engine, GenerationRequest([*long, 2], 2))
            assert events[0].num_cached >= 700
            assert tokens(events) == reference([*long, 2], 2, 900)

    run(test)


def test_concurrent_requests_wait_for_the_first_to_compute_their_prefix() -> None:
    backend = FakeBackend(num_sequences=4, batch_size=16)
    prefix = list(range(48))

    async def test() -> None:
        async with running(backend) as engine:
            requests = [GenerationRequest([*prefix, i, i], 2) for i in range(4)]
            choices = await collect(engine, *requests)
        assert [events[0].num_cached for events in choices] == [0, 48, 48, 48]
        assert sum(backend.batch_sizes) == 50 + 3 * 2 + 4

    run(test)


def test_where_no_cells_are_shared_each_choice_has_its_own() -> None:
    """A prompt of which two copies fill the cells is computed once; the third choice waits."""
    backend = FakeBackend(num_cells=200, needs_states=True, max_rollback=0, shares_cells=False)
    prompt = [i % 49 for i in range(80)]

    async def test() -> None:
        async with running(backend, max_offloaded=1 << 20) as engine:
            request = GenerationRequest(prompt, 4, GenerationParams(num_choices=3))
            choices = await collect(engine, request)
            assert [tokens(c) for c in choices] == [reference(prompt, 4, 128, i) for i in range(3)]
            assert sum(backend.batch_sizes) < len(prompt) + 3 * 4 + 3
            await settle(engine)
            assert backend.num_used == engine.stats.kv_used == 0
        assert backend.most_together == 2

    run(test)
