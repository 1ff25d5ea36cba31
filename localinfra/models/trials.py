"""Projectors that have made llama.cpp crash in their trial: not tried again as long as neither the
files nor llama.cpp have changed, or until `localinfra reload`."""

from pathlib import Path

import msgspec

from localinfra.models import measured
from localinfra.models.known_headers import FileState, states


class CrashedTrial(msgspec.Struct, frozen=True):
    words: str  # what happened
    files: list[FileState]  # as they were


crashes = measured.Records("crashed_trials", CrashedTrial)


def crash_of(name: str, files: list[Path]) -> str | None:
    """What happened in the trial of this name, if the files are the same."""
    known = crashes.find(name)
    return known.words if known and known.files == states(files) else None


def crash_with(files: list[Path]) -> str | None:
    """What happened in a trial of these files, whatever its name."""
    found = states(files)
    return next((known.words for known in crashes.all() if known.files == found), None)


def note_crash(name: str, files: list[Path], words: str) -> None:
    found = states(files)
    if all(path.isprintable() for path, *_ in found):  # JSON can't hold other names
        crashes.keep(name, CrashedTrial(words, found))


def forget_crashes() -> None:
    crashes.clear()
