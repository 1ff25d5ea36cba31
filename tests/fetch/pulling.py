"""Pulls as the command does, with small parts and without waiting."""

import threading
from collections.abc import Callable
from pathlib import Path

from localinfra.models.fetch import pull
from localinfra.models.fetch.pace import Pace
from localinfra.models.fetch.progress import PullProgress
from localinfra.models.sources import RemoteSource, parse_source

QUICK = Pace(connections=4, part_bytes=100_000, attempts=4, first_wait_s=0.001)


def remote(text: str) -> RemoteSource:
    source = parse_source(text, Path())
    assert isinstance(source, RemoteSource)
    return source


def pulled(
    text: str,
    pace: Pace = QUICK,
    show: Callable[[PullProgress], None] = lambda progress: None,
    stop: threading.Event | None = None,
) -> Path:
    """Pulls what `text` names, and returns where it is."""
    plan = pull.plan(remote(text), pace=pace)
    return pull.fetch(plan, show, stop or threading.Event(), pace)
