"""A GGUF model that drafts for another: what it may be, what both take, and that texts stay."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from models.tiny_gguf import (
    ARRAY,
    STRING,
    U32,
    TinyModel,
    Value,
    gpt2_vocabulary,
    spm_vocabulary,
    tiny_gemma3,
    tiny_llama,
    tiny_mamba,
)
from models.tiny_hybrids import tiny_lfm2, tiny_qwen35
from msgspec.structs import replace

from localinfra.engine.drafting import Drafting
from localinfra.engine.policy.speculation import Speculator
from localinfra.engine.request import GenerationParams, GenerationRequest, SamplingParams
from localinfra.errors import ModelUnavailable
from localinfra.footprint import CPU
from localinfra.models.entries import TextModelEntry
from localinfra.models.sources import ModelSource, PathSource
from localinfra.text.loading import load_text_model, text_plan
from localinfra.text.model import TextModel

SEEDED = GenerationParams(SamplingParams(temperature=0.7, seed=1, is_reproducible=True))
PLAIN = GenerationParams(SamplingParams(temperature=0))
GREEDY = GenerationParams(SamplingParams(temperature=0, is_reproducible=True))


def drafted(
    folder: Path, draft: TinyModel | None, model: TinyModel | None = None
) -> TextModelEntry:
    path = (model or tiny_llama(layers=3)).write(folder / "large.gguf")
    small = draft.write(folder / "small.gguf") if draft else None
    source = ModelSource("small", PathSource(small)) if small else None
    return TextModelEntry(source=PathSource(path), context_length=128, threads=1, draft=source)


def with_words(words: Callable[[list[str]], list[str]]) -> TinyModel:
    """A tiny model whose vocabulary differs."""

    def vocabulary() -> dict[str, Value]:
        found = gpt2_vocabulary()
        changed = words(list(found["tokenizer.ggml.tokens"].value))  # type: ignore[call-overload]
        kinds = [3] * 3 + [1] * (len(changed) - 3)
        found["tokenizer.ggml.tokens"] = Value(ARRAY, changed, STRING)
        found["tokenizer.ggml.token_type"] = Value(ARRAY, kinds, 5)
        return found

    return tiny_llama(vocabulary, layers=1)


def texts(model: TextModel, params: GenerationParams) -> list[list[int]]:
    """Of some prompts, one after the other."""

    async def run() -> list[list[int]]:
        found = []
        for start in (40, 60, 80):
            request = GenerationRequest([*range(start, start + 20)], 60, params)
            async with model.worker.generate([request]) as generation:
                found.append([event.token or 0 async for events in generation for event in events])
        return found

    return asyncio.run(run())


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if rows and drafts were free."""

    def sizes(_: Speculator, chances: list[list[float]], limit: int, *__: object) -> list[int]:
        return [min(len(each), 5, limit // len(chances)) for each in chances]

    monkeypatch.setattr(Speculator, "sizes", sizes)
    monkeypatch.setattr(Drafting, "_is_worth_reading", lambda *_: True)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("params", [GREEDY, SEEDED])
@pytest.mark.parametrize(
    ("draft", "most_are_right"),
    [(tiny_llama(layers=3), True), (tiny_llama(layers=1, seed=9), False)],
    ids=["itself", "another"],
)
def test_texts_are_those_without_a_draft(
    draft: TinyModel, most_are_right: bool, params: GenerationParams, tmp_path: Path
) -> None:
    plain = load_text_model("large", drafted(tmp_path, None), 8)
    expected = texts(plain, params)
    plain.close()
    model = load_text_model("large", drafted(tmp_path, draft), 8)
    assert texts(model, params) == expected
    stats = model.stats
    model.close()
    assert stats.num_drafted > 50
    assert (stats.num_accepted > 0.8 * stats.num_drafted) == most_are_right


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(
    ("make", "draft", "params"),
    [
        (tiny_lfm2, tiny_llama, PLAIN),  # their seeded texts are computed row by row
        (tiny_qwen35, tiny_llama, PLAIN),
        (lambda: tiny_gemma3(layers=7), lambda: tiny_gemma3(layers=7), GREEDY),
        (lambda: tiny_llama(spm_vocabulary), lambda: tiny_gemma3(layers=7), SEEDED),
    ],
    ids=["hybrid", "delta net", "windows", "windows draft"],
)
def test_so_they_are_with_other_kinds_of_memory(
    make: Callable[[], TinyModel],
    draft: Callable[[], TinyModel],
    params: GenerationParams,
    tmp_path: Path,
) -> None:
    found = []
    for each in (None, draft()):
        entry = replace(drafted(tmp_path, each, make()), prompt_lookup=False)
        model = load_text_model("large", entry, 8)
        found.append(texts(model, params))
        num_drafted = model.stats.num_drafted
        model.close()
    num_same = sum(a == b for a, b in zip(*found, strict=True))
    # Without a seed, the shape of a step may decide a near-tie of random weights.
    assert num_drafted > 50 and num_same >= (2 if params is PLAIN else 3)


def test_its_memory_counts_with_the_model(tmp_path: Path) -> None:
    alone, both = drafted(tmp_path, None), drafted(tmp_path, tiny_llama(layers=8))
    plans = [text_plan("large", each, {}) for each in (alone, both)]
    assert plans[1].draft and plans[0].shape != plans[1].shape
    extra = plans[1].expected - plans[0].expected
    assert extra.bytes_on[CPU] == plans[1].draft.expected.bytes_on[CPU] > 0
    models = [load_text_model("large", each, 8) for each in (alone, both)]
    grown = models[1].footprint - models[0].footprint
    assert grown.bytes_on[CPU] > 0
    for model in models:
        model.close()


@pytest.mark.parametrize(
    ("draft", "words"),
    [
        (tiny_llama(spm_vocabulary), "tokenizer is of type 2 here and 1 there"),
        (with_words(lambda words: words + [f"w{at}" for at in range(200)]), "269 tokens here and"),
        (with_words(lambda words: [*words[:-1], "zzz"]), "token 268 is 'ou' here and 'zzz' there"),
    ],
    ids=["type", "size", "text"],
)
def test_another_vocabulary_is_refused_with_what_differs(
    draft: TinyModel, words: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelUnavailable, match=f"small can't draft for it: .*{words}"):
        load_text_model("large", drafted(tmp_path, draft), 8)


def test_another_end_token_is_refused(tmp_path: Path) -> None:
    draft = tiny_llama(layers=1)
    draft.metadata["tokenizer.ggml.eos_token_id"] = Value(U32, 2)
    with pytest.raises(ModelUnavailable, match="the EOS token is 1 here and 2 there"):
        load_text_model("large", drafted(tmp_path, draft), 8)


def test_a_vocabulary_with_some_tokens_more_may_draft(tmp_path: Path) -> None:
    draft = with_words(lambda words: [*words, "more"])
    model = load_text_model("large", drafted(tmp_path, draft), 8)
    assert len(texts(model, GREEDY)[0]) > 0
    model.close()


@pytest.mark.usefixtures("eager")
def test_a_token_that_the_draft_model_does_not_know_stops_no_drafts(tmp_path: Path) -> None:
    """Clients may send any token id of the large model."""
    large = with_words(lambda words: [*words, "more"])
    entry = replace(drafted(tmp_path, tiny_llama(layers=1), large), prompt_lookup=False)
    model = load_text_model("large", entry, 8)

    async def drafted_after(prompt: list[int]) -> int:
        before = model.stats.num_drafted
        async with model.worker.generate([GenerationRequest(prompt, 30, GREEDY)]) as generation:
            async for _ in generation:
                pass
        return model.stats.num_drafted - before

    last = len(large.metadata["tokenizer.ggml.tokens"].value) - 1  # type: ignore[arg-type] # a list
    for prompt in ([last, *range(40, 60)], [*range(60, 80), last], [*range(40, 60)]):
        assert asyncio.run(drafted_after(prompt)) > 0
    model.close()


def test_missing_and_damaged_files_of_the_draft_model_are_named(tmp_path: Path) -> None:
    entry = drafted(tmp_path, tiny_llama(layers=1))
    (tmp_path / "small.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ModelUnavailable, match=r"small\.gguf"):
        load_text_model("large", entry, 8)
    (tmp_path / "small.gguf").unlink()
    with pytest.raises(ModelUnavailable, match=r'correct the source of "small" in models\.toml'):
        load_text_model("large", entry, 8)


def test_where_the_memory_can_not_go_back_there_are_no_drafts_and_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = load_text_model("large", drafted(tmp_path, tiny_mamba()), 8)
    assert "no drafts from a model: the memory of small (mamba) can't go back" in caplog.text
    model.close()
