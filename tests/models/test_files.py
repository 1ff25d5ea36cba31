"""Files that can't be a model of their kind at a glance, and the message."""

import os
import struct
from pathlib import Path

import pytest
from models.tiny_gguf import tiny_llama

from localinfra.cli.file_checks import check_files
from localinfra.config import settings as config_file
from localinfra.errors import ConfigError
from localinfra.models import catalog, files
from localinfra.models.catalog import Catalog

GGUF = struct.pack("<4sIQQ", b"GGUF", 3, 1, 1)
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"


def laid_out(folder: Path, tree: dict[str, bytes]) -> None:
    for name, content in tree.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if name.endswith("/") else path.write_bytes(content)


def with_model(folder: Path, kind: str, lines: str = "") -> Catalog:
    """A catalogue of one model at `model` in the folder."""
    path = folder / "models.toml"
    path.write_text(f'[model.x]\nkind = "{kind}"\nsource = "model"\n{lines}')
    return catalog.load(config_file.load(path))


GOOD = [
    ("text", {"model": GGUF}),
    ("text", {"model": GGUF + b"and more"}),
    ("embedding", {"model/config.json": b"{}", "model/model.safetensors": b"x"}),
    ("embedding", {"model/modules.json": b"[]", "model/0_StaticEmbedding/model.safetensors": b"x"}),
    ("rerank", {"model/config.json": b"{}", "model/model.safetensors": b"x"}),
    ("image", {"model/model_index.json": b"{}"}),
]
BAD = [
    ("text", {"model/": b""}, "is a folder without a .gguf file"),
    ("text", {"model/b.gguf": GGUF, "model/a.gguf": GGUF}, "name the file in it: a.gguf, b.gguf"),
    ("text", {f"model/{n}.gguf": GGUF for n in range(9)}, "2.gguf (and 6 more)"),
    ("text", {"model/model.safetensors": b"x", "model/config.json": b""}, "convert_hf_to_gguf.py"),
    ("text", {"model": b"hello, I am a text file"}, "is not a GGUF file: it begins with b'hell'"),
    ("text", {"model": b""}, "is empty"),
    ("text", {"model": b"GGUF"}, "is truncated"),
    ("text", {"model": LFS}, "git lfs pull"),
    ("text", {"model": b"<!DOCTYPE html>"}, "is a web page"),
    ("text", {"model": b'{"error": "no"}'}, "is JSON"),
    ("text", {"model": bytes(64)}, "begins with zeros"),
    ("text", {"model": struct.pack("<4sIQQ", b"GGUF", 1, 1, 1)}, "is GGUF version 1"),
    ("embedding", {"model": b"hello"}, "is not a GGUF file"),
    ("embedding", {"model/": b""}, "has no .safetensors file; an embedding model is a folder"),
    ("embedding", {"model/model.safetensors": b"x"}, "has no config.json"),
    ("embedding", {"model/config.json": b"", "model/pytorch_model.bin": b"x"}, "pickled weights"),
    ("embedding", {"model/config.json": b"", "model/model.safetensors": LFS}, "git lfs pull"),
    ("embedding", {"model/e.gguf": GGUF}, "is a folder; name the file in it: e.gguf"),
    ("rerank", {"model": GGUF}, "is a file; a reranker is a folder"),
    ("rerank", {"model/": b""}, "a reranker is a folder with its weights"),
    ("image", {"model": b"x"}, "is a file; an image model is a folder in diffusers' layout"),
    ("image", {"model/flux.safetensors": b"x"}, "is a folder without model_index.json"),
]


@pytest.mark.parametrize(("kind", "tree"), GOOD)
def test_files_that_may_be_a_model_are_left_to_the_loader(
    tmp_path: Path, kind: str, tree: dict[str, bytes]
) -> None:
    laid_out(tmp_path, tree)
    served = with_model(tmp_path, kind)
    assert files.state(served.entries["x"]) == "present"
    check_files(served, tmp_path / "models.toml")


@pytest.mark.parametrize(("kind", "tree", "told"), BAD)
def test_files_that_can_not_be_a_model_of_their_kind_are_refused_at_start(
    tmp_path: Path, kind: str, tree: dict[str, bytes], told: str
) -> None:
    laid_out(tmp_path, tree)
    served = with_model(tmp_path, kind)
    assert files.state(served.entries["x"]) == "unusable"
    with pytest.raises(ConfigError) as caught:
        check_files(served, tmp_path / "models.toml")
    message = str(caught.value)
    assert message.startswith(f'{tmp_path}/models.toml: [model."x"] source: {tmp_path}/model')
    assert told in message and "\n" not in message


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_files_that_can_not_be_read_are_reported(tmp_path: Path) -> None:
    laid_out(tmp_path, {"model": GGUF})
    (tmp_path / "model").chmod(0)
    [problem] = files.problems(with_model(tmp_path, "text").entries["x"])
    assert problem.endswith("can't be read: Permission denied")


def test_adapters_and_transformers_are_checked_too(tmp_path: Path) -> None:
    laid_out(tmp_path, {"model": GGUF, "a.gguf": GGUF, "b.gguf": b"text"})
    text = with_model(tmp_path, "text", 'lora = [{path = "a.gguf"}, {path = "b.gguf"}]')
    [problem] = files.problems(text.entries["x"])
    assert problem.startswith(f"lora[1].path: {tmp_path}/b.gguf is not a GGUF file")
    (tmp_path / "model").unlink()
    laid_out(tmp_path, {"model/model_index.json": b"{}"})
    image = with_model(tmp_path, "image", 'transformer = "b.gguf"')
    [problem] = files.problems(image.entries["x"])
    assert problem.startswith(f"transformer: {tmp_path}/b.gguf is not a GGUF file")


def test_absent_files_and_incomplete_downloads_do_not_prevent_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    laid_out(
        tmp_path / "models--org--repo", {"refs/main": b"1f", "snapshots/1f/config.json": b"{}"}
    )
    path = tmp_path / "models.toml"
    path.write_text(
        '[model.x]\nkind = "embedding"\nsource = "hf:org/repo"\n'
        '[model.y]\nkind = "text"\nsource = "no/such.gguf"\n'
    )
    check_files(catalog.load(config_file.load(path)), path)
    told = capsys.readouterr().err
    assert '[model."x"] source: ' in told and "has no .safetensors file" in told
    assert "no/such" not in told


def test_for_a_file_without_models_the_message_shows_what_to_write(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "models.toml"
    path.write_text("")
    check_files(catalog.load(config_file.load(path)), path)
    told = capsys.readouterr().err
    assert "no model to serve yet" in told and f"add tables to {path}" in told
    example = told.partition("such as")[2].partition("More")[0]
    path.write_text(example)  # the example is a settings file itself
    assert catalog.load(config_file.load(path)).names == ("my-model",)


def test_a_thorough_check_finds_an_incomplete_download(tmp_path: Path) -> None:
    whole = tiny_llama().to_bytes()
    [entry] = with_model(tmp_path, "text").entries.values()
    laid_out(tmp_path, {"model": whole})
    assert not list(files.problems(entry, is_thorough=True))
    laid_out(tmp_path, {"model": whole[: len(whole) // 2]})
    assert not list(files.problems(entry))
    [problem] = files.problems(entry, is_thorough=True)
    assert "model" in problem and "fetch it again" in problem
