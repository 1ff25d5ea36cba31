"""What a pull will do: which files, how large, from where, and where they go. Plain values."""

from dataclasses import dataclass, field
from pathlib import Path

from localinfra.models.fetch.transfer import Blob
from localinfra.models.sources import RemoteSource


@dataclass(frozen=True)
class PlannedFile:
    blob: Blob
    link: Path | None = None  # the name that points to the blob; None: it needs no other


@dataclass(frozen=True)
class Plan:
    """Made by `plan()`, carried out by `fetch()`."""

    source: RemoteSource
    files: tuple[PlannedFile, ...]  # empty: all is here, and nothing was asked of a server
    result: Path  # the file or folder that `source.find()` gives in the end
    license: str | None = None
    commit: tuple[Path, str] | None = None  # a file of one line, written when all is here
    links: tuple[tuple[Path, Path], ...] = ()  # name → blob, for files that are here already
    obsolete: tuple[Path, ...] = ()  # of earlier contents, deleted when all is here
    home: str = ""  # a URL of the origin that may see the token
    token: str | None = field(default=None, repr=False)
    refusal: str = ""  # what to do if the server wants a login

    @property
    def total_bytes(self) -> int:
        return sum(file.blob.size_bytes for file in self.files)

    @property
    def missing_bytes(self) -> int:
        """Bytes still to be fetched; what an interrupted pull left is not among them."""
        return sum(file.blob.size_bytes - file.blob.kept_bytes for file in self.files)

    @property
    def model(self) -> Blob | None:
        """The GGUF file, or its first part; None for a folder."""
        first = self.files[0].blob if self.files else None
        return first if first and first.name.lower().endswith(".gguf") else None
