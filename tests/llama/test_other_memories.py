"""Conversations with models whose memory is of a kind of its own: no turn is read twice."""

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from llama.test_tiny_models import GREEDY
from models.tiny_gguf import TinyModel, tiny_gemma3, tiny_llama, tiny_mamba
from models.tiny_hybrids import tiny_lfm2
from models.tiny_others import OTHERS, tiny_llama4, tiny_plamo2
from msgspec.structs import replace
from numpy.typing import NDArray

from localinfra.engine.backend import Batch
from localinfra.engine.borders import BEFORE_END, MIN_GAP
from localinfra.engine.engine import Engine
from localinfra.engine.request import EngineSettings, GenerationRequest
from localinfra.footprint import CPU
from localinfra.llama.context import LlamaContext
from localinfra.llama.model import Model, ModelSettings, NoContext
from localinfra.llama.settings import ContextSettings
from localinfra.models.entries import TextModelEntry
from localinfra.models.gguf.reader import read_header
from localinfra.models.sources import PathSource
from localinfra.text import placing
from localinfra.text.placing import TextPlan, place, plan_text
from localinfra.text.sizing import sized

# Sums of 32 bits: near-ties of random weights are too rare for a few hundred tokens.
SETTINGS = ContextSettings(
    context_length=400, num_cells=1024, num_sequences=3, batch_size=64, threads=1, kv_type="f32",
    flash_attention=False,
)  # fmt: skip
PROMPT = [40 + (i * i) % 150 for i in range(150)]


SEPARATE = replace(SETTINGS, separate_caches=True, num_cells=4 * 400)


def opened(model: Model, settings: ContextSettings = SETTINGS) -> Engine:
    return Engine(LlamaContext(model, settings), EngineSettings(max_offloaded=64 << 20))


async def ask(engine: Engine, prompt: list[int], length: int = 20) -> tuple[int, list[int]]:
    """How many of the prompt's tokens were there already, and the answer."""
    async with engine.generate([GenerationRequest(prompt, length, GREEDY)]) as generation:
        events = [event async for some in generation for event in some]
    return events[0].num_cached, [event.token for event in events if event.token is not None]


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        *((make, SETTINGS) for make in OTHERS),
        *((make, SEPARATE) for make in (tiny_llama, tiny_gemma3, tiny_mamba, tiny_lfm2, *OTHERS)),
    ],
)
def test_a_turn_begins_where_the_last_answer_ended(
    tmp_path: Path, make: Callable[[], TinyModel], settings: ContextSettings
) -> None:
    model = Model(make().write(tmp_path / "tiny.gguf"), ModelSettings())
    has_states = model.has_state or settings.separate_caches

    async def run() -> None:
        engine, turns, prompt, computed = opened(model, settings), [], PROMPT, 0
        for _ in range(3):
            cached, answer = await ask(engine, prompt)
            assert cached == computed
            # The last token of an answer is not computed before the next turn. After a short one,
            # that begins before it.
            is_long = len(answer) > MIN_GAP or not has_states
            computed = len(prompt) + (len(answer) - 1 if is_long else -BEFORE_END)
            turns.append((prompt, answer))
            prompt = [*prompt, *answer, *range(50, 60)]
        last, _ = turns[-1]
        prompts = [[*last, *range(start, start + 9)] for start in (70, 80, 90)]
        several = await asyncio.gather(*(ask(engine, each) for each in prompts))
        assert min(known for known, _ in several) >= cached
        turns += [(prompt, answer) for prompt, (_, answer) in zip(prompts, several, strict=True)]
        await asyncio.to_thread(engine.close)
        for prompt, answer in turns:
            engine = opened(model, settings)
            assert await ask(engine, prompt) == (0, answer)
            await asyncio.to_thread(engine.close)

    asyncio.run(run())


@pytest.mark.parametrize("make", OTHERS)
def test_logits_in_company_are_those_of_a_sequence_alone(
    tmp_path: Path, make: Callable[[], TinyModel]
) -> None:
    path = make().write(tmp_path / "tiny.gguf")
    entry = TextModelEntry(source=PathSource(path), sequences=3, threads=1, context_length=400)
    found = sized(entry, read_header(path), 1 << 30, [])
    settings = replace(found, batch_size=64, kv_type="f32", flash_attention=False)
    context = LlamaContext(Model(path, ModelSettings()), settings)
    chance = random.Random(3)
    texts = [[chance.randrange(40, 190) for _ in range(90)] for _ in range(3)]

    def logits(slots: list[int], sizes: list[int]) -> dict[tuple[int, int], NDArray[np.float32]]:
        """Of each slot's tokens. `sizes` are those that it gets in a step."""
        rows: dict[tuple[int, int], NDArray[np.float32]] = {}
        at = dict.fromkeys(slots, 0)
        while min(at.values()) < 90:
            batch, names = Batch(), []
            for slot in slots:
                start = at[slot]
                at[slot] = min(90, start + chance.choice(sizes))
                batch.extend(slot, start, texts[slot][start : at[slot]], at[slot] - start)
                names += [(slot, place) for place in range(start, at[slot])]
            context.decode(batch)
            rows |= {name: context.logits(row).copy() for row, name in enumerate(names)}
        for slot in slots:
            context.drop(slot, 0)
        return rows

    alone = logits([0], [1, 9]) | logits([1], [1, 9]) | logits([2], [1, 9])
    for sizes in ([1], [1, 5, 20]):
        together = logits([0, 1, 2], sizes)
        assert max(np.abs(together[name] - alone[name]).max() for name in alone) < 1e-4
    context.close()


def test_drafts_are_taken_back_in_a_cache_of_ones_own(tmp_path: Path) -> None:
    """As in a shared one: the answers repeat themselves, so that guesses are made."""
    model = Model(tiny_llama().write(tmp_path / "tiny.gguf"), ModelSettings())
    prompts = [[40 + at % size for at in range(150)] for size in (3, 5, 7)]

    async def run(settings: ContextSettings) -> tuple[list[list[int]], int]:
        engine = opened(model, settings)
        answers = await asyncio.gather(*(ask(engine, prompt, 100) for prompt in prompts))
        guesses = engine.stats.num_drafted
        await asyncio.to_thread(engine.close)
        return [answer for _, answer in answers], guesses

    assert LlamaContext(model, SEPARATE).max_rollback > 0
    separate, num_guesses = asyncio.run(run(SEPARATE))
    shared, _ = asyncio.run(run(SETTINGS))
    assert separate == shared and num_guesses > 0


def test_llama_4_always_has_a_cell_for_each_token(tmp_path: Path) -> None:
    """However its cache is wanted: with less, a slot could lose its last cell to another one."""
    path = tiny_llama4(context_length=100_000).write(tmp_path / "tiny.gguf")
    for cache in ("window", "auto", "full"):
        entry = TextModelEntry(source=PathSource(path), window_cache=cache)
        assert sized(entry, read_header(path), 1 << 20, []).full_window


def test_plamo_2_stays_at_one_sequence_where_memory_runs_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_plamo2(context_length=16_384).write(tmp_path / "tiny.gguf")
    entry = TextModelEntry(source=PathSource(path), gpu_layers=0, separate_caches=True)
    plan = plan_text("tiny", entry, path, read_header(path), {CPU: 1 << 40})
    real = placing.load_with_layers

    def load(
        entry: TextModelEntry, plan: TextPlan, settings: ContextSettings, layers: int
    ) -> tuple[LlamaContext, Model]:
        if settings.context_length == plan.settings.context_length:
            raise NoContext("no memory")
        return real(entry, plan, settings, layers)

    monkeypatch.setattr(placing, "load_with_layers", load)
    context, _ = place("tiny", entry, plan)
    assert context.context_length < plan.settings.context_length
    assert context.num_sequences == plan.settings.num_sequences == 1
    assert context.num_cells < 2 * context.context_length
    context.close()


def test_plamo_2_computes_one_sequence_at_a_time(tmp_path: Path) -> None:
    """llama.cpp's graph of it takes tokens of one sequence for those of another."""
    path = tiny_plamo2().write(tmp_path / "tiny.gguf")
    settings = sized(TextModelEntry(source=PathSource(path)), read_header(path), 1 << 30, [])
    assert settings.num_sequences == 1
    model, settings = Model(path, ModelSettings()), replace(SETTINGS, num_sequences=1)

    async def run() -> None:
        prompts = [PROMPT[:size] for size in (30, 50, 70)]
        alone = []
        for prompt in prompts:
            engine = Engine(LlamaContext(model, settings))
            alone.append((await ask(engine, prompt))[1])
            await asyncio.to_thread(engine.close)
        engine = Engine(LlamaContext(model, settings))
        together = await asyncio.gather(*(ask(engine, prompt) for prompt in prompts))
        assert [answer for _, answer in together] == alone
        await asyncio.to_thread(engine.close)

    asyncio.run(run())
