"""Where models are: Hugging Face's hub and its cache, Ollama's folder, LM Studio's and our own.

Only names and manifests are read. Ollama's and LM Studio's folders are never written to.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from localinfra.machine import cache_folder

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
MANIFEST_LIMIT = 4 << 20  # bytes; real ones have under 2 kB
OLLAMA_MODEL = "application/vnd.ollama.image.model"
OLLAMA_PROJECTOR = "application/vnd.ollama.image.projector"


def hub_cache() -> Path:
    """https://huggingface.co/docs/huggingface_hub/guides/manage-cache has the layout."""
    named = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    return _expanded(named) if named else hub_home() / "hub"


def hub_url() -> str:
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def hub_home() -> Path:
    if named := os.environ.get("HF_HOME"):
        return _expanded(named)
    return _expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"


def hub_folder(repo: str) -> Path:
    """Of a repository in the hub's cache."""
    return hub_cache() / f"models--{repo.replace('/', '--')}"


def hub_snapshots(repo: str) -> list[Path]:
    """The repository's commits in the hub's cache: that of `main`, then the others, newest first.
    Empty unless `main` is known, which is written last."""
    folder = hub_folder(repo)
    try:
        commit = (folder / "refs" / "main").read_text().strip()
        found = {path: path.stat().st_mtime for path in (folder / "snapshots").iterdir()}
    except (OSError, UnicodeDecodeError):
        return []
    return sorted(found, key=lambda path: (path.name != commit, -found[path]))


def own_store() -> Path:
    """Files from elsewhere: `blobs/` by hash, and links to them below `ollama/` and `url/`."""
    return cache_folder("models")


def own_blob(name: str) -> tuple[Path, Path]:
    """Its place, and that of its lock."""
    return own_store() / "blobs" / name, own_store() / ".locks" / f"{name}.lock"


def lm_studio_folders() -> Iterator[Path]:
    """They hold OWNER/REPO/FILE.gguf."""
    for folder in ("~/.lmstudio/models", "~/.cache/lm-studio/models"):
        if (path := _expanded(folder)).is_dir():
            yield path


def ollama_folders() -> Iterator[Path]:
    """The user's, and that of the service which Ollama's installer makes on Linux."""
    named = os.environ.get("OLLAMA_MODELS")
    for folder in (named, "~/.ollama/models", "/usr/share/ollama/.ollama/models"):
        if folder and (path := _expanded(folder)).is_dir():
            yield path


class OllamaLayer(msgspec.Struct, frozen=True, rename="camel"):
    media_type: str
    digest: str  # sha256:…
    size: int  # bytes


class OllamaManifest(msgspec.Struct, frozen=True):
    """https://github.com/opencontainers/image-spec/blob/main/manifest.md"""

    layers: tuple[OllamaLayer, ...] = ()

    def layer(self, kind: str) -> OllamaLayer | None:
        return next((layer for layer in self.layers if layer.media_type == kind), None)


def ollama_blob(manifest_path: str, kind: str = OLLAMA_MODEL) -> Path | None:
    """Returns the model's GGUF file that Ollama has, or its layer of another `kind`, by its
    manifest's path below `manifests/`."""
    for folder in ollama_folders():
        try:
            with (folder / "manifests" / manifest_path).open("rb") as file:
                manifest = msgspec.json.decode(file.read(MANIFEST_LIMIT), type=OllamaManifest)
        except (OSError, msgspec.DecodeError):
            continue
        layer = manifest.layer(kind)
        if layer and (path := ollama_file(folder, layer)):
            return path
    return None


def ollama_file(folder: Path, layer: OllamaLayer) -> Path | None:
    """The layer's blob in one of Ollama's folders, if it is there in full."""
    if not DIGEST.fullmatch(layer.digest):
        return None
    path = folder / "blobs" / layer.digest.replace(":", "-")
    try:
        return path if path.stat().st_size == layer.size else None
    except OSError:
        return None


def _expanded(path: str) -> Path:
    return Path(os.path.expandvars(path)).expanduser()
