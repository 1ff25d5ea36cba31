"""Tiny random-weight models of various architectures, run by llama.cpp."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from models.tiny_gguf import (
    EMBD,
    F32,
    STRING,
    TinyModel,
    TinyTensor,
    Value,
    tiny_gemma3,
    tiny_llama,
    tiny_mamba,
    write_parts,
)
from models.tiny_hybrids import tiny_lfm2, tiny_qwen35
from models.tiny_others import OTHERS

from localinfra.chat.answer import Tool
from localinfra.chat.messages import Message
from localinfra.engine.engine import Engine
from localinfra.engine.request import (
    EngineSettings,
    GenerationParams,
    GenerationRequest,
    SamplingParams,
)
from localinfra.errors import InvalidRequest, ModelUnavailable
from localinfra.llama.context import LlamaContext
from localinfra.llama.model import LoadFailed, LoraFile, Model, ModelSettings
from localinfra.llama.settings import ContextSettings
from localinfra.models.entries import LoraAdapter, TextModelEntry
from localinfra.models.sources import PathSource
from localinfra.text.loading import load_text_model

SETTINGS = ContextSettings(
    context_length=64,
    num_cells=256,
    num_sequences=3,
    batch_size=16,
    threads=1,
    kv_type="f16",
)
HI = [Message("user", "Hi")]
GREEDY = GenerationParams(SamplingParams(temperature=0))


def open_context(
    path: Path, lora: tuple[LoraFile, ...] = (), settings: ContextSettings = SETTINGS
) -> LlamaContext:
    return LlamaContext(Model(path, ModelSettings(lora=lora)), settings)


def small_window() -> TinyModel:
    """To be run with a cache of the window only."""
    return tiny_gemma3(layers=7)


def answer_all(context: LlamaContext, prompts: list[list[int]], together: bool) -> list[list[int]]:
    """The tokens of each prompt's three choices, in turn or all at once."""

    async def run() -> list[list[int]]:
        engine = Engine(context, EngineSettings(max_offloaded=1 << 20))
        answers: list[list[int]] = []
        params = msgspec.structs.replace(GREEDY, num_choices=3)
        requests = [GenerationRequest(prompt, 12, params) for prompt in prompts]
        for group in [requests] if together else [[request] for request in requests]:
            async with engine.generate(group) as generation:
                got: list[list[int]] = [[] for _ in range(generation.num_choices)]
                async for events in generation:
                    for event in events:
                        got[event.choice].append(event.token or 0)
            answers += got
        await asyncio.to_thread(engine.close)
        return answers

    return asyncio.run(run())


@pytest.mark.parametrize(
    "make", [tiny_llama, tiny_gemma3, small_window, tiny_mamba, tiny_lfm2, tiny_qwen35, *OTHERS]
)
def test_answers_are_the_same_alone_and_together_with_and_without_shared_prefixes(
    tmp_path: Path, make: Callable[[], TinyModel]
) -> None:
    path = make().write(tmp_path / "tiny.gguf")
    prompts = [list(range(40, 40 + size)) for size in (3, 17, 30, 45, 17)]
    settings = msgspec.structs.replace(SETTINGS, full_window=make is tiny_gemma3)
    context = open_context(path, settings=settings)
    alone = answer_all(context, prompts, together=False)
    together = answer_all(open_context(path, settings=settings), prompts, together=True)
    assert alone[0] == alone[1] == alone[2] and alone[3:6] == alone[12:15]
    same = sum(a == b for a, b in zip(alone, together, strict=True))
    assert same >= len(alone) - 3  # near-ties of random weights, which the batch shape may flip


def test_offloaded_cells_are_restored_exactly(tmp_path: Path) -> None:
    """More prompts than fit the cells, asked twice: the second time from offloaded cells."""
    context = open_context(tiny_llama().write(tmp_path / "tiny.gguf"))
    prompts = [list(range(start, start + 50)) for start in range(40, 120, 10)]

    async def run() -> None:
        engine = Engine(context, EngineSettings(max_offloaded=1 << 20))
        seen: list[list[tuple[int | None, int]]] = []
        for prompt in prompts + prompts:
            async with engine.generate([GenerationRequest(prompt, 10, GREEDY)]) as generation:
                seen.append([(e.token, e.num_cached) async for es in generation for e in es])
        await asyncio.to_thread(engine.close)
        first, second = seen[: len(prompts)], seen[len(prompts) :]
        assert all(cached == 0 for events in first for _, cached in events)
        assert all(cached == 49 for events in second for _, cached in events)
        same = sum(
            [t for t, _ in a] == [t for t, _ in b] for a, b in zip(first, second, strict=True)
        )
        assert same >= len(prompts) - 2  # near-ties of random weights

    asyncio.run(run())


def lora_for(model: TinyModel, strength: float) -> TinyModel:
    """A rank-1 adapter for the first layer's down projection."""
    [target] = [tensor for tensor in model.tensors if tensor.name == "blk.0.ffn_down.weight"]
    wide, narrow = target.shape
    rng = np.random.default_rng(1)

    def tensor(name: str, *shape: int) -> TinyTensor:
        data = rng.normal(size=int(np.prod(shape))).astype(np.float32) * strength
        return TinyTensor(name, shape, data.tobytes())

    assert narrow == EMBD
    return TinyModel(
        metadata={
            "general.architecture": Value(STRING, "llama"),
            "general.type": Value(STRING, "adapter"),
            "adapter.type": Value(STRING, "lora"),
            "adapter.lora.alpha": Value(F32, 1.0),
        },
        tensors=[
            tensor("blk.0.ffn_down.weight.lora_a", wide, 1),
            tensor("blk.0.ffn_down.weight.lora_b", 1, narrow),
        ],
    )


def test_lora_files_change_the_answers(tmp_path: Path) -> None:
    path = tiny_llama().write(tmp_path / "tiny.gguf")
    adapter = lora_for(tiny_llama(), 3.0).write(tmp_path / "lora.gguf")
    prompts = [[50, 60, 70]]
    plain = answer_all(open_context(path), prompts, together=True)
    adapted = answer_all(open_context(path, (LoraFile(adapter),)), prompts, together=True)
    off = answer_all(open_context(path, (LoraFile(adapter, 0.0),)), prompts, together=True)
    assert adapted != plain == off


def entry(path: Path, **options: object) -> TextModelEntry:
    return TextModelEntry(source=PathSource(path), context_length=64, **options)  # type: ignore[arg-type]


def test_a_damaged_lora_file_is_refused(tmp_path: Path) -> None:
    path = tiny_llama().write(tmp_path / "tiny.gguf")
    (tmp_path / "lora.gguf").write_bytes(path.read_bytes())
    for words, data in [("not a LoRA adapter", path.read_bytes()), ("not", b"zip" * 100)]:
        (tmp_path / "lora.gguf").write_bytes(data)
        adapters = (LoraAdapter(tmp_path / "lora.gguf"),)
        with pytest.raises(ModelUnavailable, match=words):
            load_text_model("tiny", entry(path, lora=adapters), 8)


def test_the_error_for_a_refused_file_says_why(tmp_path: Path) -> None:
    model = tiny_llama()
    model.tensors.pop()
    path = model.write(tmp_path / "tiny.gguf")
    with pytest.raises(LoadFailed, match="not found"):
        Model(path, ModelSettings())
    with pytest.raises(ModelUnavailable, match="not found"):
        load_text_model("tiny", entry(path), 8)


def test_a_load_that_runs_out_of_memory_is_retried_with_fewer_layers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from localinfra.text import placing

    path = tiny_llama().write(tmp_path / "tiny.gguf")
    tried: list[int] = []

    def refuse(entry: object, plan: object, settings: object, layers: int) -> object:
        tried.append(layers)
        if layers > 1:
            raise LoadFailed("unable to allocate")
        return real(entry, plan, settings, layers)  # type: ignore[arg-type]

    real = placing.load_with_layers
    monkeypatch.setattr(placing, "load_with_layers", refuse)
    monkeypatch.setattr(placing, "free_memory", lambda: {"cuda:0": 2 << 40})
    model = load_text_model("tiny", entry(path), 8)
    model.close()
    assert tried[0] == 3 and tried == sorted(tried, reverse=True) and tried[-1] <= 1
    assert "trying" in caplog.text


def test_a_template_may_come_from_settings_and_a_missing_one_is_an_error(tmp_path: Path) -> None:
    path = tiny_llama().write(tmp_path / "tiny.gguf")
    model = load_text_model("tiny", entry(path, chat_template="{{ messages[0].content }}"), 8)
    assert model.prompts.tokenizer.chat_template == "{{ messages[0].content }}"
    model.close()
    model = load_text_model("tiny", entry(path, chat_template="{% for %}"), 8)
    with pytest.raises(InvalidRequest, match=r"no usable chat template .*Expected an expression"):
        asyncio.run(model.prompts.chat(HI, {}))
    model.close()


@pytest.mark.parametrize(
    ("templates", "entry_has", "plain", "with_tools"),
    [
        ({"": "usual", ".tool_use": "for tools"}, None, "usual", "for tools"),
        ({"": "usual", ".rag": "rag"}, None, "usual", "usual"),
        ({".tool_use": "for tools"}, None, "for tools", "for tools"),
        ({"": "usual", ".tool_use": "{% if %}"}, None, "usual", "usual"),
        ({"": "usual", ".tool_use": "for tools"}, "mine", "mine", "mine"),
    ],
)
def test_a_file_may_have_a_template_of_its_own_for_tools(
    templates: dict[str, str], entry_has: str | None, plain: str, with_tools: str, tmp_path: Path
) -> None:
    tiny = tiny_llama()
    for name, source in templates.items():
        tiny.metadata["tokenizer.chat_template" + name] = Value(STRING, source)
    model = load_text_model(
        "tiny", entry(tiny.write(tmp_path / "tiny.gguf"), chat_template=entry_has), 8
    )

    def prompt(*tools: Tool) -> str:
        ids = asyncio.run(model.prompts.chat(HI, {}, tools)).ids
        return model.text(ids).removeprefix("<s>")

    assert prompt() == plain
    assert prompt(Tool("look", {"name": "look"}, None, "tools[0]")) == with_tools
    model.close()


def test_a_model_still_tokenizes_after_its_engine_has_ended(tmp_path: Path) -> None:
    """A rendering in another thread can't be cancelled and must not use freed memory."""
    path = tiny_llama().write(tmp_path / "tiny.gguf")
    model = load_text_model("tiny", entry(path), 8)
    model.close()
    *_, ids = model.vocabulary.tokens("hello", parse_special=True, add_bos=True)
    assert b"".join(map(model.token_bytes, ids))


def test_a_model_in_parts_says_the_same(tmp_path: Path) -> None:
    model = tiny_llama()
    first, *_ = write_parts(model, tmp_path, [0, 3, len(model.tensors) - 3])
    whole = model.write(tmp_path / "whole.gguf")
    prompts = [list(range(40, 60))]
    said = [answer_all(open_context(path), prompts, together=True) for path in (first, whole)]
    assert said[0] == said[1]


@pytest.mark.parametrize("place", [3, 20, -1])
def test_a_very_long_token_is_left_out_of_grammars(tmp_path: Path, place: int) -> None:
    """llguidance would panic."""
    tiny = tiny_llama()
    words = tiny.metadata["tokenizer.ggml.tokens"].value
    assert isinstance(words, list)
    words[place] = "a" * 70_000
    path = tmp_path / "tiny.gguf"
    path.write_bytes(tiny.to_bytes())
    model = Model(path, ModelSettings())
    assert model.grammar_tokenizer().vocab_size == model.num_vocab
    model.close()
