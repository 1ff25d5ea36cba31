"""Models with a projector: loaded together, and what becomes of pictures."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from models.tiny_gguf import F32, Value, tiny_gemma3
from models.tiny_projectors import (
    tiny_gemma3_projector,
    tiny_qwen2vl_projector,
)
from models.tiny_seeing import tiny_qwen2vl
from numpy.typing import NDArray
from picture_files import file
from PIL import Image

from localinfra.chat.answer import Answer
from localinfra.chat.messages import ContentPart, ImageUrl, Message
from localinfra.engine.pictures import Picture
from localinfra.engine.request import SamplingParams
from localinfra.errors import FilesAbsent, ModelUnavailable
from localinfra.footprint import CPU
from localinfra.journal import CrashJournal, StepKind
from localinfra.llama.projector_trial import TrialRequest, TrialResult, tried
from localinfra.models.entries import TextModelEntry
from localinfra.models.sources import PathSource
from localinfra.picture_parts import PicturePart
from localinfra.safeguard import Safeguard
from localinfra.text.loading import load_text_model, text_plan
from localinfra.text.model import TextModel
from localinfra.text.request import TextParams
from localinfra.text.showing import ShownPictures, marked, new_word
from localinfra.text.turn import TurnRequest, begin_turn


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCALINFRA_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def gemma(tmp_path: Path) -> TextModelEntry:
    tiny_gemma3_projector().write(tmp_path / "mmproj-m.gguf")
    return entry(tiny_gemma3(context_length=256).write(tmp_path / "m.gguf"))


@pytest.fixture
def qwen(tmp_path: Path) -> TextModelEntry:
    tiny_qwen2vl_projector().write(tmp_path / "mmproj-m.gguf")
    return entry(tiny_qwen2vl(context_length=256).write(tmp_path / "m.gguf"))


def entry(path: Path) -> TextModelEntry:
    return TextModelEntry(source=PathSource(path), sequences=2, gpu_layers=0, batch_size=32)


def noise(width: int, height: int, seed: int = 0) -> bytes:
    shape = (height, width, 3)
    return file(Image.fromarray(np.random.default_rng(seed).integers(0, 255, shape, np.uint8)))


Parts = tuple[list[int] | Picture, ...]


def seen(model: TextModel, data: bytes) -> Parts:
    async def see() -> Parts:
        assert model.eyes is not None
        return (await model.eyes.see(data, 10_000, "messages")).parts

    return asyncio.run(see())


def picture_in(parts: Parts) -> Picture:
    (picture,) = [part for part in parts if isinstance(part, Picture)]
    return picture


def rows_in(parts: Parts) -> NDArray[np.float32]:
    return picture_in(parts).rows


def test_a_picture_of_gemma_is_a_few_rows_between_its_marks(gemma: TextModelEntry) -> None:
    model = load_text_model("m", gemma, 8)
    try:
        before, picture, after = seen(model, noise(100, 60))
        assert isinstance(before, list) and "<start_of_image>" in model.text(before)
        assert isinstance(after, list) and "<end_of_image>" in model.text(after)
        assert isinstance(picture, Picture) and picture.rows.shape == (4, 32)
        assert picture.grid is None and not picture.is_causal
        assert np.array_equal(rows_in(seen(model, noise(100, 60))), picture.rows)
        assert abs(rows_in(seen(model, noise(100, 60, seed=1))) - picture.rows).max() > 0.01
    finally:
        model.close()


def test_a_picture_of_qwen_has_a_grid_of_its_own_size(qwen: TextModelEntry) -> None:
    model = load_text_model("m", qwen, 8)
    try:
        picture = picture_in(seen(model, noise(280, 140)))
        assert (picture.grid, picture.rows.shape) == ((5, 10), (50, 32)) and picture.is_causal
        assert picture_in(seen(model, noise(140, 280))).grid == (10, 5)
        for size in ((1, 1), (200, 1), (1, 200)):
            assert np.isfinite(rows_in(seen(model, noise(*size)))).all()
    finally:
        model.close()


def test_fewer_tokens_for_a_picture_where_its_size_is_free(qwen: TextModelEntry) -> None:
    model = load_text_model("m", msgspec.structs.replace(qwen, max_image_tokens=16), 8)
    try:
        assert len(rows_in(seen(model, noise(560, 560)))) <= 16
    finally:
        model.close()


def test_the_projectors_memory_is_planned_and_its_pictures_fit_a_step(
    gemma: TextModelEntry,
) -> None:
    small = msgspec.structs.replace(gemma, batch_size=2)
    plan = text_plan("m", small, {})
    blind = text_plan("m", msgspec.structs.replace(small, vision=False), {})
    assert plan.projector and plan.settings.batch_size == 4 and blind.settings.batch_size == 2
    weights = plan.projector.expected.bytes_on[CPU]
    assert plan.expected.bytes_on[CPU] >= blind.expected.bytes_on[CPU] + weights
    assert plan.working.bytes_on[CPU] > 0 and plan.shape != blind.shape


def test_a_trial_is_made_once_for_each_projector(
    gemma: TextModelEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert text_plan("m", gemma, {}).projector
    monkeypatch.setattr("localinfra.text.projector.tried", None)  # no second one
    assert text_plan("m", gemma, {}).projector
    with pytest.raises(TypeError):
        text_plan("m", msgspec.structs.replace(gemma, max_image_tokens=100), {})


def test_a_trial_that_crashed_is_not_made_again_until_something_changes(
    gemma: TextModelEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mmproj-m.gguf"
    projector = tiny_gemma3_projector()
    projector.metadata["clip.minicpmv_version"] = Value(F32, 1.0)  # llama.cpp asserts its type
    projector.write(path)
    named = msgspec.structs.replace(gemma, mmproj=PathSource(path))
    trials: list[TrialRequest] = []

    def counted(request: TrialRequest) -> TrialResult:
        trials.append(request)
        return tried(request)

    monkeypatch.setattr("localinfra.text.projector.tried", counted)
    for told in ("SIGABRT", "SIGABRT.*`localinfra reload` has it tried again"):
        with pytest.raises(ModelUnavailable, match=told):
            text_plan("m", named, {})
    assert len(trials) == 1
    Safeguard().forget()
    with pytest.raises(ModelUnavailable, match="SIGABRT"):
        text_plan("m", named, {})
    assert len(trials) == 2
    tiny_gemma3_projector().write(path)
    assert text_plan("m", named, {}).projector and len(trials) == 3


def test_a_trial_that_was_ended_from_outside_is_made_again(
    gemma: TextModelEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = ["sh", "-c", "kill -9 $$"]
    monkeypatch.setattr("localinfra.llama.projector_trial.COMMAND", killed)
    assert text_plan("m", gemma, {}).projector is None
    monkeypatch.undo()
    monkeypatch.setenv("LOCALINFRA_CACHE", str(Path(str(gemma.source.find())).parent / "cache"))
    assert text_plan("m", gemma, {}).projector


def test_models_do_without_a_projector_that_only_lies_beside_them(
    gemma: TextModelEntry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = tiny_gemma3_projector(width=64).write(tmp_path / "mmproj-m.gguf")
    with caplog.at_level(logging.WARNING):
        model = load_text_model("m", gemma, 8)
    model.close()
    assert model.eyes is None and "m does not see" in caplog.text and "64" in caplog.text
    named = msgspec.structs.replace(gemma, mmproj=PathSource(wrong))
    with pytest.raises(ModelUnavailable, match=r"makes rows of 64 numbers.* remove mmproj in"):
        load_text_model("m", named, 8)
    absent = msgspec.structs.replace(gemma, mmproj=PathSource(tmp_path / "gone.gguf"))
    with pytest.raises(FilesAbsent, match=r'correct the mmproj of "m" in models.toml'):
        load_text_model("m", absent, 8)


def test_a_model_that_has_killed_the_server_is_loaded_without_eyes(gemma: TextModelEntry) -> None:
    model = load_text_model("m", gemma.safer, 8)
    model.close()
    assert model.eyes is None


TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"


def answered(model: TextModel, *pictures: bytes) -> tuple[str, int, int]:
    """A greedy answer to a question with pictures, the prompt's tokens, and those of them that the
    prefix cache had."""

    async def answer() -> tuple[str, int, int]:
        assert model.eyes is not None
        image = ImageUrl("data:,")
        parts = [ContentPart("image_url", image_url=image) for _ in pictures]
        messages = [Message("user", [*parts, ContentPart("text", text="what is it?")])]
        seen = [await model.eyes.see(data, 200, "messages") for data in pictures]
        shown = ShownPictures(new_word(), seen)
        params = TextParams(sampling=SamplingParams(temperature=0), max_tokens=8)
        wanted = TurnRequest(
            messages=marked(messages, shown.word),
            answer=Answer(None),
            template_kwargs={},
            params=params,
            shown=shown,
        )
        turn = await begin_turn(model, wanted, "")
        texts, num_cached = [], 0
        async for step in turn.deltas:
            for delta in step:
                texts.append(delta.text)
                num_cached = max(num_cached, delta.num_cached)
        await turn.deltas.aclose()
        return "".join(texts), turn.num_prompt, num_cached

    return asyncio.run(answer())


@pytest.mark.parametrize("kind", ["gemma", "qwen"])
def test_answers_depend_on_pictures_and_not_on_what_is_cached(
    kind: str, request: pytest.FixtureRequest
) -> None:
    own = msgspec.structs.replace(request.getfixturevalue(kind), chat_template=TEMPLATE)
    model = load_text_model("m", own, 8)
    try:
        one, other = noise(100, 60), noise(100, 60, seed=5)
        first = answered(model, one)
        again = answered(model, one)
        assert again[:2] == first[:2] and again[2] > first[2] == 0
        both = answered(model, one, other)
        assert both[1] > first[1] and answered(model, one, other)[0] == both[0]
    finally:
        model.close()


def test_what_its_eyes_do_is_noted_beside_what_its_engine_does(
    qwen: TextModelEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = CrashJournal()
    model = load_text_model("m", qwen, 8)
    model.worker.mark = journal.open("m", "a" * 32)
    steps: set[tuple[str, StepKind]] = set()
    assert model.eyes is not None
    read = model.eyes._encoder.read

    def watched(*arguments: Any) -> tuple[PicturePart, ...]:
        steps.update((one.name, one.step) for one in journal.at_work())
        return read(*arguments)

    monkeypatch.setattr(model.eyes._encoder, "read", watched)
    seen(model, noise(40, 40))
    model.close()
    assert steps == {("m", StepKind.SEE)}
