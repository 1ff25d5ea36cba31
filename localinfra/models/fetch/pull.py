"""Plan and fetch: what the command and the HTTP route call. Both block, so use a thread."""

import contextlib
import os
import secrets
import shutil
import threading
from pathlib import Path

from localinfra import cache
from localinfra.errors import DiskFull, PullFailed, PullRefused
from localinfra.models.fetch.hub import plan_hub
from localinfra.models.fetch.line import Line
from localinfra.models.fetch.ollama import plan_ollama
from localinfra.models.fetch.pace import PACE, Pace
from localinfra.models.fetch.plan import Plan
from localinfra.models.fetch.progress import PullMeter, Show
from localinfra.models.fetch.transfer import Changed, check_space, transfer
from localinfra.models.fetch.web import plan_url
from localinfra.models.sources import HubSource, OllamaSource, RemoteSource, UrlSource


def plan(source: RemoteSource, stop: threading.Event | None = None, pace: Pace = PACE) -> Plan:
    """Asks the server what the source consists of, and looks what is here. Writes nothing.

    Raises ModelNotFound, InvalidRequest (nothing that can be served), PullRefused (log in, or
    accept terms), PullFailed and PullStopped, with what to do.
    """
    stop = stop or threading.Event()
    match source:
        case HubSource():
            return plan_hub(source, stop, pace)
        case OllamaSource():
            return plan_ollama(source, stop, pace)
        case UrlSource():
            return plan_url(source, stop, pace)
    raise TypeError(source)


def fetch(planned: Plan, show: Show, stop: threading.Event, pace: Pace = PACE) -> Path:
    """Fetches what is missing and returns `planned.result`. Calls `show` in this thread, some ten
    times a second.

    Raises PullStopped soon after `stop` is set, PullRefused, PullFailed and DiskFull. What has been
    fetched stays, and the next pull goes on from there, also after KeyboardInterrupt and kill -9.
    """
    try:
        transfer_all(planned, show, stop, pace)
    except Changed:
        planned = plan(planned.source, stop, pace)
        try:
            transfer_all(planned, show, stop, pace)
        except Changed:
            raise PullFailed(f"{planned.source.text} changes all the time.") from None
    try:
        publish(planned)
    except OSError as error:
        raise DiskFull(f"Can't write below {planned.result.parent}: {error}.") from None
    return planned.result


def transfer_all(planned: Plan, show: Show, stop: threading.Event, pace: Pace) -> None:
    check_room(planned)
    meter = PullMeter(planned.total_bytes, show)
    try:
        with Line(planned.token, planned.home, pace) as line:
            for file in planned.files:
                meter.start(file.blob.name)
                transfer(file.blob, line, meter, stop)
                meter.end(file.blob.size_bytes)
    except PullRefused as error:
        raise PullRefused(planned.refusal or error.message) from None


def check_room(planned: Plan) -> None:
    """Raises DiskFull if the missing files don't fit the disk."""
    if planned.files:
        check_space(planned.files[0].blob.path, planned.missing_bytes)


def publish(planned: Plan) -> None:
    """Gives the files their names. Others see all of them or none: `commit` is written last."""
    for path, blob in planned.links:
        with contextlib.suppress(OSError):  # names of files that were not asked for
            link(path, blob)
    for file in planned.files:
        if file.link:
            link(file.link, file.blob.path)
    if planned.commit:
        write(*planned.commit)
    for path in planned.obsolete:
        path.unlink(missing_ok=True)


def link(path: Path, blob: Path) -> None:
    """Makes `path` a name of the blob, as the hub does: by a relative link that may be moved with
    its cache."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.samefile(blob):
        return
    beside = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}")
    try:
        try:
            beside.symlink_to(os.path.relpath(blob, path.parent))
        except OSError:  # a file system without links
            shutil.copyfile(blob, beside)
        os.replace(beside, path)
    except BaseException:  # a full disk, where half a copy would stay
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cache.write_whole(path, text.encode())
