"""Which models have killed the server, and what follows: safer settings, then none at all.

One small file for each model's identity, which its file's and its settings' changes change: so a
changed model starts anew. Standard library only, as the supervisor imports it.
"""

import contextlib
import json
from collections.abc import Sequence
from enum import IntEnum
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from localinfra import cache

WITHIN_S = 600.0  # of the one before, a death counts
MOST_DEATHS = 20  # kept of a model, the newest
MOST_FILES = 256  # kept, the newest
REMEDY = (
    "It is tried again once its file, its settings or llama.cpp have changed, or as it is after "
    "`localinfra reload`."
)


class Safety(IntEnum):
    NORMAL = 0
    SAFER = 1  # loaded with safer settings
    QUARANTINED = 2  # not loaded


class History(NamedTuple):
    """What is noted about a model."""

    safety: Safety = Safety.NORMAL
    words: str | None = None  # why it is not loaded as it is, for people


class Death(NamedTuple):
    at_s: float  # time.time()
    step: str  # what the model did, as a clause
    cause: str  # a signal's name, or another reason


class Deaths:
    """The files, in a folder that processes share. All methods block for moments; where the folder
    can't be used, nothing is known."""

    def __init__(self, folder: Path):
        self.folder = folder

    @property
    def has_any(self) -> bool:
        """Whether it is worth asking for a model."""
        return next(self.folder.glob("*.json"), None) is not None

    def of(self, identity: str) -> list[Death]:
        try:
            rows = json.loads(self._place(identity).read_text(encoding="utf-8"))["deaths"]
            return [Death(float(at_s), str(step), str(cause)) for at_s, step, cause in rows]
        except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
            return []

    def add(self, identity: str, name: str, death: Death) -> list[Death]:
        """Returns all that are known of the model, with this one."""
        deaths = [*self.of(identity), death][-MOST_DEATHS:]
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            row = json.dumps({"model": name, "deaths": deaths})
            cache.write_whole(self._place(identity), row.encode())
            kept = sorted(self.folder.glob("*.json"), key=lambda file: file.stat().st_mtime)
            for file in kept[:-MOST_FILES]:
                file.unlink()
        return deaths

    def forget(self) -> None:
        """All of them: someone wants the models tried again."""
        for file in self.folder.glob("*.json"):
            file.unlink(missing_ok=True)

    def _place(self, identity: str) -> Path:
        return self.folder / f"{identity}.json"


def history(deaths: Sequence[Death]) -> History:
    """A step further with each death that follows another within WITHIN_S."""
    times = sorted(death.at_s for death in deaths)
    num_pairs = sum(after - before <= WITHIN_S for before, after in pairwise(times))
    safety = Safety(min(num_pairs, Safety.QUARANTINED))
    if safety is Safety.NORMAL:
        return History()
    what = "is not loaded any more"
    if safety is Safety.SAFER:
        safer = "on the CPU, without flash attention, drafts and pictures"
        what = f"is loaded with safer settings: {safer}"
    last = deaths[-1]
    ended = f"It ended the server {len(deaths)} times, last {last.step} (the server {last.cause})"
    return History(safety, f"{ended}, and {what}. {REMEDY}")
