"""The header of a GGUF file that is not here yet, to say whether the model fits this machine."""

import tempfile
import threading
from pathlib import Path

from localinfra.errors import InvalidRequest, PullRefused
from localinfra.models import looks
from localinfra.models.fetch import journal
from localinfra.models.fetch.line import Line, check
from localinfra.models.fetch.pace import PACE, Pace, Passing
from localinfra.models.fetch.plan import Plan
from localinfra.models.fetch.transfer import Blob
from localinfra.models.gguf.reader import BadGguf, GgufHeader, read_header

# Most headers have 2 to 12 MB, nearly all of it the vocabulary.
SIZES = (3 << 20, 16 << 20, 64 << 20)  # bytes


def peek(plan: Plan, stop: threading.Event, pace: Pace = PACE) -> GgufHeader | None:
    """The header of the plan's model, read from this disk or from its server. None if it can't be
    had: that is no reason not to fetch the file.

    Raises InvalidRequest if the file is no GGUF file, and PullRefused for a login.
    """
    if not plan.files:
        return header_at(plan.result) if plan.result.is_file() else None
    blob = plan.model
    if blob is None or blob.is_here:
        return header_at(blob.path) if blob else None
    if header := begun(blob):
        return header
    try:
        with Line(plan.token, plan.home, pace) as line, tempfile.TemporaryDirectory() as folder:
            return from_start(blob, line, Path(folder, "start.gguf"), stop)
    except (OSError, Passing):
        return None
    except PullRefused as error:
        raise PullRefused(plan.refusal or error.message) from None


def begun(blob: Blob) -> GgufHeader | None:
    """From what an earlier pull has brought, if that is enough."""
    known = journal.read(blob.part_path)
    if known is None or known[0].content != blob.content:
        return None
    header = header_at(blob.part_path)
    (first_bytes, _), *_ = known[1]
    return header if header and header.data_offset <= first_bytes else None


def from_start(blob: Blob, line: Line, file: Path, stop: threading.Event) -> GgufHeader | None:
    """Reads the header from a copy of the file's beginning, followed by a hole."""
    for size in SIZES:
        file.write_bytes(first_bytes(line, blob.url, min(size, blob.size_bytes)))
        if problem := looks.gguf(file):
            raise InvalidRequest(f"{blob.name}{problem.removeprefix(str(file))}", "model")
        with file.open("r+b") as opened:
            opened.truncate(blob.size_bytes)
        header = header_at(file)
        if header or stop.is_set() or size >= blob.size_bytes:
            return header
    return None


def first_bytes(line: Line, url: str, size: int) -> bytes:
    body = bytearray()
    with line.get(url, {"Range": f"bytes=0-{size - 1}"}) as response:
        check(response)
        for chunk in response.iter_raw():
            body += chunk
            if len(body) >= size:
                break
    return bytes(body[:size])


def header_at(path: Path) -> GgufHeader | None:
    for embeds in (False, True):
        try:
            return read_header(path, embeds=embeds)
        except BadGguf:
            continue
    return None
