"""Models that go on only where a state was saved share and keep prefixes all the same."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine.test_keeping import Server, close
from fakes import FakeBackend, collect, reference, run, running, settle, tokens
from numpy.typing import NDArray

from localinfra.engine import keeping
from localinfra.engine.borders import BEFORE_END, INTERVAL, saved_positions
from localinfra.engine.radix import Match
from localinfra.engine.request import GenerationParams, GenerationRequest, SamplingParams
from localinfra.engine.sequence import Sequence

CONTEXT = 6000
MIB = 1 << 20
PROMPT = [(7 * i) % 48 for i in range(100)]


def backend_of(**options: Any) -> FakeBackend:
    sizes = {"num_cells": 8000, "context_length": CONTEXT, "batch_size": 512}
    return FakeBackend(**{"needs_states": True, "max_rollback": 0, **sizes, **options})


async def ask(engine: Any, prompt: list[int], max_tokens: int = 20, **options: Any) -> list[int]:
    """Its tokens, after checking them. How many were cached is the first element."""
    [events] = await collect(engine, GenerationRequest(prompt, max_tokens, **options))
    assert tokens(events) == reference(prompt, max_tokens, CONTEXT)
    return [events[0].num_cached, *tokens(events)]


def test_the_next_turn_begins_after_the_last_answer() -> None:
    async def test() -> None:
        async with running(backend_of(), max_offloaded=MIB) as engine:
            _, *answer = await ask(engine, PROMPT)
            assert len(answer) == 20
            cached, *_ = await ask(engine, [*PROMPT, *answer, 5, 6, 7])
            assert cached == len(PROMPT) + 19  # the answer's last token was not computed

    run(test)


def test_a_next_turn_that_repeats_the_prompt_alone_begins_near_its_end() -> None:
    """As where the template leaves out the reasoning of earlier answers."""

    async def test() -> None:
        async with running(backend_of(), max_offloaded=MIB) as engine:
            await ask(engine, PROMPT)
            cached, *_ = await ask(engine, [*PROMPT[:-3], 5, 6, 7])
            assert cached == len(PROMPT) - BEFORE_END

    run(test)


def test_a_prompt_that_differs_in_its_last_message_begins_there() -> None:
    async def test() -> None:
        async with running(backend_of(), max_offloaded=MIB) as engine:
            await ask(engine, PROMPT, border=60)
            cached, *_ = await ask(engine, [*PROMPT[:60], *[3] * 50], border=60)
            assert cached == 60

    run(test)


def test_the_third_prompt_begins_where_the_second_left_the_first() -> None:
    async def test() -> None:
        async with running(backend_of(), max_offloaded=MIB) as engine:
            seen = [(await ask(engine, [*PROMPT[:80], *[last] * 40]))[0] for last in (1, 2, 3)]
            assert seen == [0, 0, 80]

    run(test)


def test_a_short_message_after_a_known_answer_is_read_in_one_step() -> None:
    backend = backend_of()

    async def test() -> None:
        async with running(backend, max_offloaded=MIB) as engine:
            _, *answer = await ask(engine, PROMPT, 16, border=60)
            history = [*PROMPT, *answer]
            prompt = [*history, *[7] * 40]
            backend.batch_sizes.clear()
            cached, *_ = await ask(engine, prompt, 1, border=len(history) + 1)
            assert cached == len(history) - 1  # the last token was never computed
            assert backend.batch_sizes == [41]

    run(test)


def test_where_answers_come_back_in_other_words_the_next_turn_goes_on_from_before_them() -> None:
    """As with templates that leave out what was thought."""

    async def test() -> None:
        async with running(backend_of(), max_offloaded=MIB) as engine:
            history = PROMPT[:40]
            for turn in range(4):
                border = len(history)
                prompt = [*history, *[turn] * 20, 44, 44, 44]
                cached, *_ = await ask(engine, prompt, 16, border=border)
                assert cached >= border - 46, turn  # the turn before, but for its end
                history = [*prompt[:-3], *[30 + turn] * 20]

    run(test)


def test_a_long_prompt_has_states_on_its_way() -> None:
    long = [(i * i) % 47 for i in range(2 * INTERVAL + 900)]

    async def test() -> None:
        async with running(backend_of(), max_offloaded=8 * MIB) as engine:
            await ask(engine, long, 1)
            cached, *_ = await ask(engine, [*long[: INTERVAL + 100], 1], 1)
            assert cached == INTERVAL

    run(test)


@pytest.mark.parametrize("chunk", [0, 64])
def test_states_with_all_cells_take_a_few_times_what_a_long_prompt_takes(chunk: int) -> None:
    """And not as many times as there are states without them."""
    sequence = Sequence(GenerationRequest([5] * (40 * INTERVAL), 1), 0)
    whole = saved_positions(sequence, Match(), chunk, is_whole=True)
    others = saved_positions(sequence, Match(), chunk)
    assert max(whole) == max(others) and len(others) >= 40 and len(whole) >= 5
    assert sum(whole) <= 3 * sequence.num_prompt
    assert all(any(at <= 2 * before for before in whole) for at in whole - {min(whole)})


def test_choices_compute_their_prompt_once() -> None:
    backend = backend_of()

    async def test() -> None:
        async with running(backend, max_offloaded=MIB) as engine:
            params = GenerationParams(num_choices=4)
            choices = await collect(engine, GenerationRequest(PROMPT, 4, params))
            assert [tokens(c) for c in choices] == [
                reference(PROMPT, 4, CONTEXT, i) for i in range(4)
            ]
            assert [events[0].num_cached for events in choices] == [0, 99, 99, 99]
        drawn = [len(tokens(events)) - 1 for events in choices]
        assert sum(backend.batch_sizes) == len(PROMPT) + 3 + sum(drawn)

    run(test)


def test_prompts_that_come_together_wait_for_what_they_share() -> None:
    backend = backend_of(batch_size=16)

    async def test() -> None:
        async with running(backend, max_offloaded=MIB) as engine:
            requests = [GenerationRequest([*PROMPT[:48], *[i] * 30], 2) for i in range(4)]
            choices = await collect(engine, *requests)
        assert [events[0].num_cached for events in choices] == [0, 48, 48, 48]

    run(test)


def test_choices_with_a_seed_share_whole_chunks_of_their_prompt() -> None:
    shape = {"canonical_rows": 20, "canonical_decode_rows": 1, "is_canonical_alone": True}
    params = GenerationParams(SamplingParams(is_reproducible=True), num_choices=3)

    async def test() -> None:
        async with running(backend_of(**shape), max_offloaded=MIB) as engine:
            choices = await collect(engine, GenerationRequest(PROMPT, 8, params))
            again = await collect(engine, GenerationRequest(PROMPT, 8, params))
        async with running(backend_of(**shape)) as engine:  # without room for states
            alone = await collect(engine, GenerationRequest(PROMPT, 8, params))
        assert [events[0].num_cached for events in choices] == [0, 80, 80]
        assert [events[0].num_cached for events in again] == [80, 80, 80]
        assert [events[0].num_cached for events in alone] == [0, 0, 0]
        said = [[tokens(events) for events in each] for each in (choices, again, alone)]
        assert said[0] == said[1] == said[2]

    run(test)


def test_a_seeded_text_does_not_go_on_from_a_state_of_an_unseeded_one() -> None:
    """Even where they share cells that were computed for a seed."""
    shape = {"canonical_rows": 20, "canonical_decode_rows": 1, "is_canonical_alone": True}
    params = GenerationParams(SamplingParams(is_reproducible=True))

    async def test() -> None:
        said = []
        last = GenerationRequest([*PROMPT[:45], *[3] * 20], 8, params)
        async with running(backend_of(**shape), max_offloaded=MIB) as engine:
            await collect(engine, GenerationRequest(PROMPT, 1, params))
            await collect(engine, GenerationRequest([*PROMPT[:50], *[4] * 20], 1, border=40))
            said.append(tokens((await collect(engine, last))[0]))
        async with running(backend_of(**shape)) as engine:
            said.append(tokens((await collect(engine, last))[0]))
        assert said[0] == said[1]

    run(test)


@pytest.mark.parametrize("num_slots", [6, 64])
def test_evicted_conversations_come_back_with_their_states(num_slots: int) -> None:
    """Ten of them, together three times the cells."""
    backend = backend_of(num_cells=400, num_sequences=2, context_length=350, num_slots=num_slots)

    async def test() -> None:
        async with running(backend, max_offloaded=MIB) as engine:
            prompts = [[i, *PROMPT] for i in range(10)]
            answers = [(await collect(engine, GenerationRequest(p, 8)))[0] for p in prompts]
            for prompt, answer in zip(prompts, answers, strict=True):
                [events] = await collect(
                    engine, GenerationRequest([*prompt, *tokens(answer), 5, 6], 2)
                )
                assert events[0].num_cached >= len(prompt) - BEFORE_END
            await settle(engine)
            assert engine.stats.kv_used == backend.num_used

    run(test)


def test_the_states_that_save_least_leave_first() -> None:
    """There is room for two of three states, and for the cells."""

    async def test() -> None:
        long = [(3 * i) % 47 for i in range(1000)]
        async with running(backend_of(), max_offloaded=2 * 16 * 1030) as engine:
            await ask(engine, long, 20, border=500)  # at 500, 994 and 1019
            cached, *_ = await ask(engine, [*long[:990], 5, 6], 1)
            assert cached == 500

    run(test)


def test_a_state_larger_than_all_of_the_room_drives_no_other_away() -> None:
    async def test() -> None:
        long = [(3 * i) % 47 for i in range(1000)]
        async with running(backend_of(), max_offloaded=16 * 400) as engine:
            await ask(engine, PROMPT)
            await ask(engine, long, 1)
            cached, *_ = await ask(engine, [*PROMPT[:-3], 5, 6, 7])
            assert cached == len(PROMPT) - BEFORE_END

    run(test)


def test_what_turned_out_to_be_too_large_is_not_copied_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backend = backend_of(shares_cells=False)
    num_copied = 0
    save_state = backend.save_state

    def counted(slot: int) -> NDArray[np.uint8]:
        nonlocal num_copied
        num_copied += 1
        return save_state(slot)

    monkeypatch.setattr(backend, "save_state", counted)

    async def test() -> None:
        async with running(backend, max_offloaded=900) as engine:  # of 16 bytes for each token
            for turn in range(5):
                await ask(engine, [turn, *PROMPT])
            assert num_copied == 1
            await ask(engine, PROMPT[:30], 1)  # shorter ones fit
            cached, *_ = await ask(engine, PROMPT[:45])
            assert cached > 0

    run(test)


def test_without_room_for_states_every_prompt_is_computed() -> None:
    async def test() -> None:
        async with running(backend_of()) as engine:
            assert [(await ask(engine, PROMPT))[0] for _ in range(2)] == [0, 0]

    run(test)


@pytest.mark.parametrize("disk_bytes", [0, 64 * MIB])
def test_states_outlive_their_engine(disk_bytes: int, tmp_path: Path) -> None:
    server = Server(tmp_path, disk_bytes, needs_states=True, max_rollback=0)
    prompt = PROMPT + PROMPT

    async def test() -> None:
        engine = server.engine()
        assert await server.ask(engine, prompt) == 0
        await close(engine)
        server.shelves.close(10)
        after = Server(tmp_path, disk_bytes, **server.options) if disk_bytes else server
        engine = after.engine()
        assert await after.ask(engine, [*prompt, 5, 6]) == len(prompt) - BEFORE_END
        await close(engine)

    run(test)


def test_a_state_is_written_with_the_prefix_that_it_belongs_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "REST_S", 0.0)
    server = Server(tmp_path, 64 * MIB, needs_states=True, max_rollback=0)

    async def test() -> None:
        engine = server.engine()
        await server.ask(engine, PROMPT + PROMPT)
        await server.written(engine)
        spans = Server(tmp_path, 64 * MIB).shelf.take()
        states = [span for span in spans if not span.cells.tokens]
        assert [span.cells.start for span in states] == [2 * len(PROMPT) - BEFORE_END]
        assert states[0].parent in [span.cells for span in spans]
        await close(engine)

    run(test)
