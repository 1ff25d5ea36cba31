"""One file from a server to its place: in parallel ranges, resumed, verified, and once at a time.

Owns the threads that fetch. The file appears under its name only when it is whole and its hash is
right; until then it is `NAME.part`, with a journal. See `journal.py` for what survives.
"""

import hashlib
import queue
import re
import secrets
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Literal

import httpx2
from msgspec.structs import replace

from localinfra.cache import LockHeld, locked
from localinfra.errors import DiskFull, PullFailed, PullStopped
from localinfra.models import looks
from localinfra.models.fetch import journal
from localinfra.models.fetch.journal import About, Journal, Part, PartWriter
from localinfra.models.fetch.line import Line, check
from localinfra.models.fetch.pace import KEPT, Passing, Patience
from localinfra.models.fetch.progress import PullMeter

SPARE_BYTES = 256 << 20  # of the disk, left free
MOST_ROUNDS = 3  # bytes that a disk lost, then bytes that came wrong, and the last try
CHECKED_BYTES = 32 << 20  # at each look, so up to 320 MB/s
LOOK_S = 0.1  # between two looks at the threads' work
CONTENT_RANGE = re.compile(r"bytes (\d{1,15})-\d{1,15}/(?P<size>\d{1,15})")


@dataclass(frozen=True)
class Hash:
    kind: Literal["sha256", "git"]  # git: the SHA-1 of a blob in Git
    hex: str

    def begin(self, size_bytes: int) -> "hashlib._Hash":
        if self.kind == "sha256":
            return hashlib.sha256()
        return hashlib.sha1(b"blob %d\0" % size_bytes, usedforsecurity=False)


@dataclass(frozen=True)
class Blob:
    """A file that a server promised."""

    name: str  # for people
    url: str
    size_bytes: int
    path: Path  # where it goes
    lock: Path
    hash: Hash | None  # None: its server gave none
    etag: str | None = None  # of the content, where there is no hash

    @property
    def content(self) -> str | None:
        """What tells this content from another under the same URL."""
        return f"{self.hash.kind}:{self.hash.hex}" if self.hash else self.etag

    @property
    def part_path(self) -> Path:
        return self.path.with_name(f"{self.path.name}.part")

    @property
    def is_here(self) -> bool:
        try:
            return self.path.stat().st_size == self.size_bytes
        except OSError:
            return False

    @property
    def kept_bytes(self) -> int:
        """Bytes on this disk already, of the file or of an unfinished one."""
        if self.is_here:
            return self.size_bytes
        known = journal.read(self.part_path)
        is_same = known is not None and known[0].content == self.content
        return sum(done for done, _ in known[1]) if known and is_same else 0


class Changed(Exception):
    """The content under the URL is not the one that was promised."""


class NoRanges(Exception):
    """The server sends whole files only."""


def transfer(blob: Blob, line: Line, meter: PullMeter, stop: threading.Event) -> None:
    """Blocks until the file is at its place. While another process fetches it, shows that one's
    progress and waits.

    Raises PullStopped, PullFailed, PullRefused, DiskFull; Changed if the content has another ETag,
    after throwing away what came of the old one.
    """

    def is_stopped() -> bool:
        meter.update(blob.kept_bytes, "waiting")
        return stop.wait(LOOK_S)

    try:
        with locked(blob.lock, gives_up=is_stopped):
            if not blob.is_here:
                check_space(blob.path, blob.size_bytes - blob.kept_bytes)
                fetch_locked(blob, line, meter, stop)
    except LockHeld:
        raise PullStopped(f"Stopped. {KEPT}") from None
    except OSError as error:
        why = error.strerror or error
        raise DiskFull(f"Can't write to {blob.path.parent}: {why}.") from None
    meter.update(blob.size_bytes)


def fetch_locked(blob: Blob, line: Line, meter: PullMeter, stop: threading.Event) -> None:
    # Without an ETag, two connections may see two contents: so whole, and never resumed.
    whole = About(blob.content or secrets.token_hex(), blob.size_bytes, max(1, blob.size_bytes))
    try:
        in_parts = replace(whole, part_bytes=line.pace.part_bytes)
        fetch_verified(blob, line, in_parts if blob.content else whole, meter, stop)
    except NoRanges:
        fetch_verified(blob, line, whole, meter, stop)
    except Changed:
        journal.discard(blob.part_path)
        raise


def fetch_verified(
    blob: Blob, line: Line, about: About, meter: PullMeter, stop: threading.Event
) -> None:
    """Fetches what is missing; if the hash is wrong then, the bad parts or else all anew, once."""
    is_anew = False
    for _ in range(MOST_ROUNDS):
        with Journal(blob.part_path, about) as kept:
            hashed = RunningHash(blob, kept)
            Crew(blob, line, kept, meter, hashed).work(stop)
            if hashed.finish(meter, stop):
                kept.finish(blob.path)
                return
            if is_anew:
                break
            is_anew = kept.forget_bad()
    journal.discard(blob.part_path)
    raise PullFailed(
        f"{blob.name} from {httpx2.URL(blob.url).host} has not the hash it should have, also when "
        "fetched anew: the server, or a proxy before it, sends other bytes. What came was deleted."
    )


class RunningHash:
    """Hashes the file while it comes, from its beginning as far as it is whole: then the bytes need
    not be read from the disk again."""

    def __init__(self, blob: Blob, kept: Journal) -> None:
        self._blob = blob
        self._journal = kept
        self._hash = blob.hash.begin(blob.size_bytes) if blob.hash else None
        self._at = 0

    def advance(self) -> None:
        """Takes some hundredths of a second."""
        end = min(self._journal.whole_bytes, self._at + CHECKED_BYTES)
        if self._hash:
            for data in self._journal.read(self._at, end - self._at):
                self._hash.update(data)
        self._at = end

    def finish(self, meter: PullMeter, stop: threading.Event) -> bool:
        """Whether the whole file is right. Without a hash it must at least be GGUF."""
        while self._at < self._blob.size_bytes:
            if stop.is_set():
                raise PullStopped(f"Stopped. {KEPT}")
            meter.update(self._blob.size_bytes, "verifying")
            self.advance()
        if self._blob.hash and self._hash:
            return self._hash.hexdigest() == self._blob.hash.hex
        if problem := looks.gguf(self._journal.path):
            self._journal.discard()
            raise PullFailed(self._blob.name + problem.removeprefix(str(self._journal.path)))
        return True


def check_space(path: Path, need_bytes: int) -> None:
    """Raises DiskFull unless so many bytes more can be written at `path`."""
    folder = next(folder for folder in path.parents if folder.exists())
    free = shutil.disk_usage(folder).free
    if need_bytes and need_bytes + SPARE_BYTES > free:
        raise DiskFull(
            f"{need_bytes / 1e9:.1f} GB are still to be fetched, and {folder} has {free / 1e9:.1f} "
            "GB free. Make room, or set HF_HUB_CACHE (for models from elsewhere LOCALINFRA_CACHE) "
            "to a folder on a larger disk."
        )


class Crew:
    """The threads that fetch the missing parts of one file."""

    def __init__(
        self, blob: Blob, line: Line, kept: Journal, meter: PullMeter, hashed: RunningHash
    ) -> None:
        self._blob = blob
        self._line = line
        self._journal = kept
        self._meter = meter
        self._hashed = hashed
        self._parts: queue.SimpleQueue[Part] = queue.SimpleQueue()
        self._halt = threading.Event()  # for the threads: stopped, or one has failed
        self._failures: queue.SimpleQueue[BaseException] = queue.SimpleQueue()
        self._resolved = blob.url  # where redirects led, so that not every part asks again

    def work(self, stop: threading.Event) -> None:
        """Raises what the first thread that failed raises, and PullStopped."""
        missing = self._journal.missing()
        for part in missing:
            self._parts.put(part)
        count = min(self._line.pace.connections, len(missing))
        threads = [threading.Thread(target=self._run, name=f"pull {at}") for at in range(count)]
        try:
            for thread in threads:
                thread.start()
            while (busy := next((one for one in threads if one.is_alive()), None)) is not None:
                self._meter.update(self._journal.done_bytes)
                self._hashed.advance()
                busy.join(LOOK_S)
                if stop.is_set():
                    break
        finally:  # also at Ctrl-C, which interrupts this thread
            self._halt.set()
            while any(thread.is_alive() for thread in threads):
                self._line.cut()  # a thread may wait for a server that sends nothing
                threads[0].join(LOOK_S)
        if not self._failures.empty():
            raise self._failures.get()
        if stop.is_set():
            raise PullStopped(f"Stopped. {KEPT}")

    def _run(self) -> None:
        try:
            patience = Patience(self._line.pace, self._halt, f"Try again later. {KEPT}")
            while not self._halt.is_set():
                self._fetch(PartWriter(self._journal, self._parts.get_nowait()), patience)
        except queue.Empty:
            pass
        except BaseException as error:
            if not (isinstance(error, PullStopped) and self._halt.is_set()):
                self._failures.put(error)
            self._halt.set()

    def _fetch(self, writer: PartWriter, patience: Patience) -> None:
        while writer.left and not self._halt.is_set():
            before = writer.at
            try:
                self._fetch_once(writer)
            except Passing as fault:
                if writer.at > before:
                    patience.progressed()
                if writer.left:
                    patience.wait(fault)

    def _fetch_once(self, writer: PartWriter) -> None:
        url = self._resolved
        is_whole = len(self._journal.parts) == 1 and writer.at == 0
        end = writer.at + writer.left - 1
        headers = {} if is_whole else {"Range": f"bytes={writer.at}-{end}"}
        if self._blob.hash is None and self._blob.etag and not is_whole:
            headers["If-Range"] = self._blob.etag
        with self._line.get(url, headers) as response:
            if response.status_code in (401, 403, 404, 410) and url != self._blob.url:
                self._resolved = self._blob.url  # signed addresses are valid for a while only
                raise Passing(f"{response.url.host} no longer knows the address")
            check(response)
            self._resolved = str(response.url)
            check_answer(self._blob, response, writer, is_whole=is_whole)
            self._pour(response, writer)

    def _pour(self, response: httpx2.Response, writer: PartWriter) -> None:
        since, brought = monotonic(), 0
        for chunk in response.iter_raw():  # to its end, so that the connection can be used again
            if not writer.left or self._halt.is_set():
                return
            writer.write(chunk)
            brought += len(chunk)
            if monotonic() - since > self._line.pace.read_s:
                if brought < self._line.pace.slow_bytes:
                    raise Passing(f"{response.url.host} has become very slow")
                since, brought = monotonic(), 0
        if writer.left:
            raise Passing(f"{response.url.host} ended the answer early")


def check_answer(
    blob: Blob, response: httpx2.Response, writer: PartWriter, *, is_whole: bool
) -> None:
    """Raises Changed, PullFailed, NoRanges or Passing unless the answer brings the bytes from
    `writer.at` on, of the right content."""
    size = size_of(response)
    is_other = size not in (None, blob.size_bytes)
    if blob.hash is None and (is_other or blob.etag not in (None, validator(response))):
        raise Changed
    if is_other:
        raise PullFailed(
            f"{response.url.host} has {size:,} bytes as {blob.name}, not {blob.size_bytes:,} as "
            "was said before."
        )
    if response.status_code == 206:
        found = CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
        if not found or int(found[1]) != writer.at:
            raise Passing(f"{response.url.host} sends another range than asked for")
    elif not is_whole:
        if writer.part.size < blob.size_bytes:
            raise NoRanges
        writer.restart()  # the whole file again


def size_of(response: httpx2.Response) -> int | None:
    """Of the whole file, also if the answer is a part of it. None: not said."""
    if response.status_code == 206:
        found = CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
        return int(found["size"]) if found else None
    length = response.headers.get("Content-Length", "")
    return int(length) if re.fullmatch(r"\d{1,15}", length, re.A) else None


def validator(response: httpx2.Response) -> str | None:
    """What a server says to tell one content from another, in the order of If-Range: a strong ETag,
    or a date."""
    etag = response.headers.get("ETag")
    if etag and not etag.startswith("W/"):
        return str(etag)
    return response.headers.get("Last-Modified")
