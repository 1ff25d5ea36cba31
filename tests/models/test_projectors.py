"""Projectors: what headers tell, how they are found, and that a trial survives what they do."""

from collections.abc import Callable
from pathlib import Path

import pytest
from models.changing import dropping, setting
from models.mutations import projector_mutations
from models.tiny_eyes import tiny_idefics3_projector, tiny_llava_projector
from models.tiny_gguf import (
    ARRAY,
    BOOL,
    F32,
    I32,
    STRING,
    U32,
    TinyModel,
    Value,
    tiny_gemma3,
    tiny_llama,
)
from models.tiny_projectors import (
    tiny_gemma3_projector,
    tiny_qwen2vl_projector,
)
from models.tiny_seeing import tiny_qwen2vl

from localinfra.llama.projector_trial import TrialFailed, TrialRequest, tried
from localinfra.models.companions import projector_of
from localinfra.models.gguf.projector import most_at_once, working_bytes
from localinfra.models.gguf.reader import BadGguf, read_header, read_projector
from localinfra.models.sources import HubSource, PathSource

PAIRS = ((tiny_gemma3, tiny_gemma3_projector), (tiny_qwen2vl, tiny_qwen2vl_projector))


def written(
    folder: Path, change: Callable[[TinyModel], object] | None = None, width: int = 32
) -> tuple[Path, Path]:
    """A model and its projector, changed."""
    projector = tiny_gemma3_projector(width)
    if change:
        change(projector)
    return tiny_gemma3().write(folder / "m.gguf"), projector.write(folder / "mmproj-m.gguf")


@pytest.mark.parametrize(("model", "projector"), PAIRS)
def test_whole_projectors_pass(
    model: Callable[[], TinyModel], projector: Callable[[], TinyModel], tmp_path: Path
) -> None:
    header = read_header(model().write(tmp_path / "m.gguf"))
    found = read_projector(projector().write(tmp_path / "p.gguf"), header)
    assert working_bytes(found) > 0


def test_a_step_must_hold_all_rows_that_see_each_other(tmp_path: Path) -> None:
    model, projector = written(tmp_path)
    assert most_at_once(read_projector(projector, read_header(model))) == 4
    large = setting("clip.vision.image_size", Value(U32, 896))

    def like_gemma(model: TinyModel) -> None:
        large(model)
        model.metadata["clip.vision.projector.scale_factor"] = Value(U32, 4)
        place = next(t for t in model.tensors if t.name == "v.position_embd.weight")
        place.shape, place.data = (32, 64 * 64), bytes(32 * 64 * 64 * 4)

    model, projector = written(tmp_path, like_gemma)
    assert most_at_once(read_projector(projector, read_header(model))) == 256
    causal = tiny_qwen2vl_projector().write(tmp_path / "q.gguf")
    assert most_at_once(read_projector(causal, read_header(model))) == 0


def test_older_files_say_less_and_swap_two_names(tmp_path: Path) -> None:
    def old(model: TinyModel) -> None:
        for name in ("feed_forward_length", "projection_dim"):
            model.metadata[f"clip.vision.{name}"] = Value(U32, 0)
        names = {"ffn_up": "ffn_down", "ffn_down": "ffn_up"}
        for tensor in model.tensors:
            for one, other in names.items():
                if f".{one}." in tensor.name:
                    tensor.name = tensor.name.replace(one, other)
                    break

    model, projector = written(tmp_path, old)
    read_projector(projector, read_header(model))
    assert tried(TrialRequest(str(model), str(projector), 1)).most_at_once == 4


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (setting("general.architecture", Value(STRING, "llama")), "not a projector .* but a model"),
        (setting("clip.has_vision_encoder", Value(BOOL, False)), "has no encoder"),
        (setting("clip.projector_type", Value(STRING, "psychic")), "'psychic', unknown to this"),
        (setting("clip.projector_type", Value(STRING, "hunyuanvl")), "can't read yet"),
        (setting("clip.vision.image_size", Value(I32, 56)), "in another type"),
        (setting("clip.vision.image_size", Value(U32, 10_000)), "image_size = 10000"),
        (setting("clip.vision.patch_size", Value(U32, 0)), "patch_size = 0"),
        (setting("clip.vision.patch_size", Value(U32, 7)), "v.patch_embd.weight in shape"),
        (setting("clip.vision.image_size", Value(U32, 112)), "has positions for"),
        (setting("clip.vision.block_count", Value(U32, 3)), "claims 3 layers but lacks layer 2"),
        (setting("clip.vision.attention.head_count", Value(U32, 5)), "5 attention heads"),
        (
            setting("clip.vision.attention.layer_norm_epsilon", Value(F32, float("nan"))),
            "epsilon = nan",
        ),
        (setting("clip.vision.projector.scale_factor", Value(U32, 5)), "merges 5 of 4 patches"),
        (lambda model: model.metadata.pop("clip.vision.image_mean"), "how colors are scaled"),
        (dropping("v.blk.1.attn_out.weight"), "lacks layer 1"),
    ],
)
def test_damaged_projectors_are_refused(
    change: Callable[[TinyModel], object], problem: str, tmp_path: Path
) -> None:
    model, projector = written(tmp_path, change)
    with pytest.raises(BadGguf, match=problem):
        read_projector(projector, read_header(model))


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        (
            "image_grid_pinpoints",
            Value(ARRAY, [112, 60], I32),
            "sizes than whole tiles of 56",
        ),
        ("image_grid_pinpoints", Value(ARRAY, [112, 0], I32), "other sizes than whole tiles"),
        ("image_grid_pinpoints", Value(ARRAY, [112], I32), "other sizes than whole tiles"),
        ("image_grid_pinpoints", Value(ARRAY, [56 << 10, 56], I32), "other sizes than whole tiles"),
        ("image_grid_pinpoints", Value(U32, 112), "in another type"),
        ("preproc_max_tiles", Value(U32, 1 << 20), "into 1 to 1048576 tiles"),
    ],
)
def test_tiles_that_only_some_pictures_would_show_to_be_damaged_are_refused(
    key: str, value: Value, problem: str, tmp_path: Path
) -> None:
    projector = tiny_llava_projector(has_tiles=True)
    header = read_header(tiny_llama().write(tmp_path / "m.gguf"))
    read_projector(projector.write(tmp_path / "p.gguf"), header)
    projector.metadata[f"clip.vision.{key}"] = value
    with pytest.raises(BadGguf, match=problem):
        read_projector(projector.write(tmp_path / "p.gguf"), header)


def test_the_projector_of_another_model_is_refused(tmp_path: Path) -> None:
    model, projector = written(tmp_path, width=64)
    with pytest.raises(BadGguf, match=r"makes rows of 64 numbers, but .* reads 32: it belongs to"):
        read_projector(projector, read_header(model))
    with pytest.raises(BadGguf, match="not a projector"):
        read_projector(model, read_header(model))


def test_a_trial_says_what_a_projector_does(tmp_path: Path) -> None:
    model, projector = written(tmp_path)
    result = tried(TrialRequest(str(model), str(projector), 1))
    assert (result.problem, result.is_causal, result.most_at_once) == ("", False, 4)


def test_a_trial_survives_an_assertion_of_llama_cpp(tmp_path: Path) -> None:
    def unknown_key(model: TinyModel) -> None:
        model.metadata["clip.minicpmv_version"] = Value(F32, 1.0)

    model, projector = written(tmp_path, unknown_key)
    read_projector(projector, read_header(model))  # its header looks right
    with pytest.raises(TrialFailed, match=r"makes llama.cpp crash .SIGABRT.*GGML_ASSERT"):
        tried(TrialRequest(str(model), str(projector), 1))


def test_a_trial_tells_of_a_projector_that_llama_cpp_refuses(tmp_path: Path) -> None:
    model, projector = written(tmp_path, dropping("mm.soft_emb_norm.weight"))
    with pytest.raises(TrialFailed, match=r"can't be used: .*mm.soft_emb_norm.weight"):
        tried(TrialRequest(str(model), str(projector), 1))


def test_a_trial_tells_of_words_that_a_model_lacks(tmp_path: Path) -> None:
    model = tiny_llama().write(tmp_path / "m.gguf")
    projector = tiny_idefics3_projector().write(tmp_path / "p.gguf")
    with pytest.raises(TrialFailed, match="can't be used: the model has no words"):
        tried(TrialRequest(str(model), str(projector), 1))


def test_headers_cut_anywhere_are_refused(tmp_path: Path) -> None:
    model, _ = written(tmp_path)
    header, path = read_header(model), tmp_path / "cut.gguf"
    for name, make in projector_mutations(tiny_gemma3_projector, flips=0):
        if not name.startswith("cut"):
            continue
        path.write_bytes(make())
        with pytest.raises(BadGguf):
            read_projector(path, header)


def test_a_projector_beside_the_only_model_belongs_to_it(tmp_path: Path) -> None:
    model, projector = written(tmp_path)
    assert projector_of(PathSource(model), model) == projector
    tiny_llama().write(tmp_path / "other.gguf")
    assert projector_of(PathSource(model), model) is None


def test_a_projector_in_a_folder_below_belongs_to_no_file_of_a_path(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    model, projector = written(tmp_path)
    projector.rename(tmp_path / "other" / projector.name)
    assert projector_of(PathSource(model), model) is None


def test_the_projector_of_a_repository_may_be_in_a_folder_above(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--o--r" / "snapshots" / ("0" * 40)
    (snapshot / "q8").mkdir(parents=True)
    model = tiny_gemma3().write(snapshot / "q8" / "m-Q8_0.gguf")
    tiny_gemma3().write(snapshot / "m-Q4_K_M.gguf")
    projector = tiny_gemma3_projector().write(snapshot / "mmproj-F16.gguf")
    assert projector_of(HubSource("o/r", "q8/m-Q8_0.gguf"), model) == projector


def test_no_projector_is_found_where_there_is_none(tmp_path: Path) -> None:
    model = tiny_llama().write(tmp_path / "m.gguf")
    assert projector_of(PathSource(model), model) is None
