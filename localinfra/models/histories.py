"""What the supervisor has noted about a model: how often it has ended the server."""

from localinfra import machine
from localinfra.deaths import Deaths, History, history
from localinfra.models import measured
from localinfra.models.entries import ModelEntry


def deaths() -> Deaths:
    """What it noted holds for every server with this cache, supervised or not."""
    return Deaths(machine.cache_folder("deaths"))


def history_of(entry: ModelEntry) -> History:
    """Of the entry's files and settings as they are. Blocks for moments."""
    known = deaths()
    return history(known.of(measured.identity(entry))) if known.has_any else History()
