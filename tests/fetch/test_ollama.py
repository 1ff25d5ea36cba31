"""Models of Ollama's registry, and those that Ollama has on this machine."""

import hashlib
import json
from pathlib import Path

import pytest
from fetch.pulling import QUICK, pulled, remote
from fetch.site import Site, registry

from localinfra.errors import InvalidRequest, ModelNotFound, PullFailed, PullRefused
from localinfra.models.fetch.pull import plan

DATA = b"GGUF" + bytes(300_000)


@pytest.fixture
def text(hub: Site) -> str:
    registry(hub, "me/m/8b", {"model": DATA, "license": b"\n Apache 2\nmore", "projector": b"GGUF"})
    return f"ollama:{hub.url.removeprefix('http://')}/me/m:8b"


def test_a_model_comes_by_its_digest_with_its_projector(text: str) -> None:
    path = pulled(text)
    assert path.read_bytes() == DATA
    assert path.with_name("mmproj.gguf").read_bytes() == b"GGUF"
    assert remote(text).find() == path
    assert plan(remote(text), pace=QUICK).license == "Apache 2"


def test_ollamas_own_blob_is_used_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "ollama"
    digest = hashlib.sha256(DATA).hexdigest()
    blob = folder / "blobs" / f"sha256-{digest}"
    manifest = folder / "manifests" / "registry.ollama.ai" / "library" / "llama3" / "latest"
    for path in (blob, manifest):
        path.parent.mkdir(parents=True)
    blob.write_bytes(DATA)
    layer = {
        "mediaType": "application/vnd.ollama.image.model",
        "digest": f"sha256:{digest}",
        "size": len(DATA),
    }
    manifest.write_text(json.dumps({"layers": [layer]}))
    monkeypatch.setenv("OLLAMA_MODELS", str(folder))
    assert remote("ollama:llama3").find() == blob
    assert pulled("ollama:llama3") == blob
    blob.write_bytes(DATA[:-1])
    assert remote("ollama:llama3").find() is None, "Ollama has not finished it"


def test_an_unknown_model_is_an_error_that_names_it(text: str) -> None:
    with pytest.raises(ModelNotFound, match=r"has no model ollama:.*/me/m:70b"):
        pulled(text.replace("8b", "70b"))


def test_a_private_model_is_left_to_ollama(hub: Site, text: str) -> None:
    hub.token = "secret"
    with pytest.raises(PullRefused, match="get it with `ollama pull`"):
        pulled(text)


def test_a_model_with_an_adapter_is_refused(hub: Site, text: str) -> None:
    registry(hub, "me/m/8b", {"model": DATA, "adapter": b"GGUF"})
    with pytest.raises(InvalidRequest, match="needs a LoRA adapter"):
        pulled(text)


@pytest.mark.parametrize("digest", ["sha256:../../x", "md5:00", "sha256-" + "0" * 64])
def test_a_digest_that_is_none_is_refused(hub: Site, text: str, digest: str) -> None:
    layer = {"mediaType": "application/vnd.ollama.image.model", "digest": digest, "size": 1}
    hub.answers["/v2/me/m/manifests/8b"] = json.dumps({"layers": [layer]}).encode()
    with pytest.raises(PullFailed, match="a layer without a SHA-256"):
        pulled(text)
