"""Which files go when a pulled model is removed: never those of models.toml's paths, of packages or
of other programs' folders.

Blocking. The hub's cache is shared with other programs, so ask before `remove`.
"""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from localinfra.errors import InvalidRequest
from localinfra.models import places, quants
from localinfra.models.sources import HubSource, OllamaSource, PackageSource, Source


@dataclass(frozen=True)
class Removal:
    """What removing a model deletes."""

    names: tuple[Path, ...]  # links, or files without one
    blobs: tuple[Path, ...]  # their contents, as far as no other name needs them
    size_bytes: int


def plan_removal(name: str, source: Source) -> Removal:
    """Raises InvalidRequest if the files are not here, or not from a pull."""
    path = source.find()
    if path is None:
        raise InvalidRequest(f"The files of {name} are not here: nothing to remove.", "model")
    roots = [places.hub_folder(source.repo)] if isinstance(source, HubSource) else []
    roots.append(places.own_store())
    root = next((root for root in roots if path.is_relative_to(root)), None)
    if root is None:
        raise InvalidRequest(f"{path} was not pulled, so it is not removed: {how(source)}", "model")
    names = tuple(
        file
        for copy, folder in copies(path, root)
        for file in (*files_of(copy), *projector_of(copy, folder))
    )
    others = {link.resolve() for link in links_below(root) if link not in names}
    contents = {link.resolve() for link in names if link.is_symlink()}
    blobs = tuple(sorted(blob for blob in contents - others if blob.is_relative_to(root.resolve())))
    files = [link for link in names if not link.is_symlink()]
    return Removal(names, blobs, total_bytes((*blobs, *files)))


def how(source: Source) -> str:
    """To remove what was not pulled."""
    match source:
        case PackageSource():
            return f"it goes with its package, {source.package}."
        case OllamaSource():
            return f"`ollama rm {source.name}:{source.tag}` does it."
    return "delete it yourself, and what refers to it in models.toml."


def total_bytes(files: Iterable[Path]) -> int:
    """Of those that are there: some may be lost, and links lead nowhere."""
    return sum(file.stat().st_size for file in files if file.exists())


def copies(path: Path, root: Path) -> Iterator[tuple[Path, Path]]:
    """The file or folder in each commit that the cache has of a repository, and the commit's
    folder; else itself and the folder around it."""
    snapshots = root / "snapshots"
    if not path.is_relative_to(snapshots):
        yield path, path.parent
        return
    _, *rest = path.relative_to(snapshots).parts
    for commit in snapshots.iterdir():
        if (copy := commit.joinpath(*rest)).exists():
            yield copy, commit


def files_of(path: Path) -> Iterator[Path]:
    """All files of a model: of a folder, or the parts of a split one."""
    if path.is_dir():
        yield from sorted(file for file in path.rglob("*") if not file.is_dir())
    else:
        yield from (path.with_name(part) for part in quants.parts(path.name))


def projector_of(path: Path, folder: Path) -> Iterator[Path]:
    """The mmproj file that came with a GGUF file, unless another model in the folder needs it."""
    if path.is_dir():
        return
    names = [file.relative_to(folder).as_posix() for file in folder.rglob("*.gguf")]
    model = path.relative_to(folder).as_posix()
    needed = {
        quants.projector(names, name)
        for name in names
        if quants.is_model(name) and name not in quants.parts(model)
    }
    found = quants.projector(names, model)
    if found and found not in needed:
        yield folder / found


def links_below(root: Path) -> Iterator[Path]:
    return (path for path in root.rglob("*") if path.is_symlink())


def remove(planned: Removal) -> None:
    """Deletes the files, and the folders that are empty then. Raises OSError."""
    for path in (*planned.names, *planned.blobs):
        path.unlink(missing_ok=True)
    for folder in {path.parent for path in planned.names}:
        drop_empty(folder)


def drop_empty(folder: Path) -> None:
    """Deletes the folder and those above it while they are empty, up to the cache itself, and what
    the cache keeps beside a repository's last commit."""
    caches = {places.hub_cache(), places.own_store()}
    for at in (folder, *folder.parents):
        if at in caches or caches.isdisjoint(at.parents):
            return
        try:
            at.rmdir()
        except FileNotFoundError:
            continue
        except OSError:  # not empty
            return
        if at.name == "snapshots":
            for ref in at.with_name("refs").glob("*"):
                ref.unlink(missing_ok=True)
            for beside in ("refs", "blobs", ".no_exist"):
                with contextlib.suppress(OSError):
                    at.with_name(beside).rmdir()
