"""What files show at a glance: names and first bytes. Knows paths, but not entries.

Cheap enough for every start and every listing, except `gguf_header`. The loaders check the rest.
"""

import functools
import json
from pathlib import Path

from localinfra.models.sampling import SamplingSettings, recommended_in

GIT_LFS = b"version https://git-lfs"


def gguf(path: Path) -> str | None:
    # Imports numpy, which reading settings does not need.
    from localinfra.models.gguf.reader import BadGguf, check_start

    try:
        check_start(path)
    except BadGguf as error:
        return str(error)
    return None


def gguf_header(path: Path, *, embeds: bool = False, mtp: bool = False) -> str | None:
    """Checks the whole header, which takes a tenth of a second. With `mtp`, its MTP layers are to
    draft."""
    from localinfra.models.gguf.mtp import mtp_problem
    from localinfra.models.gguf.reader import BadGguf, read_header

    try:
        header = read_header(path, embeds=embeds)
    except BadGguf as error:
        return str(error)
    return mtp_problem(header) if mtp else None


def recommended_by(path: Path) -> SamplingSettings | None:
    """The recommendation in a file's first bytes, which are read once. None if there is none, or
    the file can't be read."""
    try:
        status = path.stat()
    except OSError:
        return None
    return _recommended_by(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _recommended_by(path: Path, size_bytes: int, modified_ns: int) -> SamplingSettings | None:
    """`size_bytes` and `modified_ns` tell one content from another."""
    from localinfra.models.gguf.reader import BadGguf, glance

    try:
        return recommended_in(glance(path))
    except BadGguf:  # the load will say why
        return None


def ggufs_inside(folder: Path) -> str:
    """Why a folder can't be used where one file is wanted, and what to name instead."""
    if names := sorted(file.name for file in folder.glob("*.gguf")):
        more = f" (and {len(names) - 3} more)" if len(names) > 3 else ""
        return f"{folder} is a folder; name the file in it: {', '.join(names[:3])}{more}"
    if any(folder.glob("*.safetensors")):
        return (
            f"{folder} is a folder of safetensors; a text model is one GGUF file: fetch a .gguf of "
            "this model, or make one with llama.cpp's convert_hf_to_gguf.py"
        )
    return f"{folder} is a folder without a .gguf file; a text model is one GGUF file"


def pipeline(path: Path) -> str | None:
    if (path / "model_index.json").is_file():
        return None
    what = "a folder without model_index.json" if path.is_dir() else "a file"
    return f"{path} is {what}; an image model is a folder in diffusers' layout"


def safetensors(folder: Path) -> list[Path]:
    return [*folder.glob("*.safetensors"), *folder.glob("*/*.safetensors")]


def encoder(path: Path, article: str) -> str | None:
    """`article`: the kind of model, in the message."""
    if not path.is_dir():
        return f"{path} is a file; {article} is a folder with config.json and safetensors"
    weights = safetensors(path)
    if not weights:
        if any(path.glob("*.bin")):
            return (
                f"{path} has pickled weights only (.bin), which can run code; fetch the model's "
                "safetensors files"
            )
        return f"{path} has no .safetensors file; {article} is a folder with its weights"
    if not any((path / name).is_file() for name in ("config.json", "modules.json")):
        return f"{path} has no config.json; fetch the whole repository, not the weights alone"
    for file in weights:
        with file.open("rb") as opened:
            if opened.read(len(GIT_LFS)) == GIT_LFS:
                return f"{file} is a git-lfs pointer, not the weights; run `git lfs pull`"
    return None


def is_library_folder(path: Path) -> bool:
    """Whether it may be a model in a library's layout rather than a folder of models."""
    return any((path / name).is_file() for name in ("model_index.json", "config.json"))


def library_kind(folder: Path) -> str | None:
    """The kind of model, as in models.toml, that a library's files make; None if none that is
    served."""
    if (folder / "model_index.json").is_file():
        return "image"
    if not safetensors(folder):
        return None
    if (folder / "modules.json").is_file():
        return "embedding"
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    names = config.get("architectures") if isinstance(config, dict) else None
    first = str(names[0]) if isinstance(names, list) and names else ""
    return "rerank" if first.endswith("ForSequenceClassification") else None
