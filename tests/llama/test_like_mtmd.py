"""Pictures are read as llama.cpp's own helper reads them, which `llama-server` uses: same tokens,
same logits. The whole way from a conversation with files on."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from by_mtmd import MARK, Helper, Read
from fakes import collect
from models.tiny_eyes import (
    idefics_words,
    tiny_idefics3_projector,
    tiny_internvl_projector,
    tiny_llama4_projector,
    tiny_llava_projector,
    tiny_pixtral_projector,
    tiny_qwen3vl_projector,
    tiny_qwen25vl_projector,
)
from models.tiny_gguf import TinyModel, tiny_gemma3, tiny_llama
from models.tiny_projectors import tiny_gemma3_projector, tiny_qwen2vl_projector
from models.tiny_seeing import tiny_qwen2vl, tiny_qwen3vl
from picture_files import file
from PIL import Image

from localinfra.chat.messages import ContentPart, ImageUrl, Message
from localinfra.engine.pictures import Picture
from localinfra.engine.request import GenerationParams, GenerationRequest, SamplingParams
from localinfra.models.entries import TextModelEntry
from localinfra.models.sources import PathSource
from localinfra.text.loading import load_text_model
from localinfra.text.model import TextModel
from localinfra.text.showing import ShownPictures, marked, new_word

# Rows of a step. What greedy answers to short prompts are read in, and what long ones may be.
SMALL, LARGE = 63, 256
NUM_TOKENS = 8
TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
ASKED = "what is it?"
SCORED = GenerationParams(SamplingParams(temperature=0), top_logprobs=20)
TOLERANCE = 1e-3  # of log-probabilities


class Kind(NamedTuple):
    model: Callable[[], TinyModel]
    projector: Callable[[], TinyModel]


def gemma() -> TinyModel:
    return tiny_gemma3(context_length=1024)


def llama() -> TinyModel:
    return tiny_llama(context_length=1024)


def llama_with_marks() -> TinyModel:
    return tiny_llama(idefics_words, context_length=1024)


def qwen() -> TinyModel:
    return tiny_qwen2vl(context_length=1024)


KINDS = {
    "Gemma 3": Kind(gemma, tiny_gemma3_projector),
    "Qwen2-VL": Kind(qwen, tiny_qwen2vl_projector),
    "Qwen2.5-VL": Kind(qwen, tiny_qwen25vl_projector),
    "Qwen3-VL, with deepstack": Kind(
        lambda: tiny_qwen3vl(context_length=1024), tiny_qwen3vl_projector
    ),
    "SmolVLM": Kind(llama_with_marks, tiny_idefics3_projector),
    "SmolVLM, enlarged": Kind(llama_with_marks, lambda: tiny_idefics3_projector(longest_edge=112)),
    "LLaVA 1.5": Kind(llama, tiny_llava_projector),
    "LLaVA 1.6": Kind(llama, lambda: tiny_llava_projector(has_tiles=True)),
    "InternVL": Kind(llama, tiny_internvl_projector),
    "tiles of a model with M-RoPE": Kind(
        lambda: tiny_qwen3vl(context_length=1024, num_deep=0), tiny_internvl_projector
    ),
    "Mistral Small": Kind(llama, tiny_pixtral_projector),
    "Llama 4": Kind(llama, tiny_llama4_projector),
}


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """Coarse enough that it survives being made smaller."""
    shape = (-(-height // 8), -(-width // 8), 3)
    pixels = np.random.default_rng(seed).integers(0, 255, shape, np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST)


def sixteen_bits() -> Image.Image:
    grey = np.asarray(noise(90, 40, 9).convert("L")).astype(np.uint16)
    return Image.fromarray(grey * 257)


PICTURES = {
    "large": file(noise(400, 300, 5)),
    "large, again": file(noise(400, 300, 12)),
    "ordinary": file(noise(100, 60)),
    "square": file(noise(56, 56, 1)),
    "high": file(noise(30, 190, 2)),
    "wide": file(noise(230, 20, 3)),
    "of one pixel": file(noise(1, 1, 4)),
    "grey": file(noise(75, 75, 6).convert("L")),
    "of two colors": file(noise(64, 90, 7).convert("1")),
    "of a palette": file(noise(120, 44, 8).quantize(16)),
    "of 16 bits": file(sixteen_bits()),
    "opaque, with alpha": file(noise(81, 33, 10).convert("RGBA")),
    "a GIF": file(noise(57, 99, 11).quantize(16), "GIF"),
}


class Both(NamedTuple):
    """The same model by us and by the helper, in steps of the same size."""

    ours: TextModel
    theirs: Helper


@contextlib.contextmanager
def both(kind: Kind, folder: Path, batch_size: int) -> Iterator[Both]:
    paths = folder / "m.gguf", folder / "mmproj-m.gguf"
    kind.model().write(paths[0])
    kind.projector().write(paths[1])
    entry = TextModelEntry(
        source=PathSource(paths[0]),
        sequences=2,
        gpu_layers=0,
        batch_size=batch_size,
        threads=1,
        chat_template=TEMPLATE,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOCALINFRA_CACHE", str(folder / "cache"))  # its trial is kept there
        model = load_text_model("m", entry, 8)
    try:
        assert model.eyes
        with Helper(*paths, batch_size) as helper:
            yield Both(model, helper)
    finally:
        model.close()


class Said(NamedTuple):
    scores: dict[int, float]  # of the first token
    tokens: list[int]
    num_prompt: int
    num_cached: int


def said(model: TextModel, *files: bytes) -> Said:
    async def answer() -> Said:
        assert model.eyes
        image = ImageUrl("data:,")
        parts = [ContentPart("image_url", image_url=image) for _ in files]
        messages = [Message("user", [*parts, ContentPart("text", text=ASKED)])]
        shown = ShownPictures(
            new_word(), [await model.eyes.see(data, 1000, "messages") for data in files]
        )
        prompt = await model.prompts.chat(marked(messages, shown.word), {}, shown=shown)
        request = GenerationRequest(prompt.ids, NUM_TOKENS, SCORED, pictures=prompt.pictures)
        [events] = await collect(model.worker, request)
        first = events[0].logprob
        assert first
        tokens = [event.token for event in events if event.token is not None]
        return Said(dict(first.top), tokens, len(prompt.ids), events[0].num_cached)

    return asyncio.run(answer())


def read(helper: Helper, *files: bytes) -> Read:
    return helper.read(f"user: {MARK * len(files)}{ASKED}\n", list(files), NUM_TOKENS)


def assert_alike(by: Both, *files: bytes, note: str = "") -> Said:
    ours, expected = said(by.ours, *files), read(by.theirs, *files)
    assert ours.num_prompt == expected.num_prompt, note
    differences = [abs(score - expected.scores[token]) for token, score in ours.scores.items()]
    assert max(differences) < TOLERANCE, note
    assert ours.tokens == expected.tokens, note
    return ours


@pytest.mark.parametrize("name", ["Gemma 3", "Qwen2-VL"])
def test_pictures_of_any_size_and_mode_are_read_alike(name: str, tmp_path: Path) -> None:
    with both(KINDS[name], tmp_path, SMALL) as by:
        for note, data in PICTURES.items():
            assert_alike(by, data, note=note)


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_projector_is_read_alike(name: str, tmp_path: Path) -> None:
    with both(KINDS[name], tmp_path, SMALL) as by:
        square = assert_alike(by, PICTURES["square"])
        assert_alike(by, PICTURES["ordinary"])
        two = assert_alike(by, PICTURES["high"], PICTURES["grey"])
        again = assert_alike(by, PICTURES["high"], PICTURES["grey"])
        assert again.num_cached == again.num_prompt - 1 > two.num_cached
        assert two.num_prompt > square.num_prompt
        assert apart(square, two) > 10 * TOLERANCE, "pictures matter"


@pytest.mark.parametrize(
    ("name", "part"), [("SmolVLM", 1), ("SmolVLM, enlarged", 1), ("InternVL", 0), ("LLaVA 1.6", 0)]
)
def test_with_low_detail_the_whole_picture_is_read_without_tiles(
    name: str, part: int, tmp_path: Path
) -> None:
    async def parts(model: TextModel, max_side: int | None) -> list[list[int] | Picture]:
        assert model.eyes
        seen = await model.eyes.see(PICTURES["large"], 1000, "messages", max_side)
        return [*seen.parts]

    with both(KINDS[name], tmp_path, SMALL) as by:
        low, high = (asyncio.run(parts(by.ours, side)) for side in (400, None))
        [picture] = [each for each in low if isinstance(each, Picture)]
        pictures = [each for each in high if isinstance(each, Picture)]
        assert len(pictures) > 1 and np.array_equal(picture.rows, pictures[-1].rows)
        words = [each for each in low if isinstance(each, list)]
        assert words[:part] == [each for each in high if isinstance(each, list)][-2:][:part]


@pytest.mark.parametrize("name", ["Gemma 3", "Qwen2-VL"])
def test_pictures_in_large_steps_are_read_alike(name: str, tmp_path: Path) -> None:
    """In the first cells: attention over many rows rounds by where their cells are."""
    with both(KINDS[name], tmp_path, LARGE) as by:
        assert_alike(by, PICTURES["large"], PICTURES["large, again"])


def apart(left: Said, right: Said) -> float:
    shared = left.scores.keys() & right.scores.keys()
    return max((abs(left.scores[token] - right.scores[token]) for token in shared), default=99.0)
