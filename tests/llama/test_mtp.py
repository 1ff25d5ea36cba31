"""A model's own MTP layers draft for it: from the right hidden states, and texts stay."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from llama.test_cells import SETTINGS
from llama.test_reproducible import other, seeded, text
from models.tiny_gguf import U32, TinyModel, Value, tiny_llama
from models.tiny_mtp import often_right, tiny_glm4, tiny_qwen35_moe_mtp, tiny_qwen35_mtp
from numpy.typing import NDArray

from localinfra.engine.backend import Batch
from localinfra.engine.drafting import Drafting
from localinfra.engine.engine import Engine
from localinfra.engine.grammar.compiler import GrammarCompiler
from localinfra.engine.grammar.constraint import Grammar
from localinfra.engine.policy.speculation import Speculator
from localinfra.engine.request import (
    EngineSettings,
    GenerationParams,
    GenerationRequest,
    SamplingParams,
)
from localinfra.engine.scheduler import Scheduler
from localinfra.engine.step import Chunk
from localinfra.errors import ModelUnavailable
from localinfra.footprint import CPU, MIB
from localinfra.llama.context import LlamaContext
from localinfra.llama.load_log import footprint_of
from localinfra.llama.model import Model, ModelSettings
from localinfra.llama.mtp import HiddenContext, MtpContext
from localinfra.models.entries import TextModelEntry
from localinfra.models.gguf.reader import BadGguf, read_header
from localinfra.models.kv_cache import cache_bytes
from localinfra.models.sources import ModelSource, PathSource
from localinfra.text.loading import load_text_model, text_plan
from localinfra.text.sizing import cache_shape

GREEDY = GenerationParams(SamplingParams(temperature=0))
SCORED = GenerationParams(SamplingParams(temperature=0), top_logprobs=0)
SAMPLED = GenerationParams(SamplingParams(temperature=0.7, seed=1))
WORDS = 'start: LETTER{8} ("," LETTER{3}){2,9}\nLETTER: /[a-m]/'

MAKERS = [tiny_glm4, tiny_qwen35_mtp, tiny_qwen35_moe_mtp]
Pair = tuple[HiddenContext, MtpContext]


@pytest.fixture(params=MAKERS)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    made = contexts(request.param(), tmp_path)
    yield made
    for context in made:
        context.close()


def contexts(tiny: TinyModel, folder: Path, **options: int) -> Pair:
    """A model with few cells, and its MTP layer."""
    settings = msgspec.structs.replace(SETTINGS, max_rollback=8, **options)
    model = Model(tiny.write(folder / "tiny.gguf"), ModelSettings(mtp=True))
    verifier = HiddenContext(model, settings)
    settings = msgspec.structs.replace(settings, num_cells=verifier.num_cells)
    return verifier, MtpContext(model, verifier, settings)


def decode(context: LlamaContext, tokens: list[int], start: int = 0) -> NDArray[np.float32]:
    """The logits after `tokens` in slot 0, which begin at position `start`."""
    batch = Batch()
    batch.extend(0, start, tokens, 1)
    batch.origins[0] = 0, 0
    context.decode(batch)
    return context.logits(len(tokens) - 1).copy()


def test_guesses_come_from_the_models_hidden_states(pair: Pair) -> None:
    """However the tokens are cut into steps, and whatever was guessed wrongly before."""
    verifier, mtp = pair
    tokens = [40 + 7 * at % 150 for at in range(24)]
    decode(verifier, tokens[:23])
    expected = decode(mtp, tokens)
    for context in pair:
        context.clear()
    assert mtp.first_readable(0) is None
    decode(verifier, tokens[:10])
    decode(mtp, tokens[:11])
    decode(mtp, [60], 11)  # a guess, from the layer's own hidden state
    decode(mtp, [70], 12)
    mtp.drop(0, 11)
    decode(verifier, [tokens[10], 60, 70], 10)
    verifier.drop(0, 11)
    decode(verifier, tokens[11:23], 11)
    decode(mtp, tokens[11:15], 11)
    assert np.abs(decode(mtp, tokens[15:], 15) - expected).max() < 1e-5
    mtp.drop(0, 0)
    hidden = verifier.hidden.before(0, 23, 1)
    assert hidden is not None and np.abs(hidden).max() > 0
    verifier.hidden._rows[:] = 0
    assert np.abs(decode(mtp, tokens) - expected).max() > 1e-2


def test_a_guess_is_read_after_the_layers_own_hidden_state(pair: Pair) -> None:
    verifier, mtp = pair
    decode(verifier, [50, 60])
    decode(mtp, [50, 60, 70])
    first = decode(mtp, [80], 3)
    mtp.drop(0, 2)
    decode(mtp, [70], 2)
    assert np.abs(decode(mtp, [80], 3) - first).max() < 1e-5
    mtp.drop(0, 3)
    mtp._own[:] = 0
    assert np.abs(decode(mtp, [80], 3) - first).max() > 1e-2


def test_slots_that_are_computed_together_keep_their_own(pair: Pair) -> None:
    verifier, _ = pair
    texts = [[50, 60, 70], [80, 90, 100, 110, 120], [130]]
    alone = []
    for tokens in texts:
        decode(verifier, tokens)
        alone.append(verifier.hidden.before(0, 1, len(tokens)))
        verifier.drop(0, 0)
    batch = Batch()
    for slot, tokens in enumerate(texts):
        batch.extend(slot, 0, tokens, 1)
    verifier.decode(batch)
    for slot, rows in enumerate(alone):
        assert rows is not None
        found = verifier.hidden.before(slot, 1, len(rows))
        assert found is not None and np.abs(found - rows).max() < 1e-5


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if rows and drafts were free."""

    def sizes(_: Speculator, chances: list[list[float]], limit: int, *__: object) -> list[int]:
        return [min(len(each), 5, limit // len(chances)) for each in chances]

    monkeypatch.setattr(Speculator, "sizes", sizes)
    monkeypatch.setattr(Drafting, "_is_worth_reading", lambda *_: True)


def entry_of(tiny: TinyModel, folder: Path, *, mtp: bool, **options: object) -> TextModelEntry:
    path = tiny.write(folder / "tiny.gguf")
    options = {"context_length": 256, "threads": 1, "prompt_lookup": False} | options
    return TextModelEntry(source=PathSource(path), mtp=mtp, **options)  # type: ignore[arg-type] # parameters


def texts(
    entry: TextModelEntry, params: GenerationParams, grammar: str = ""
) -> tuple[list[list[int]], int, int]:
    """What some prompts give, one after the other; drafted and accepted tokens."""
    model = load_text_model("tiny", entry, 8)
    compiled: Grammar | None = None
    if grammar:
        compiled = GrammarCompiler(model.vocabulary.grammar_tokenizer).compile(
            grammar, "grammar", is_plain=True
        )

    async def run() -> list[list[int]]:
        found = []
        for start in (40, 60, 60, 80):
            prompt = [*range(start, start + 60)]
            request = GenerationRequest(prompt, 60, params, grammar=compiled)
            async with model.worker.generate([request]) as generation:
                found.append([event.token or 0 async for events in generation for event in events])
        return found

    try:
        return asyncio.run(run()), model.stats.num_drafted, model.stats.num_accepted
    finally:
        model.close()


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("params", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("grammar", ["", WORDS], ids=["free", "grammar"])
@pytest.mark.parametrize("make", MAKERS)
def test_texts_are_those_without_drafts(
    make: Callable[[], TinyModel], grammar: str, params: GenerationParams, tmp_path: Path
) -> None:
    for tiny in (make(), often_right(make())):
        expected, _, _ = texts(entry_of(tiny, tmp_path, mtp=False), params, grammar)
        found, drafted, accepted = texts(entry_of(tiny, tmp_path, mtp=True), params, grammar)
        assert found == expected
        assert drafted > 40
    assert accepted > 0.1 * drafted


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("num_cells", [400, 1000])
def test_seeded_texts_are_bit_for_bit_those_without_drafts_in_any_company(
    tmp_path: Path, num_cells: int
) -> None:
    """With prefixes shared, parked and restored, and sequences that make way for others."""
    sizes = {"context_length": 400, "num_cells": num_cells, "num_sequences": 4, "batch_size": 128}
    verifier, mtp = contexts(often_right(tiny_glm4()), tmp_path, **sizes)
    plain_settings = msgspec.structs.replace(SETTINGS, **sizes)
    plain = LlamaContext(Model(tmp_path / "tiny.gguf", ModelSettings()), plain_settings)

    async def run() -> None:
        alone = Engine(plain, EngineSettings())
        expected = [await text(alone, seeded(number)) for number in range(5)]
        await asyncio.to_thread(alone.close)
        engine = Engine(verifier, EngineSettings(max_offloaded=1 << 20), drafter=mtp)
        assert [await text(engine, seeded(number)) for number in range(5)] == expected
        for attempt in range(4):
            requests = [(seeded(n), other(100 * attempt + n)) for n in range(5)]
            flat = [request for pair in requests for request in pair]
            got = await asyncio.gather(*(text(engine, request) for request in flat))
            assert got[::2] == expected
        stats = engine.stats
        await asyncio.to_thread(engine.close)
        assert stats.num_drafted > stats.num_accepted > 200

    asyncio.run(run())


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("make", MAKERS)
def test_rejected_drafts_leave_both_contexts(
    make: Callable[[], TinyModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verifier, mtp = contexts(often_right(make()), tmp_path, context_length=256)
    plain, num_rejected = Scheduler.accept, 0

    def accept(scheduler: Scheduler, chunk: Chunk) -> None:
        nonlocal num_rejected
        plain(scheduler, chunk)
        num_rejected += len(chunk.draft) - chunk.num_right
        assert chunk.sequence.slot is not None and scheduler.drafting._model
        assert verifier.held(chunk.sequence.slot) == chunk.sequence.num_cached
        for reading in scheduler.drafting._model._readings.values():
            assert mtp.held(reading.slot) == reading.num_cached - reading.begin

    monkeypatch.setattr(Scheduler, "accept", accept)

    async def run() -> None:
        engine = Engine(verifier, EngineSettings(prompt_lookup=False), drafter=mtp)
        for start in (40, 60):
            await text(engine, GenerationRequest([*range(start, start + 30)], 90, SAMPLED))
        await asyncio.to_thread(engine.close)

    asyncio.run(run())
    assert num_rejected > 20


@pytest.mark.usefixtures("eager")
def test_prefixes_from_host_memory_go_on_with_drafts(tmp_path: Path) -> None:
    """The MTP layer begins after them: their hidden states are gone, and perhaps its own cells."""
    verifier, mtp = contexts(often_right(tiny_glm4()), tmp_path, context_length=256)
    prompts = [[*range(start, start + 120)] for start in (40, 60, 80)]

    async def run() -> None:
        engine = Engine(verifier, EngineSettings(max_offloaded=1 << 20), drafter=mtp)
        first = [await text(engine, GenerationRequest(each, 30, SCORED)) for each in prompts]
        before = engine.stats.num_accepted
        for prompt, answer in zip(prompts, first, strict=True):
            more = [*prompt, *(token or 0 for token, _ in answer[:10])]
            async with engine.generate([GenerationRequest(more, 40, SCORED)]) as generation:
                events = [event async for events in generation for event in events]
            assert events[0].num_cached > 120
            again = [event.token for event in events[:20]]
            assert again == [token for token, _ in answer[10:]]
        assert engine.stats.num_accepted > before + 20
        await asyncio.to_thread(engine.close)

    asyncio.run(run())


def test_its_memory_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "localinfra.llama")
    for make in MAKERS:
        taken, planned = [], []
        for mtp in (False, True):
            entry = entry_of(make(), tmp_path, mtp=mtp, kv_cache_tokens=20_000)
            plan = text_plan("tiny", entry, {})
            caplog.clear()
            model = load_text_model("tiny", entry, 8, plan=plan)
            model.close()
            lines = [
                each for each in caplog.messages if " KV buffer" in each or " RS buffer" in each
            ]
            [measured] = footprint_of(lines).bytes_on.values()
            header = read_header(tmp_path / "tiny.gguf")
            expected = sum(cache_bytes(header, cache_shape(plan.settings)))
            assert abs(measured - expected) < MIB / 100 * len(lines)
            taken.append(model.footprint.bytes_on[CPU])
            planned.append(plan.expected.bytes_on[CPU])
        assert planned[1] > planned[0] and taken[1] > taken[0]
        assert taken[1] <= 1.1 * planned[1] + MIB


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"glm4moe.nextn_predict_layers": Value(U32, 0)}, "it has no layers for multi-token"),
        ({"glm4moe.nextn_predict_layers": Value(U32, 2)}, "it has 2 layers for multi-token"),
    ],
)
def test_layers_that_can_not_draft_are_refused(
    change: dict[str, Value], words: str, tmp_path: Path
) -> None:
    tiny = tiny_glm4()
    tiny.metadata |= change
    with pytest.raises(ModelUnavailable, match=f"can't draft for itself .*: {words}"):
        text_plan("tiny", entry_of(tiny, tmp_path, mtp=True), {})


@pytest.mark.parametrize(
    "name", ["nextn.eh_proj.weight", "nextn.hnorm.weight", "ffn_gate_inp.weight"]
)
def test_a_layer_without_a_tensor_that_llama_cpp_insists_on_is_refused(
    name: str, tmp_path: Path
) -> None:
    tiny = tiny_glm4()
    tiny.tensors = [each for each in tiny.tensors if each.name != f"blk.2.{name}"]
    with pytest.raises(ModelUnavailable, match=f"it lacks blk.2.{name}. Remove that line"):
        text_plan("tiny", entry_of(tiny, tmp_path, mtp=True), {})


@pytest.mark.parametrize("make", MAKERS)
def test_a_file_with_nothing_but_such_a_layer_is_no_model(
    make: Callable[[], TinyModel], tmp_path: Path
) -> None:
    tiny = make()
    last = max(each.name for each in tiny.tensors if each.name.startswith("blk."))[:6]
    tiny.tensors = [
        each for each in tiny.tensors if each.name.startswith(last) or each.name[:4] != "blk."
    ]
    with pytest.raises(BadGguf, match="has only layers that draft for another model"):
        read_header(tiny.write(tmp_path / "tiny.gguf"))


def test_other_architectures_are_refused(tmp_path: Path) -> None:
    tiny = tiny_llama()
    tiny.metadata["llama.nextn_predict_layers"] = Value(U32, 1)
    with pytest.raises(ModelUnavailable, match="its architecture is llama, and only these"):
        text_plan("tiny", entry_of(tiny, tmp_path, mtp=True), {})


def test_a_model_drafts_for_itself_or_another_does() -> None:
    with pytest.raises(ValueError, match="mtp: set it or draft, not both"):
        TextModelEntry(source=PathSource(Path("a")), mtp=True, draft=ModelSource("b"))
