"""Projectors that hear: what their headers tell, and that a trial uses them."""

from collections.abc import Callable
from pathlib import Path

import pytest
from models.changing import dropping, setting
from models.tiny_gguf import BOOL, F32, I32, STRING, U32, TinyModel, Value, tiny_gemma3, tiny_llama
from models.tiny_projectors import (
    tiny_gemma3_projector,
    tiny_omni,
    tiny_qwen2audio,
    tiny_ultravox,
)

from localinfra.llama.projector_trial import TrialRequest, tried
from localinfra.models.gguf.hearing import hears, longest_seconds
from localinfra.models.gguf.projector import most_at_once, sees, working_bytes
from localinfra.models.gguf.reader import BadGguf, read_header, read_projector
from localinfra.models.senses import Sense, senses_of


def written(
    folder: Path, change: Callable[[TinyModel], object] | None = None, width: int = 32
) -> tuple[Path, Path]:
    projector = tiny_ultravox(width)
    if change:
        change(projector)
    return tiny_llama().write(folder / "m.gguf"), projector.write(folder / "mmproj-m.gguf")


@pytest.mark.parametrize(
    ("make", "text_model", "senses"),
    [
        (tiny_ultravox, tiny_llama, {Sense.HEARING}),
        (tiny_qwen2audio, tiny_llama, {Sense.HEARING}),
        (tiny_omni, tiny_gemma3, {Sense.HEARING, Sense.SIGHT}),
        (tiny_gemma3_projector, tiny_gemma3, {Sense.SIGHT}),
    ],
)
def test_whole_projectors_pass_and_say_what_they_read(
    make: Callable[[], TinyModel],
    text_model: Callable[[], TinyModel],
    senses: set[Sense],
    tmp_path: Path,
) -> None:
    header = read_header(text_model().write(tmp_path / "m.gguf"))
    path = make().write(tmp_path / "p.gguf")
    found = read_projector(path, header)
    assert working_bytes(found) > 0 and senses_of(path) == senses
    assert (hears(found), sees(found)) == (Sense.HEARING in senses, Sense.SIGHT in senses)
    assert most_at_once(found) == (4 if sees(found) else 0)


def test_encoders_that_take_a_sound_whole_get_short_ones(tmp_path: Path) -> None:
    model, path = written(tmp_path)
    assert longest_seconds(read_projector(path, read_header(model))) == 1800
    other = tiny_ultravox()
    other.metadata["clip.projector_type"] = Value(STRING, "lfm2a")  # whose shapes C knows alone
    whole = read_projector(other.write(path), read_header(model))
    assert hears(whole) and longest_seconds(whole) == 60


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (setting("clip.has_audio_encoder", Value(BOOL, False)), "has no encoder"),
        (setting("clip.projector_type", Value(STRING, "pockettts_spkenc")), "can't use"),
        (setting("clip.audio.num_mel_bins", Value(U32, 0)), "num_mel_bins = 0"),
        (setting("clip.audio.num_mel_bins", Value(U32, 9)), "a.conv1d.1.weight in shape"),
        (setting("clip.audio.num_mel_bins", Value(I32, 8)), "in another type"),
        (setting("clip.audio.block_count", Value(U32, 3)), "a.blk.2.attn_q.weight in shape None"),
        (setting("clip.audio.attention.head_count", Value(U32, 5)), "5 attention heads"),
        (setting("clip.audio.projector.stack_factor", Value(U32, 0)), "stack_factor = 0"),
        (setting("clip.audio.projector.stack_factor", Value(U32, 50)), "mm.a.mlp.1.weight in"),
        (
            setting("clip.audio.attention.layer_norm_epsilon", Value(F32, float("inf"))),
            "epsilon = inf",
        ),
        (lambda model: model.metadata.pop("clip.audio.embedding_length"), "length = None"),
        (dropping("a.conv1d.2.bias"), "a.conv1d.2.bias in shape None"),
        (dropping("a.blk.1.attn_v.bias"), "a.blk.1.attn_v.bias in shape None"),
        (dropping("a.position_embd.weight"), "a.position_embd.weight in shape"),
        (dropping("mm.a.norm_mid.weight"), "mm.a.norm_mid.weight in shape None"),
    ],
)
def test_damaged_projectors_are_refused(
    change: Callable[[TinyModel], object], problem: str, tmp_path: Path
) -> None:
    model, projector = written(tmp_path, change)
    with pytest.raises(BadGguf, match=problem):
        read_projector(projector, read_header(model))


def test_the_ears_of_another_model_are_refused(tmp_path: Path) -> None:
    model, projector = written(tmp_path, width=64)
    with pytest.raises(BadGguf, match=r"makes rows of 64 numbers, but .* reads 32: it belongs to"):
        read_projector(projector, read_header(model))


def test_a_trial_hears(tmp_path: Path) -> None:
    model, projector = written(tmp_path)
    result = tried(TrialRequest(str(model), str(projector), 1, longest_sound_s=60))
    assert (result.problem, result.sees, result.hears) == ("", False, True)
