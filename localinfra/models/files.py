"""Checks whether an entry's files are here and can be a model of its kind."""

from collections.abc import Iterator
from pathlib import Path

from localinfra.models import looks, sources
from localinfra.models.entries import ModelEntry, TextModelEntry

UNUSABLE = "unusable"


def state(entry: ModelEntry) -> str:
    """Returns `present`, `unusable`, or how the files are absent."""
    found = sources.state(entry.source)
    return UNUSABLE if found == "present" and any(problems(entry)) else found


def problems(entry: ModelEntry, *, is_thorough: bool = False) -> Iterator[str]:
    """Yields why files that are here can't be used, after the key that names them. (`sources`
    reports absent files.) With `is_thorough`, reads whole headers, which takes a tenth of a second
    for each GGUF file and detects a download that was cut off."""
    found = entry.source.find()
    if found is not None and (problem := _problem(entry, found)):
        yield f"source: {problem}"
    elif found is not None and is_thorough and (problem := entry.problem_inside(found)):
        yield f"source: {problem}"
    if isinstance(entry, TextModelEntry) and entry.draft and entry.draft.find() is None:
        yield f"draft: {entry.draft.remedy(entry.draft.name)}"
    for key, path in entry.other_ggufs.items():
        if problem := looks.gguf(path):
            yield f"{key}: {problem}"


def _problem(entry: ModelEntry, path: Path) -> str | None:
    try:
        return entry.problem(path)
    except OSError as error:
        return f"{path} can't be read: {error.strerror or error}"
