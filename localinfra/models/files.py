"""Whether the files of an entry can be a model of its kind, by looks: first bytes and names.

Cheap enough for every start and every list. What is inside, the loaders judge, and `problems` where
it is told to be thorough.
"""

from collections.abc import Iterator
from pathlib import Path

from localinfra.models import sources
from localinfra.models.catalog import (
    EmbeddingModelEntry,
    ImageModelEntry,
    ModelEntry,
    TextModelEntry,
)
from localinfra.models.gguf.reader import BadGguf, check_start, read_header

UNUSABLE = "unusable"
GIT_LFS = b"version https://git-lfs"


def state(entry: ModelEntry) -> str:
    """Returns `present`, `unusable`, or how the files are absent."""
    found = sources.state(entry.source)
    return UNUSABLE if found == "present" and any(problems(entry)) else found


def problems(entry: ModelEntry, *, is_thorough: bool = False) -> Iterator[str]:
    """Yields why files that are here can't be used, after the key that names them. That they are
    absent, `sources` tells. With `is_thorough`, whole headers are read: a tenth of a second for
    each GGUF file, which shows one whose download was cut."""
    found = entry.source.find()
    if found is not None and (problem := _checked(entry, found)):
        yield f"source: {problem}"
    elif found is not None and is_thorough and (problem := _header(entry, found)):
        yield f"source: {problem}"
    for key, path in _other_ggufs(entry):
        if problem := _gguf(path):
            yield f"{key}: {problem}"


def _other_ggufs(entry: ModelEntry) -> Iterator[tuple[str, Path]]:
    if isinstance(entry, TextModelEntry):
        yield from ((f"lora[{at}].path", one.path) for at, one in enumerate(entry.lora))
    if isinstance(entry, ImageModelEntry) and entry.transformer:
        if path := entry.transformer.find():
            yield "transformer", path


def _checked(entry: ModelEntry, path: Path) -> str | None:
    try:
        if isinstance(entry, TextModelEntry):
            return _inside(path) if path.is_dir() else _gguf(path)
        if isinstance(entry, ImageModelEntry):
            return _pipeline(path)
        return _encoder(entry, path)
    except OSError as error:
        return f"{path} can't be read: {error.strerror or error}"


def _gguf(path: Path) -> str | None:
    try:
        check_start(path)
    except BadGguf as error:
        return str(error)
    return None


def _header(entry: ModelEntry, path: Path) -> str | None:
    if path.is_dir() or not isinstance(entry, TextModelEntry | EmbeddingModelEntry):
        return None
    try:
        read_header(path, embeds=isinstance(entry, EmbeddingModelEntry))
    except BadGguf as error:
        return str(error)
    return None


def _inside(folder: Path) -> str:
    """What to name instead of a folder, where one file is wanted."""
    if names := sorted(file.name for file in folder.glob("*.gguf")):
        more = f" (and {len(names) - 3} more)" if len(names) > 3 else ""
        return f"{folder} is a folder; name the file in it: {', '.join(names[:3])}{more}"
    if any(folder.glob("*.safetensors")):
        return (
            f"{folder} is a folder of safetensors; a text model is one GGUF file: fetch a .gguf of "
            "this model, or make one with llama.cpp's convert_hf_to_gguf.py"
        )
    return f"{folder} is a folder without a .gguf file; a text model is one GGUF file"


def _pipeline(path: Path) -> str | None:
    if (path / "model_index.json").is_file():
        return None
    what = "a folder without model_index.json" if path.is_dir() else "a file"
    return f"{path} is {what}; an image model is a folder in diffusers' layout"


def _encoder(entry: ModelEntry, path: Path) -> str | None:
    if not path.is_dir():
        if not isinstance(entry, EmbeddingModelEntry):
            return f"{path} is a file; {entry.article} is a folder with config.json and safetensors"
        if path.suffix != ".gguf":
            return (
                f"{path} is neither a folder of sentence-transformers nor a file whose name ends "
                "in .gguf"
            )
        return _gguf(path)
    weights = [*path.glob("*.safetensors"), *path.glob("*/*.safetensors")]
    if not weights:
        if any(path.glob("*.gguf")) and isinstance(entry, EmbeddingModelEntry):
            return _inside(path)
        if any(path.glob("*.bin")):
            return (
                f"{path} has pickled weights only (.bin), which can run code; fetch the model's "
                "safetensors files"
            )
        return f"{path} has no .safetensors file; {entry.article} is a folder with its weights"
    if not any((path / name).is_file() for name in ("config.json", "modules.json")):
        return f"{path} has no config.json; fetch the whole repository, not the weights alone"
    for file in weights:
        with file.open("rb") as opened:
            if opened.read(len(GIT_LFS)) == GIT_LFS:
                return f"{file} is a git-lfs pointer, not the weights; run `git lfs pull`"
    return None
