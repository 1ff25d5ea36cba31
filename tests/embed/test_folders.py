"""Folders of embedders from untrusted people: no pickle is read, and no code of theirs is run."""

import json
from pathlib import Path

import pytest

from localinfra.embed.torch_encoder import check_folder
from localinfra.errors import ModelUnavailable


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


@pytest.mark.parametrize(
    "names",
    [
        ["pytorch_model.bin"],
        ["pytorch_model-00001-of-00002.bin"],
        ["model.safetensors", "2_Dense/pytorch_model.bin"],
        ["model.safetensors", "deep/er/2_Dense/pytorch_model.bin"],
        # which libraries pass by
        ["model.safetensors", "2_Dense/other.safetensors", "2_Dense/pytorch_model.bin"],
        ["model.safetensors", "adapter_model.bin"],
    ],
)
def test_a_folder_of_which_a_pickle_would_be_read_is_refused(
    names: list[str], tmp_path: Path
) -> None:
    put(tmp_path, *names)
    with pytest.raises(ModelUnavailable, match="can run code"):
        check_folder(tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        ["model.safetensors", "pytorch_model.bin"],
        ["model.safetensors.index.json", "pytorch_model-00001-of-00002.bin"],
        ["model.safetensors", "2_Dense/model.safetensors", "2_Dense/pytorch_model.bin"],
        ["model.safetensors", "openvino/openvino_model.bin"],
        ["model.safetensors", "adapter_model.safetensors", "adapter_model.bin"],
    ],
)
def test_pickles_that_nobody_reads_are_no_trouble(names: list[str], tmp_path: Path) -> None:
    put(tmp_path, *names)
    check_folder(tmp_path)


@pytest.mark.parametrize("path", ["../other", "2_Dense/../../other", "link", "/other"])
def test_a_folder_whose_parts_are_elsewhere_is_refused(path: str, tmp_path: Path) -> None:
    """There may be pickles, too."""
    folder = tmp_path / "model"
    put(folder, "model.safetensors", "2_Dense/model.safetensors")
    put(tmp_path / "other", "pytorch_model.bin")
    (folder / "link").symlink_to(tmp_path / "other")
    for place, is_sound in (("2_Dense", True), (path, False)):
        module = {"path": place, "type": "sentence_transformers.models.Dense"}
        (folder / "modules.json").write_text(json.dumps([module]))
        if is_sound:
            check_folder(folder)
            continue
        with pytest.raises(ModelUnavailable, match="outside of its folder"):
            check_folder(folder)


@pytest.mark.parametrize("kind", ["evil.Module", "os.abort", "custom_st.Transformer"])
def test_a_folder_that_needs_code_of_its_own_is_refused(kind: str, tmp_path: Path) -> None:
    own = {"path": "", "type": "sentence_transformers.models.Transformer"}
    (tmp_path / "modules.json").write_text(json.dumps([own]))
    check_folder(tmp_path)
    (tmp_path / "modules.json").write_text(json.dumps([own, {"path": "1", "type": kind}]))
    with pytest.raises(ModelUnavailable, match="custom code"):
        check_folder(tmp_path)
