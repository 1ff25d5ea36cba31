"""Repositories of a hub: what is chosen, and where it is stored."""

import json
import os
import random
from pathlib import Path

import pytest
from fetch.pulling import QUICK, pulled, remote
from fetch.site import COMMIT, Site, repository

from localinfra.errors import InvalidRequest, ModelNotFound, PullFailed, PullRefused
from localinfra.models.fetch.pull import plan
from localinfra.models.sources import HubSource, parse_source

WEIGHTS = b"GGUF" + random.Random(2).randbytes(150_000)
GGUFS = {
    "README.md": b"text",
    "imatrix.gguf": b"GGUF-imatrix",
    "m-Q4_K_M.gguf": WEIGHTS,
    "m-Q8_0-00001-of-00002.gguf": b"GGUF-1",
    "m-Q8_0-00002-of-00002.gguf": b"GGUF-2",
    "mmproj-m-F16.gguf": b"GGUF-projector",
}


def put(hub: Site, cdn: Site, files: dict[str, bytes], **more: object) -> None:
    repository(hub, cdn, "org/m", files, **more)


def names(text: str) -> list[str]:
    return [file.blob.name for file in plan(remote(text), pace=QUICK).files]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hf:org/m", ["m-Q4_K_M.gguf", "mmproj-m-F16.gguf"]),
        ("hf:org/m:q4_k_m", ["m-Q4_K_M.gguf", "mmproj-m-F16.gguf"]),
        (
            "hf:org/m:Q8_0",
            ["m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00002-of-00002.gguf", "mmproj-m-F16.gguf"],
        ),
        ("hf:org/m/M-q4_k_m.gguf", ["m-Q4_K_M.gguf", "mmproj-m-F16.gguf"]),
        ("hf:org/m/mmproj-m-F16.gguf", ["mmproj-m-F16.gguf"]),
    ],
)
def test_a_model_is_chosen_with_all_that_belongs_to_it(
    hub: Site, cdn: Site, text: str, expected: list[str]
) -> None:
    put(hub, cdn, GGUFS)
    assert names(text) == expected


def test_an_unknown_quant_is_told_with_those_there_are(hub: Site, cdn: Site) -> None:
    put(hub, cdn, GGUFS)
    with pytest.raises(ModelNotFound, match=r"org/m has no Q5_K_M: Q4_K_M, Q8_0\."):
        names("hf:org/m:Q5_K_M")


def test_a_lost_part_is_an_error(hub: Site, cdn: Site) -> None:
    put(hub, cdn, {"m-00001-of-00002.gguf": b"GGUF"})
    with pytest.raises(ModelNotFound, match="lacks a part of it: m-00002-of-00002"):
        names("hf:org/m")


ENCODER = {
    "README.md": b"text",
    "modules.json": b"[]",
    "config.json": b"{}",
    "model.safetensors": b"weights",
    "model.fp16.safetensors": b"half",
    "pytorch_model.bin": b"pickle",
    "onnx/model.onnx": b"onnx",
    "1_Pooling/config.json": b"{ }",
}


def test_an_embedder_is_a_folder_with_only_the_files_needed(hub: Site, cdn: Site) -> None:
    put(hub, cdn, ENCODER)
    folder = pulled("hf:org/m")
    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert found == ["1_Pooling/config.json", "config.json", "model.safetensors", "modules.json"]
    assert (folder / "1_Pooling/config.json").read_bytes() == b"{ }"
    assert HubSource("org/m").find() == folder


def test_a_pipeline_is_a_folder_of_components(hub: Site, cdn: Site) -> None:
    files = {
        "model_index.json": b"{}",
        "all-in-one.safetensors": b"everything",
        "vae/config.json": b"{}",
        "vae/diffusion.safetensors": b"vae",
        "vae/diffusion.fp16.safetensors": b"half",
        "unet/diffusion-00001-of-00002.safetensors": b"1",
        "unet/diffusion-00002-of-00002.safetensors": b"2",
        "unet/diffusion.fp16-00001-of-00001.safetensors": b"half",
        "unet/diffusion.bin": b"pickle",
        "unet/code.py": b"import os",
    }
    put(hub, cdn, files)
    unneeded = ("fp16", "all-in-one", ".bin", ".py")
    expected = sorted(name for name in files if not any(part in name for part in unneeded))
    assert names("hf:org/m") == expected


@pytest.mark.parametrize(
    "files",
    [
        {"config.json": b"{}", "modules.json": b"[]", "pytorch_model.bin": b"pickle"},
        {
            "model_index.json": b"{}",
            "vae/diffusion.safetensors": b"vae",
            "unet/diffusion.ckpt": b"pickle",
        },
    ],
)
def test_pickles_alone_are_refused(hub: Site, cdn: Site, files: dict[str, bytes]) -> None:
    put(hub, cdn, files)
    with pytest.raises(InvalidRequest, match="as pickles only, which can run code"):
        names("hf:org/m")


def test_a_pickle_is_refused_by_name_too(hub: Site, cdn: Site) -> None:
    put(hub, cdn, {"model.bin": b"pickle"})
    with pytest.raises(InvalidRequest, match="which can run code"):
        names("hf:org/m/model.bin")


def test_safetensors_of_a_text_model_are_refused_with_what_to_look_for(
    hub: Site, cdn: Site
) -> None:
    files = {"config.json": b"{}", "model.safetensors": b"weights"}
    put(hub, cdn, files, pipeline_tag="text-generation")
    with pytest.raises(InvalidRequest, match="often m-GGUF"):
        names("hf:org/m")


def test_the_cache_is_as_the_hubs_own_library_leaves_it(hub: Site, cdn: Site) -> None:
    put(hub, cdn, GGUFS)
    path = pulled("hf:org/m")
    folder = path.parents[2]
    assert path == folder / "snapshots" / COMMIT / "m-Q4_K_M.gguf"
    assert os.readlink(path).startswith("../../blobs/")
    assert (folder / "refs" / "main").read_text() == COMMIT
    from huggingface_hub import scan_cache_dir, try_to_load_from_cache

    assert try_to_load_from_cache("org/m", "m-Q4_K_M.gguf", folder.parent) == str(path)
    scanned = scan_cache_dir(folder.parent)
    assert [repo.repo_id for repo in scanned.repos] == ["org/m"]
    assert not scanned.warnings


def test_every_form_of_source_finds_what_was_pulled(hub: Site, cdn: Site) -> None:
    put(hub, cdn, GGUFS)
    path = pulled("hf:org/m")
    for text in ("hf:org/m:Q4_K_M", "hf:org/m:q4_k_m", "hf:org/m/m-Q4_K_M.gguf"):
        assert parse_source(text, Path()).find() == path
    assert parse_source("hf:org/m:Q8_0", Path()).find() is None
    assert plan(remote("hf:org/m"), pace=QUICK).source.text == "hf:org/m:Q4_K_M"


def test_what_others_fetched_is_not_fetched_again(hub: Site, cdn: Site, tmp_path: Path) -> None:
    put(hub, cdn, GGUFS)
    pulled("hf:org/m")
    sent = cdn.sent_bytes
    listing = json.loads(hub.answers["/api/models/org/m"])
    hub.answers["/api/models/org/m"] = json.dumps(listing | {"sha": "f" * 40}).encode()
    assert pulled("hf:org/m").parent.name == "f" * 40
    assert cdn.sent_bytes == sent


def test_a_file_of_an_earlier_commit_is_still_found(hub: Site, cdn: Site) -> None:
    put(hub, cdn, GGUFS)
    pulled("hf:org/m:Q8_0")
    put(hub, cdn, GGUFS | {"m-Q8_0-00001-of-00002.gguf": b"GGUF-anew"}, sha="f" * 40)
    hub.redirects |= {path.replace(COMMIT, "f" * 40): url for path, url in hub.redirects.items()}
    assert pulled("hf:org/m").parent.name == "f" * 40
    found = parse_source("hf:org/m:Q8_0", Path()).find()
    assert found and found.read_bytes() == b"GGUF-1"


def test_lm_studios_file_is_used_where_it_is(hub: Site, cdn: Site, tmp_path: Path) -> None:
    put(hub, cdn, GGUFS)
    path = tmp_path / "home" / ".lmstudio" / "models" / "org" / "m" / "m-Q4_K_M.gguf"
    path.parent.mkdir(parents=True)
    path.write_bytes(WEIGHTS)
    assert pulled("hf:org/m:Q4_K_M") == path
    assert not hub.requests and not cdn.requests


def test_offline_what_is_here_is_used_and_nothing_is_asked(
    hub: Site, cdn: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(hub, cdn, GGUFS)
    path = pulled("hf:org/m")
    hub.requests.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert pulled("hf:org/m:Q4_K_M") == path
    with pytest.raises(PullFailed, match="HF_HUB_OFFLINE is set: unset it"):
        pulled("hf:org/m:Q8_0")
    assert not hub.requests


def test_the_license_is_shown(hub: Site, cdn: Site) -> None:
    for license, expected in (("mit", "mit"), (["mit", "gpl"], "mit, gpl"), (7, None)):
        put(hub, cdn, GGUFS, cardData={"license": license})
        assert plan(remote("hf:org/m"), pace=QUICK).license == expected


def test_an_unknown_repository_is_an_error_that_names_it(hub: Site) -> None:
    with pytest.raises(ModelNotFound, match="has no model 'org/nothing'"):
        names("hf:org/nothing")
    hub.token = "hf_secret"  # the real one says 401 to strangers
    with pytest.raises(PullRefused, match="does not exist, is private"):
        names("hf:org/nothing")


HASH = "ab" * 32


@pytest.mark.parametrize(
    "file",
    [
        {"rfilename": "../../m.gguf"},
        {"rfilename": "/etc/m.gguf"},
        {"rfilename": "a\\..\\m.gguf"},
        {"rfilename": "\x1b[2Jm.gguf"},
        {"size": -1},
        {"size": 1 << 60},
        {"size": None},
        {"lfs": {"sha256": "../../x", "size": 1}},
        {"lfs": None, "blobId": "../x"},
    ],
)
def test_a_file_that_cant_be_stored_or_verified_is_not_there(
    hub: Site, file: dict[str, object]
) -> None:
    row = {"rfilename": "m.gguf", "size": 1, "lfs": {"sha256": HASH, "size": 1}} | file
    hub.answers["/api/models/org/m"] = json.dumps({"sha": COMMIT, "siblings": [row]}).encode()
    with pytest.raises((ModelNotFound, InvalidRequest)):
        names("hf:org/m")


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"<html>", b'{"sha": "../../x"}', b'{"sha": 1}', b'{"siblings": []}']
)
def test_a_listing_that_makes_no_sense_is_an_error(hub: Site, body: bytes) -> None:
    hub.answers["/api/models/org/m"] = body
    with pytest.raises(PullFailed, match="lists org/m"):
        names("hf:org/m")


def test_an_endless_listing_is_cut(hub: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("localinfra.models.fetch.hub.LISTING_LIMIT", 100_000)
    hub.answers["/api/models/org/m"] = bytes(200_000)
    with pytest.raises(PullFailed, match="more than 100,000 bytes"):
        names("hf:org/m")
