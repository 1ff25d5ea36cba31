"""Models that need no table in models.toml: files and folders → entries under their own names.

Reads names and the first bytes of files. Imports no library that computes.
"""

import functools
import hashlib
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from localinfra.models import looks, places, quants
from localinfra.models.entries import KINDS, ModelEntry
from localinfra.models.sources import (
    REPO,
    HubSource,
    OllamaSource,
    PathSource,
    Source,
    parse_source,
)

logger = logging.getLogger(__name__)

MAX_DEPTH = 4  # folders below the given one; LM Studio's are PUBLISHER/REPOSITORY/FILE
MAX_NAME = 200  # characters
MAX_PATHS = 20_000  # looked at in one folder, lest a whole disk is searched
NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._/@+-]+")

POOLING_NONE, POOLING_RANK = 0, 4  # enum llama_pooling_type


class FoundModel(NamedTuple):
    name: str
    kind: str
    source: Source
    path: Path  # the file or folder
    aliases: tuple[str, ...] = ()
    version: str | None = None


def with_found(
    entries: Mapping[str, ModelEntry], found: Iterable[FoundModel]
) -> dict[str, ModelEntry]:
    """The entries of models.toml, then what was found and has no table there."""
    paths = {path.resolve() for entry in entries.values() if (path := entry.source.find())}
    names = {id for name, entry in entries.items() for id in (name, *entry.aliases)}
    own_names = frozenset(names)
    together = dict(entries)
    for one in found:
        path = one.path.resolve()
        if path in paths or one.name in own_names:
            continue
        if one.name in names:  # of another file
            one = one._replace(name=distinct(one.name, one.path), aliases=())
        aliases = tuple(alias for alias in one.aliases if alias not in names)
        paths.add(path)
        names.update((one.name, *aliases))
        entry = KINDS[one.kind](source=one.source)
        together[one.name] = msgspec.structs.replace(entry, aliases=aliases, version=one.version)
    return together


def given_models(text: str, folder: Path) -> Iterator[FoundModel]:
    """The models that a user names: a file, a folder of models, or another source. Relative paths
    start at `folder`. Raises ValueError with what to do if there is no model."""
    source = parse_source(text, folder)
    path = source.find()
    if path is None:
        command = source.command(text)
        raise ValueError(f"{text} is not here" + (f": get it with `{command}`" if command else ""))
    if path.is_dir() and not looks.is_library_folder(path):
        found = list(in_folder(path))
        if not found:
            raise ValueError(f"{path} has no model that can be served")
        yield from found
    elif kind := kind_of(path):
        yield FoundModel(own_name(path), kind, source, path)
    else:
        raise ValueError(f"{path} is no model that can be served")


def in_folder(folder: Path) -> Iterator[FoundModel]:
    """The models in a folder and those below it, by name. Warns about files that are damaged."""
    seen: dict[str, Path] = {}
    for path in sorted(model_paths(folder), key=lambda path: (len(path.parts), path)):
        name = own_name(path)
        if name in seen:  # the same file name in two folders
            name = named(str(path.relative_to(folder).with_suffix("")))
        if kind := kind_of(path):
            seen[name] = path
            yield FoundModel(name, kind, PathSource(path), path)


def pulled() -> Iterator[FoundModel]:
    """The models that `localinfra pull` has fetched, and others in the hub's cache. A repository
    with several GGUF files has each as a version."""
    for folder in sorted(places.hub_cache().glob("models--*--*")):
        repo = folder.name.removeprefix("models--").replace("--", "/", 1)
        if not REPO.fullmatch(repo):  # no program's that keeps to the layout
            continue
        root = HubSource(repo).find()
        if root and (kind := kind_of(root)):
            yield FoundModel(named(repo), kind, HubSource(repo), root)
        else:
            yield from quantizations(repo)
    store = places.own_store()
    for path in sorted(store.glob("ollama/*/*/*/*/model.gguf")):
        *_, user, name, tag, _ = path.relative_to(store).parts
        try:
            source = OllamaSource(name if user == "library" else f"{user}/{name}", tag)
        except ValueError:
            continue
        aliases = (named(source.name),) if tag == "latest" else ()
        if kind := kind_of(path):
            yield FoundModel(f"{named(source.name)}:{named(tag)}", kind, source, path, aliases)
    for path in sorted(store.glob("url/*/*.gguf")):
        if kind := kind_of(path):
            yield FoundModel(own_name(path), kind, PathSource(path), path)


def quantizations(repo: str) -> Iterator[FoundModel]:
    """The GGUF files of a repository in the hub's cache. The plain name means the one that
    `localinfra pull` would choose."""
    paths: dict[str, Path] = {}  # by the file's path in the repository, of the newest commit
    for root in places.hub_snapshots(repo):
        for path in model_paths(root):
            paths.setdefault(path.relative_to(root).as_posix(), path)
    usual = quants.choose(paths, None)
    for file, path in sorted(paths.items(), key=lambda item: (item[0] != usual, item[0])):
        source, kind = HubSource(repo, file), kind_of(path)
        if kind and source.find():
            version = named(quants.quant_of(file) or own_stem(path))
            is_usual = file == usual
            name, other = (named(repo), f"{named(repo)}:{version}")[:: 1 if is_usual else -1]
            yield FoundModel(name, kind, source, path, (other,) if is_usual else (), version)


def model_paths(folder: Path, depth: int = MAX_DEPTH) -> Iterator[Path]:
    """GGUF files (of split ones the first part), and folders in the layout of a library."""
    left = MAX_PATHS
    waiting = [(folder, depth)]
    while waiting:
        folder, depth = waiting.pop()
        try:
            entries = list(os.scandir(folder))
        except OSError as error:
            logger.warning("%s can't be searched for models: %s", folder, error.strerror or error)
            continue
        left -= len(entries)
        if left < 0:
            logger.warning("%s has too many files; the search for models ends here", folder)
            return
        for entry in entries:
            path = Path(entry.path)
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                if looks.is_library_folder(path):
                    yield path
                elif depth:
                    waiting.append((path, depth - 1))
            elif quants.is_model(entry.name) and not quants.is_later_part(entry.name):
                yield path


def kind_of(path: Path) -> str | None:
    """Its kind as in models.toml; None if it is no model of a kind that is served."""
    try:
        if path.is_dir():
            return looks.library_kind(path)
        status = path.stat()
        return kind_of_gguf(str(path), status.st_size, status.st_mtime_ns)
    except OSError:
        return None


@functools.lru_cache(maxsize=4096)
def kind_of_gguf(path: str, size_bytes: int, modified_ns: int) -> str | None:
    """`size_bytes` and `modified_ns` tell one content from another."""
    from localinfra.models.gguf.checks import EMBEDDERS
    from localinfra.models.gguf.reader import BadGguf, glance

    try:
        metadata = glance(Path(path))
    except BadGguf as error:
        logger.warning("not served: %s", error)
        return None
    architecture = metadata.get("general.architecture")
    if metadata.get("general.type", "model") != "model" or architecture == "clip":
        return None
    pooling = metadata.get(f"{architecture}.pooling_type", POOLING_NONE)
    if pooling == POOLING_RANK:
        return None  # rerankers are served from safetensors only
    return "embedding" if architecture in EMBEDDERS or pooling != POOLING_NONE else "text"


def own_stem(path: Path) -> str:
    part = quants.PART.fullmatch(path.name)
    return part["stem"] if part else path.name.removesuffix(".gguf")


def own_name(path: Path) -> str:
    stem = own_stem(path)
    return named(stem) or distinct("model", Path(stem))


def distinct(name: str, path: Path) -> str:
    """The name with an end that other paths don't have."""
    end = hashlib.sha256(os.fsencode(path)).hexdigest()[:8]
    return f"{name[: MAX_NAME - 9]}-{end}"


def named(text: str) -> str:
    """The text as a model's name: at most MAX_NAME of the characters that one may have."""
    return NOT_IN_NAMES.sub("-", text).lstrip("._/@+-")[:MAX_NAME]
