"""Seeded texts of real kernels over tiny models of other memories: the same in any company."""

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from models import tiny_gguf
from models.tiny_gguf import TinyModel, tiny_gemma3, tiny_llama, tiny_mamba
from models.tiny_hybrids import tiny_lfm2, tiny_qwen35
from models.tiny_others import tiny_dots3note, tiny_glm5_next, tiny_llama4

from localinfra.engine.engine import Engine
from localinfra.engine.request import (
    EngineSettings,
    GenerationParams,
    GenerationRequest,
    SamplingParams,
)
from localinfra.llama.context import LlamaContext
from localinfra.llama.model import Model, ModelSettings
from localinfra.llama.quantize import FTYPES, quantize
from localinfra.llama.settings import ContextSettings

SEEDED = GenerationParams(SamplingParams(is_reproducible=True, seed=7), top_logprobs=0)


async def text(engine: Engine, request: GenerationRequest) -> list[tuple[int | None, float]]:
    """Tokens, and their logprobs: those show what is rounded otherwise long before a token does."""
    async with engine.generate([request]) as generation:
        return [
            (event.token, event.logprob.logprob)
            async for events in generation
            for event in events
            if event.logprob and event.logprob.logprob is not None
        ]


def tiny_experts() -> TinyModel:
    return tiny_llama(experts=4)


def seeded(number: int) -> GenerationRequest:
    size = [3, 17, 70, 120, 18][number % 5]
    prompt = [40 + (number + i * i) % 150 for i in range(size)]
    return GenerationRequest(prompt, 60, SEEDED)


def other(number: int) -> GenerationRequest:
    chance = random.Random(number)
    prompt = [chance.randrange(40, 190) for _ in range(chance.randrange(1, 200))]
    return GenerationRequest(
        prompt, chance.randrange(1, 60), GenerationParams(num_choices=chance.choice([1, 2]))
    )


def are_equal_in_company(
    path: Path,
    kv_type: str = "f16",
    *,
    attempts: int = 4,
    full_window: bool = False,
    max_rollback: int = 0,
) -> bool:
    model = Model(path, ModelSettings())
    settings = ContextSettings(
        context_length=400, num_cells=1000, num_sequences=4, batch_size=128, threads=2,
        kv_type=kv_type, full_window=full_window, max_rollback=max_rollback,
    )  # fmt: skip

    async def run() -> bool:
        engine = Engine(LlamaContext(model, settings), EngineSettings(max_offloaded=1 << 20))
        alone = [await text(engine, seeded(number)) for number in range(5)]
        together = []
        for attempt in range(attempts):
            requests = [(seeded(n), other(100 * attempt + n)) for n in range(5)]
            flat = [request for pair in requests for request in pair]
            got = await asyncio.gather(*(text(engine, request) for request in flat))
            together.append(got[::2])
        await asyncio.to_thread(engine.close)
        return together == [alone] * attempts

    return asyncio.run(run())


@pytest.mark.parametrize("make", [tiny_llama, tiny_experts, tiny_gemma3, tiny_mamba, tiny_lfm2])
@pytest.mark.parametrize("kv_type", ["f16", "bf16"])
def test_seeded_texts_are_the_same_in_any_company(
    tmp_path: Path, make: Callable[[], TinyModel], kv_type: str
) -> None:
    assert are_equal_in_company(make().write(tmp_path / "tiny.gguf"), kv_type)


@pytest.mark.parametrize("make", [tiny_llama4, tiny_dots3note, tiny_glm5_next])
def test_so_they_are_with_memories_of_other_kinds(
    tmp_path: Path, make: Callable[[], TinyModel]
) -> None:
    assert are_equal_in_company(make().write(tmp_path / "tiny.gguf"))


def test_so_they_are_where_layers_with_a_window_keep_all_tokens(tmp_path: Path) -> None:
    path = tiny_gemma3(layers=7).write(tmp_path / "tiny.gguf")
    assert are_equal_in_company(path, full_window=True)


@pytest.mark.parametrize("make", [tiny_lfm2, tiny_qwen35])
def test_so_they_are_where_recurrent_layers_take_drafts_back(
    tmp_path: Path, make: Callable[[], TinyModel]
) -> None:
    assert are_equal_in_company(make().write(tmp_path / "tiny.gguf"), max_rollback=8)


# As llama.h numbers them (enum llama_ftype); each has kernels that round in ways of their own.
WEIGHTS = {"q4_0": 2, "q8_0": 7, "q2_k": 10, "q4_k_m": 15, "iq4_nl": 25}
QUICK = (
    (tiny_llama, "f16"),
    (tiny_llama, "iq4_nl"),
    (tiny_llama, "q4_k_m"),
    (tiny_gemma3, "q4_k_m"),
)
ALL = [(make, type) for make in (tiny_llama, tiny_gemma3) for type in WEIGHTS]


@pytest.mark.parametrize(
    ("make", "type"),
    [pytest.param(*each, marks=[] if each in QUICK else pytest.mark.slow) for each in ALL],
)
def test_so_they_are_with_every_type_of_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[], TinyModel], type: str
) -> None:
    monkeypatch.setattr(tiny_gguf, "EMBD", 256)  # the least that K-quants go into
    monkeypatch.setattr(tiny_gguf, "FFN", 512)
    monkeypatch.setitem(FTYPES, type, WEIGHTS[type])
    source = make().write(tmp_path / "f32.gguf")
    quantize(source, tmp_path / "small.gguf", type, 1)
    assert are_equal_in_company(tmp_path / "small.gguf", attempts=2)
