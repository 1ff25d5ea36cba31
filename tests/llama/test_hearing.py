"""Models that hear, with small projectors of random weights: sounds become rows, as llama.cpp's own
helper makes them."""

import asyncio
import ctypes
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from models.tiny_gguf import tiny_gemma3, tiny_llama
from models.tiny_projectors import tiny_omni, tiny_qwen2audio, tiny_ultravox
from numpy.typing import NDArray
from picture_files import file, plain
from sound_files import noise, wav

from localinfra.chat.answer import Answer
from localinfra.chat.messages import ContentPart, InputAudio, Message
from localinfra.engine.pictures import Picture
from localinfra.engine.request import SamplingParams
from localinfra.footprint import CPU
from localinfra.llama.projector import AUDIO, Projector
from localinfra.models.entries import TextModelEntry
from localinfra.models.sources import PathSource
from localinfra.sounds.samples import read_samples
from localinfra.text.loading import load_text_model, text_plan
from localinfra.text.model import TextModel
from localinfra.text.request import TextParams
from localinfra.text.showing import ShownPictures, marked, new_word
from localinfra.text.turn import TurnRequest, begin_turn

TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCALINFRA_CACHE", str(tmp_path / "cache"))


def entry(path: Path) -> TextModelEntry:
    return TextModelEntry(
        source=PathSource(path),
        sequences=2,
        gpu_layers=0,
        batch_size=32,
        chat_template=TEMPLATE,
    )


@pytest.fixture
def ultravox(tmp_path: Path) -> TextModelEntry:
    tiny_ultravox().write(tmp_path / "mmproj-m.gguf")
    return entry(tiny_llama(context_length=256).write(tmp_path / "m.gguf"))


def parts_of(model: TextModel, data: bytes) -> tuple[list[int] | Picture, ...]:
    async def hear() -> tuple[list[int] | Picture, ...]:
        assert model.eyes is not None
        return (await model.eyes.hear(data, 10_000, "messages")).parts

    return asyncio.run(hear())


def rows_in(model: TextModel, data: bytes) -> NDArray[np.float32]:
    pieces = [part.rows for part in parts_of(model, data) if isinstance(part, Picture)]
    return np.concatenate(pieces)


def by_helper(projector: Projector, data: bytes) -> tuple[NDArray[np.float32], ...]:
    """What llama.cpp's own code makes of a file, as its command line tool calls it: the samples
    that its helper decodes, and the rows of them."""
    lib: Any = projector._library
    context = projector._pointer
    buffer = (ctypes.c_uint8 * len(data)).from_buffer_copy(data)
    bitmap = lib.mtmd_helper_bitmap_init_from_buf(context, buffer, len(data), False)
    size = lib.mtmd_bitmap_get_n_bytes(bitmap) // 4
    pointer = ctypes.cast(lib.mtmd_bitmap_get_data(bitmap), ctypes.POINTER(ctypes.c_float))
    samples = np.ctypeslib.as_array(pointer, (size,)).copy()
    marker: bytes = lib.mtmd_default_marker()
    text = lib.mtmd_input_text(marker, len(marker), False, True)
    chunks = lib.mtmd_input_chunks_init()
    bitmaps = (ctypes.c_void_p * 1)(bitmap)
    assert lib.mtmd_tokenize(context, chunks, ctypes.byref(text), bitmaps, 1) == 0
    rows = []
    for at in range(lib.mtmd_input_chunks_size(chunks)):
        chunk = lib.mtmd_input_chunks_get(chunks, at)
        count = lib.mtmd_input_chunk_get_n_tokens(chunk)
        if lib.mtmd_input_chunk_get_type(chunk) == AUDIO:
            assert lib.mtmd_encode_chunk(context, chunk) == 0
            found = lib.mtmd_get_output_embd(context)
            rows.append(np.ctypeslib.as_array(found, (count, projector.width)).copy())
    lib.mtmd_input_chunks_free(chunks)
    lib.mtmd_bitmap_free(bitmap)
    return samples, np.concatenate(rows)


def test_a_sound_is_a_few_rows_of_its_own(ultravox: TextModelEntry) -> None:
    model = load_text_model("m", ultravox, 8)
    try:
        assert model.eyes and model.eyes.hears and not model.eyes.sees
        (sound,) = parts_of(model, wav(noise(2)))
        assert isinstance(sound, Picture) and sound.rows.shape == (15, 32)
        assert sound.is_sound and sound.is_causal and sound.grid is None
        assert np.array_equal(rows_in(model, wav(noise(2))), sound.rows)
        assert abs(rows_in(model, wav(noise(2, seed=1))) - sound.rows).max() > 0.01
        assert len(rows_in(model, wav(noise(31)))) == 30  # two pieces of 30 seconds
        for seconds in (1 / 16_000, 0.01, 29.9999, 30.0001):
            assert np.isfinite(rows_in(model, wav(noise(seconds)))).all()
    finally:
        model.close()


def test_samples_and_rows_are_those_of_llama_cpps_own_code(ultravox: TextModelEntry) -> None:
    model = load_text_model("m", ultravox, 8)
    try:
        assert model.eyes is not None
        projector = model.eyes._encoder
        assert isinstance(projector, Projector)
        stereo = np.stack([noise(1), noise(1, seed=1)], 1)
        for data in (wav(noise(1)), wav(stereo), wav(noise(31), bits=24)):
            samples, rows = by_helper(projector, data)
            found = read_samples(data, "m", 16_000).data
            assert len(found) == len(samples) and abs(found - samples).max() < 1e-6
            assert abs(rows_in(model, data) - rows).max() < 1e-3
    finally:
        model.close()


def test_marks_of_the_model_stand_around_a_sound(tmp_path: Path) -> None:
    tiny_qwen2audio().write(tmp_path / "mmproj-m.gguf")
    own = entry(tiny_llama(context_length=256).write(tmp_path / "m.gguf"))
    model = load_text_model("m", own, 8)
    try:
        before, sound, after = parts_of(model, wav(noise(2)))
        assert isinstance(before, list) and "<|audio_bos|>" in model.text(before)
        assert isinstance(after, list) and "<|audio_eos|>" in model.text(after)
        assert isinstance(sound, Picture) and sound.rows.shape == (750, 32)
    finally:
        model.close()


def test_one_projector_may_see_and_hear(tmp_path: Path) -> None:
    tiny_omni().write(tmp_path / "mmproj-m.gguf")
    own = entry(tiny_gemma3(context_length=256).write(tmp_path / "m.gguf"))
    model = load_text_model("m", own, 8)
    try:
        assert model.eyes and model.eyes.hears and model.eyes.sees
        (sound,) = parts_of(model, wav(noise(2)))
        assert isinstance(sound, Picture) and sound.is_causal

        async def see() -> list[Picture]:
            assert model.eyes is not None
            seen = await model.eyes.see(file(plain(30, 20)), 1000, "messages")
            return [part for part in seen.parts if isinstance(part, Picture)]

        (picture,) = asyncio.run(see())
        assert isinstance(picture, Picture) and not picture.is_causal and not picture.is_sound
    finally:
        model.close()


def test_memory_for_sounds_is_planned(ultravox: TextModelEntry) -> None:
    plan = text_plan("m", ultravox, {})
    assert plan.projector and plan.projector.longest_sound_s == 1800
    assert plan.working.bytes_on[CPU] > 512 << 20
    deaf = text_plan("m", msgspec.structs.replace(ultravox, vision=False), {})
    assert deaf.projector is None


def answered(model: TextModel, *sounds: bytes) -> tuple[str, int, int]:
    """A greedy answer, the prompt's tokens, and those of them that the prefix cache had."""

    async def answer() -> tuple[str, int, int]:
        assert model.eyes is not None
        audio = InputAudio("data")
        parts = [ContentPart("input_audio", input_audio=audio) for _ in sounds]
        messages = [Message("user", [*parts, ContentPart("text", text="what is it?")])]
        heard = [await model.eyes.hear(data, 200, "messages") for data in sounds]
        shown = ShownPictures(new_word(), heard)
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
        assert turn.num_audio_tokens == 15 * len(sounds) and not turn.num_image_tokens
        return "".join(texts), turn.num_prompt, num_cached

    return asyncio.run(answer())


def test_answers_depend_on_sounds_and_not_on_what_is_cached(ultravox: TextModelEntry) -> None:
    model = load_text_model("m", ultravox, 8)
    try:
        one, other = wav(noise(2)), wav(noise(2, seed=5))
        first, again = answered(model, one), answered(model, one)
        assert again[:2] == first[:2] and again[2] > first[2] == 0
        both = answered(model, one, other)
        assert both[1] > first[1] and answered(model, one, other)[0] == both[0]
    finally:
        model.close()
