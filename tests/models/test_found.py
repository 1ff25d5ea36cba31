"""Models without a table: which files are served, of which kind, under which names."""

import json
import logging
import tomllib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from models.tiny_gguf import STRING, U32, TinyModel, Value, tiny_llama, write_parts

from localinfra.config.settings import read
from localinfra.errors import ConfigError
from localinfra.models.catalog import Catalog, discover
from localinfra.models.found import in_folder
from localinfra.models.names import Name


def with_key(key: str, value: Value) -> TinyModel:
    model = tiny_llama()
    model.metadata[key] = value
    return model


def names_in(folder: Path) -> dict[str, str]:
    return {found.name: found.kind for found in in_folder(folder)}


def folder_of(path: Path, **files: object) -> Path:
    path.mkdir(parents=True)
    (path / "model.safetensors").write_bytes(b"\2\0\0\0\0\0\0\0{}")
    for name, content in files.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    return path


def test_files_and_library_folders_are_served_under_their_names(tmp_path: Path) -> None:
    tiny_llama().write(tmp_path / "My model (v2).gguf")
    deep = tmp_path / "publisher" / "repository"
    deep.mkdir(parents=True)
    tiny_llama().write(deep / "Deep-Q4_K_M.gguf")
    with_key("llama.pooling_type", Value(U32, 1)).write(tmp_path / "vectors.gguf")
    folder_of(tmp_path / "mini", modules=[], config={})
    folder_of(tmp_path / "cross", config={"architectures": ["BertForSequenceClassification"]})
    folder_of(tmp_path / "flux", model_index={})
    assert names_in(tmp_path) == {
        "My-model-v2-": "text",
        "Deep-Q4_K_M": "text",
        "vectors": "embedding",
        "mini": "embedding",
        "cross": "rerank",
        "flux": "image",
    }


def test_files_that_would_share_a_name_or_have_none_are_all_served(tmp_path: Path) -> None:
    texts = [tmp_path / name for name in ("a/m x.gguf", "b/m-x.gguf", "c/m x.gguf", "模型.gguf")]
    for path in texts:
        path.parent.mkdir(exist_ok=True)
        tiny_llama().write(path)
    config = read({"server": {"serve_pulled": False}}, tmp_path / "models.toml")
    for given in (list(map(str, texts)), [str(tmp_path)]):
        names = discover(config, given).names
        assert len(names) == 4 and "m-x" in names
        msgspec.convert(names, tuple[Name, ...])


def test_what_belongs_to_a_model_is_none(tmp_path: Path) -> None:
    tiny_llama().write(tmp_path / "model-mmproj-f16.gguf")
    tiny_llama().write(tmp_path / "imatrix-model.gguf")
    with_key("general.type", Value(STRING, "adapter")).write(tmp_path / "lora.gguf")
    with_key("general.architecture", Value(STRING, "clip")).write(tmp_path / "eyes.gguf")
    folder_of(tmp_path / "a chat model", config={"architectures": ["LlamaForCausalLM"]})
    (tmp_path / ".hidden").mkdir()
    tiny_llama().write(tmp_path / ".hidden" / "model.gguf")
    (tmp_path / "notes.txt").write_text("x")
    assert names_in(tmp_path) == {}


def test_a_model_in_parts_is_served_once(tmp_path: Path) -> None:
    model = tiny_llama()
    write_parts(model, tmp_path, [2, len(model.tensors) - 2])
    assert names_in(tmp_path) == {"tiny": "text"}


def test_one_name_in_two_folders_means_the_outer_file(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    tiny_llama().write(tmp_path / "b" / "model.gguf")
    tiny_llama().write(tmp_path / "model.gguf")
    found = {one.name: one.path for one in in_folder(tmp_path)}
    assert found == {"model": tmp_path / "model.gguf", "b/model": tmp_path / "b" / "model.gguf"}


def test_a_damaged_file_is_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"<html>")
    tiny_llama().write(tmp_path / "whole.gguf")
    (tmp_path / "gone.gguf").symlink_to(tmp_path / "nowhere")
    with caplog.at_level(logging.WARNING):
        assert names_in(tmp_path) == {"whole": "text"}
        assert names_in(tmp_path) == {"whole": "text"}
    [record] = caplog.records
    assert f"{tmp_path / 'broken.gguf'} is a web page" in record.getMessage()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache of the hub, and none of ours."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("LOCALINFRA_CACHE", str(tmp_path / "own"))
    yield tmp_path / "hub"


def snapshot(hub: Path, repo: str) -> Path:
    folder = hub / f"models--{repo.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc").mkdir(parents=True)
    return folder / "snapshots" / "abc"


def catalogue(folder: Path, text: str = "", *given: str) -> Catalog:
    return discover(read(tomllib.loads(text), folder / "models.toml"), given)


def test_pulled_files_are_versions_and_the_usual_one_has_the_plain_name(
    hub: Path, tmp_path: Path
) -> None:
    root = snapshot(hub, "owner/some-GGUF")
    for quant in ("Q8_0", "Q4_K_M", "Q2_K"):
        tiny_llama().write(root / f"some-{quant}.gguf")
    root_of_mini = snapshot(hub, "owner/mini")
    root_of_mini.rmdir()
    folder_of(root_of_mini, modules=[], config={})
    found = catalogue(tmp_path)
    assert found.names == (
        "owner/mini",
        "owner/some-GGUF",
        "owner/some-GGUF:Q2_K",
        "owner/some-GGUF:Q8_0",
    )
    assert found.resolve("owner/some-GGUF:Q4_K_M")[0] == "owner/some-GGUF"
    assert found.versions("owner/some-GGUF:Q2_K") == ("Q4_K_M", "Q2_K", "Q8_0")
    path = found.entries["owner/some-GGUF"].source.find()
    assert path == root / "some-Q4_K_M.gguf"


def test_folders_that_no_pull_makes_are_passed_over(hub: Path, tmp_path: Path) -> None:
    other = tmp_path / "own" / "models" / "ollama" / "registry.ollama.ai" / ".user" / "m" / "tag"
    other.mkdir(parents=True)
    for root in (snapshot(hub, "../x"), snapshot(hub, "owner/.x"), other):
        tiny_llama().write(root / "model.gguf")
    assert catalogue(tmp_path).names == ()


def test_a_table_wins_over_what_is_found(hub: Path, tmp_path: Path) -> None:
    tiny_llama().write(tmp_path / "a.gguf")
    tiny_llama().write(tmp_path / "b.gguf")
    text = """
    server.models_dir = "."
    [model.mine]
    kind = "text"
    source = "a.gguf"
    context_length = 64
    """
    found = catalogue(tmp_path, text)
    assert found.names == ("mine", "b") and found.entries["mine"].details.context_length == 64


def test_given_files_and_folders_come_with_what_to_do_if_they_are_none(
    hub: Path, tmp_path: Path
) -> None:
    tiny_llama().write(tmp_path / "a.gguf")
    assert catalogue(tmp_path, "", str(tmp_path / "a.gguf")).names == ("a",)
    assert catalogue(tmp_path, "", str(tmp_path)).names == ("a",)
    (tmp_path / "empty").mkdir()
    for given, words in {
        str(tmp_path / "none.gguf"): "is not here",
        "hf:owner/repo/file.gguf": "localinfra pull hf:owner/repo/file.gguf",
        str(tmp_path / "empty"): "has no model",
        "odd:thing": "expected a path",
    }.items():
        with pytest.raises(ConfigError, match=words):
            catalogue(tmp_path, "", given)
    with pytest.raises(ConfigError, match="none is not a folder"):
        catalogue(tmp_path, 'server.models_dir = "none"')
