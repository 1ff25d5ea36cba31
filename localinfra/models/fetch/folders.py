"""Which files of a repository a folder of weights needs: names alone, no network.

Weights are taken as safetensors only. A pickle runs code when it is loaded, so a model that has
nothing else is refused.
"""

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from localinfra.errors import InvalidRequest
from localinfra.models import quants
from localinfra.models.entries import EncoderEntry, ImageModelEntry
from localinfra.models.sources import HubSource

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib")
KEPT = (".json", ".txt", ".model", ".safetensors", ".jinja", ".spm", ".tiktoken")
# Tags of repositories whose models compute vectors or scores.
ENCODERS = (
    "sentence-transformers",
    "sentence-similarity",
    "feature-extraction",
    "text-ranking",
    "text-classification",
)
SHARD = re.compile(r"(-\d+-of-\d+)?\.safetensors$")
VARIANT = re.compile(r"(?P<stem>.*[^./])\.\w+")  # .fp16, .non_ema


def is_folder(source: HubSource, names: Sequence[str]) -> bool:
    """Whether the source means a folder, rather than a GGUF file of the repository."""
    if not source.is_repository:
        return False
    return bool(source.patterns) or quants.choose(names, None) is None


def needed(source: HubSource, names: Sequence[str], tags: Sequence[str]) -> list[str]:
    """The files that the folder needs. Raises InvalidRequest for what can't be served."""
    patterns = source.patterns or patterns_for(source.repo, names, tags)
    matching = [
        name
        for name in names
        if any(fnmatchcase(name, pattern) for pattern in patterns)
        and not (source.without and fnmatchcase(name, source.without))
    ]
    folders = {folder(name) for name in matching if name.endswith(".safetensors")}
    pickled_only = [name for name in matching if is_pickle(name) and folder(name) not in folders]
    if not folders:
        pickled_only = pickled_only or list(filter(is_pickle, names))
    if pickled_only and not source.without:
        raise InvalidRequest(pickled(source.repo, pickled_only), "model")
    if not folders:
        raise InvalidRequest(f"{source.repo} has no weights as safetensors or GGUF.", "model")
    weights = [name for name in names if name.endswith(".safetensors")]
    unneeded = variants(weights)
    return sorted(name for name in matching if name.endswith(KEPT) and name not in unneeded)


def patterns_for(repo: str, names: Sequence[str], tags: Sequence[str]) -> tuple[str, ...]:
    """What the kinds of models need, for a repository that models.toml does not name."""
    if "model_index.json" in names:
        return ImageModelEntry.hub_patterns
    if "modules.json" in names or any(tag in ENCODERS for tag in tags):
        return EncoderEntry.hub_patterns
    if any(name.endswith(".safetensors") for name in names):
        raise InvalidRequest(
            f"{repo} is neither an embedder, a reranker nor a diffusers pipeline, and a text model "
            f"is a GGUF file: look for one of it, often {repo.partition('/')[2]}-GGUF.",
            "model",
        )
    return ()


def variants(names: Sequence[str]) -> set[str]:
    """Those that repeat other weights in another precision: `model.fp16.safetensors`."""
    stems = {SHARD.sub("", name) for name in names}
    found = ((name, VARIANT.fullmatch(SHARD.sub("", name))) for name in names)
    return {name for name, match in found if match and match["stem"] in stems}


def is_pickle(name: str) -> bool:
    return name.lower().endswith(PICKLES)


def pickled(repo: str, names: Sequence[str]) -> str:
    return (
        f"{repo} has these weights as pickles only, which can run code: {', '.join(names[:3])}. "
        "Take a repository with safetensors or GGUF files; "
        "https://huggingface.co/spaces/safetensors/convert makes safetensors of them."
    )


def folder(name: str) -> PurePosixPath:
    return PurePosixPath(name).parent
