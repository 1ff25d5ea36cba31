"""The engine over a scripted model whose answers depend on every cell."""

import asyncio
from typing import Any

import pytest
from fakes import (
    END,
    FakeBackend,
    collect,
    next_token,
    reference,
    run,
    running,
    settle,
    tokens,
)

from localinfra.engine.engine import REST_AFTER_S
from localinfra.engine.request import (
    EngineSettings,
    FinishReason,
    GenerationParams,
    GenerationRequest,
    SamplingParams,
)
from localinfra.engine.scheduler import Scheduler
from localinfra.engine.sequence import Sequence
from localinfra.errors import EngineFailed, ModelUnavailable, QueueFull

PROMPT = [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_request_gets_the_models_answer_up_to_max_tokens() -> None:
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


def test_a_full_context_ends_generation_with_length() -> None:
    async def test() -> None:
        async with running(FakeBackend(context_length=12)) as engine:
            [events] = await collect(engine, GenerationRequest(PROMPT, 1000))
        assert len(PROMPT) + len(tokens(events)) == 12
        assert events[-1].finish_reason is FinishReason.LENGTH

    run(test)


def test_prompts_that_arrive_together_are_prefilled_one_after_the_other() -> None:
    """And a later one, beside running streams, in small chunks."""
    backend = FakeBackend(num_cells=4000, context_length=600, batch_size=512)

    def prompt(start: int) -> list[int]:
        return [(start + 7 * i) % 49 for i in range(150)]

    async def test() -> None:
        async with running(backend) as engine:
            await collect(engine, GenerationRequest(prompt(1), 1))  # measures the cost of a token
            backend.batch_sizes.clear()
            await collect(engine, *(GenerationRequest(prompt(start), 9) for start in (2, 3, 4)))
            assert backend.batch_sizes[:3] == [150, 151, 152]

    run(test)


def test_an_idle_engine_rests_its_threads_once() -> None:
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


def test_prompt_scores_have_one_entry_per_token_the_first_without_a_logprob() -> None:
    async def test() -> None:
        async with running(FakeBackend(max_output_rows=4)) as engine:
            for _ in range(2):  # the second time the prefix is cached, but still scored
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
def test_scoring_alone_samples_nothing(prompt: list[int]) -> None:
    async def test() -> None:
        async with running(FakeBackend()) as engine:
            request = GenerationRequest(
                prompt, 0, GenerationParams(top_logprobs=0, score_prompt=True)
            )
            [[event]] = await collect(engine, request)
        assert event.token is None and event.finish_reason is FinishReason.LENGTH
        assert event.prompt_logprobs is not None and len(event.prompt_logprobs) == len(prompt)

    run(test)


def test_a_failed_batch_fails_its_requests_and_the_next_batch_works() -> None:
    backend = FakeBackend()

    async def test() -> None:
        async with running(backend) as engine:
            await collect(engine, GenerationRequest(PROMPT, 2))
            backend.broken = True
            with pytest.raises(EngineFailed):
                await collect(engine, GenerationRequest(PROMPT, 5), GenerationRequest([4], 5))
            [events] = await collect(engine, GenerationRequest(PROMPT, 5))
            assert tokens(events) == reference(PROMPT, 5, 128)
            assert events[0].num_cached == 0  # the cache is not trusted any more

    run(test)


def test_logits_that_are_not_finite_fail_only_one_request() -> None:
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


def test_a_stopped_choice_frees_its_slot_while_others_continue() -> None:
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
            assert seen[0][:3] == [1, 2, 3]  # tokens sampled before may still arrive
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


def test_closing_fails_waiting_requests() -> None:
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


@pytest.mark.parametrize("memory", [{}, {"needs_states": True, "max_rollback": 0}])
def test_scores_survive_preemption(memory: dict[str, Any]) -> None:
    """Decoding sequences outgrow the cells while a long prompt is scored a few rows at a time."""
    backend = FakeBackend(
        num_cells=200, num_sequences=3, batch_size=8, max_output_rows=4, context_length=190,
        **memory,
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


def test_every_choice_of_a_request_has_its_own_random_stream() -> None:
    async def test() -> None:
        async with running(FakeBackend()) as engine:
            same = [GenerationRequest(PROMPT, 6, GenerationParams(num_choices=2)) for _ in range(2)]
            choices = await collect(engine, *same)
        expected = [reference(PROMPT, 6, 128, stream) for stream in range(4)]
        assert [tokens(events) for events in choices] == expected

    run(test)


def test_choices_run_together_even_if_their_prompt_fills_most_of_the_cells() -> None:
    backend = FakeBackend(num_cells=256, num_sequences=4, context_length=256)
    prompt = [i % 49 for i in range(150)]

    async def test() -> None:
        async with running(backend, max_gap_ratio=1000) as engine:  # whatever steps take here
            await collect(engine, GenerationRequest(prompt, 25, GenerationParams(num_choices=4)))
        assert backend.most_together == 4

    run(test)


def test_accepted_drafts_save_steps_and_rejected_ones_leave_no_cells() -> None:
    """On a machine where every step takes the same time."""
    backend = FakeBackend(num_cells=400, context_length=300)
    scheduler = Scheduler(backend, EngineSettings())
    sequence = Sequence(
        GenerationRequest(PROMPT, 200, GenerationParams(SamplingParams(temperature=0))), 0
    )
    scheduler.add(sequence)
    num_steps = 0
    while sequence.num_generated < 200:
        step = scheduler.schedule()
        backend.decode(step.batch)
        scheduler.advance(step)
        scheduler.observe(step, 1.0)
        num_steps += 1
        [chunk] = step.chunks
        for row, guess in enumerate([*chunk.draft, None]):
            token = int(backend.logits(chunk.first_row + chunk.num_tokens - 1 + row).argmax())
            sequence.tokens.append(token)
            if token != guess:
                break
            chunk.num_right += 1
        scheduler.accept(chunk)
        assert backend.history(0) == sequence.tokens[: sequence.num_cached]
        assert scheduler.cache.num_used == backend.num_used
    tokens_alone = list(PROMPT)
    while len(tokens_alone) < len(sequence.tokens):
        tokens_alone.append(next_token(tokens_alone))
    assert sequence.tokens == tokens_alone
    assert num_steps < 170  # 201 without drafts
