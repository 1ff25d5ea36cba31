"""What a projector lets a model read besides text, as its file says. Reads headers."""

import functools
from enum import Enum
from pathlib import Path

from localinfra.models.gguf.header import BadGguf
from localinfra.models.gguf.hearing import KINDS, kind_in


class Sense(Enum):
    SIGHT = "see"
    HEARING = "hear"

    @property
    def verb(self) -> str:
        return self.value


def senses_of(projector: Path) -> frozenset[Sense]:
    try:
        status = projector.stat()
    except OSError:
        return frozenset()
    return _senses(projector, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _senses(projector: Path, size_bytes: int, mtime_ns: int) -> frozenset[Sense]:
    from localinfra.models.gguf.reader import glance

    try:
        metadata = glance(projector)
    except BadGguf:  # its load will say so; nearly all projectors have eyes
        return frozenset({Sense.SIGHT})
    sees = metadata.get("clip.has_vision_encoder") is True
    found = {Sense.SIGHT: sees, Sense.HEARING: kind_in(metadata) in KINDS}
    return frozenset(sense for sense, has in found.items() if has)
