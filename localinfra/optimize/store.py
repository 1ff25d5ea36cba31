"""Decisions for files of weights on this machine, and the weights made for them.

One folder in the cache holds a JSON record per decision, the weights that won, a lock held by the
measuring process, and scratch folders; the next measurement removes any that a crash left. A
record is written last and replaced atomically, so the file it names is complete. Weights are moved
to their place when complete, before they are measured: an interrupted measurement goes on from
there. Those that no decision names are removed by the next one.
"""

import contextlib
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import msgspec

from localinfra import cache, machine

LOCK_LIMIT_S = 3600.0  # longest wait for another process's measurement
RETRY_AFTER_S = 3600  # by then the machine may be idle, or the disk have room


class CacheUnusable(Exception):
    """The cache can't be used; the message names folder, cause and remedy."""


class Identity(msgspec.Struct, frozen=True):
    """Identifies a file without reading it."""

    path: str
    size_bytes: int
    mtime_ns: int


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    source: Identity
    digest: str  # SHA-256 of the source, so that a copy of it needs no new measurement
    cpu: str
    llama_build: str
    file: str | None  # the weights to serve, in this folder; None: the source itself
    file_bytes: int = 0
    type: str | None = None  # of those weights
    reason: str = ""
    retry_at: float | None = None  # Unix time at which this decision expires

    @property
    def path(self) -> Path | None:
        """The weights made for this machine, if any."""
        return folder() / self.file if self.file else None

    @property
    def is_put_off(self) -> bool:
        """Nothing could be measured; `reason` says why."""
        return not self.digest


def folder() -> Path:
    """The folder of decisions and weights. It may not exist yet."""
    return machine.cache_folder("optimized")


def identify(source: Path) -> Identity:
    status = source.stat()
    return Identity(os.path.abspath(source), status.st_size, status.st_mtime_ns)


def digest_of(source: Path) -> str:
    with source.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find(source: Path) -> Decision | None:
    """The valid decision for the file at `source` on this machine, if any. Reads no weights."""
    try:
        identity = identify(source)
    except OSError:
        return None
    return next((known for known in decisions() if known.source == identity), None)


def find_digest(digest: str) -> Decision | None:
    return next((known for known in decisions() if known.digest == digest), None)


def decisions() -> Iterator[Decision]:
    """The valid decisions for this machine, skipping unreadable ones."""
    records = _records()
    here = (machine.cpu(), machine.llama_build()) if records else None
    for _, known in records:
        left_s = 0.0 if known.retry_at is None else known.retry_at - time.time()
        # More than was ever set: the clock has gone back since.
        has_ended = known.retry_at is not None and not 0 <= left_s <= RETRY_AFTER_S
        if (known.cpu, known.llama_build) == here and not has_ended and _is_complete(known):
            yield known


def _records() -> list[tuple[Path, Decision]]:
    found = []
    for path in sorted(folder().glob("*.json")):
        try:
            found.append((path, msgspec.json.decode(path.read_bytes(), type=Decision)))
        except (OSError, msgspec.MsgspecError):
            continue
    return found


def _is_complete(known: Decision) -> bool:
    try:
        return known.path is None or known.path.stat().st_size == known.file_bytes
    except OSError:
        return False


def decide(
    source: Identity, digest: str, reason: str, weights: tuple[str, Path] | None = None
) -> Decision:
    """A decision for this machine: for `weights`, a type and its file, or for the source itself."""
    type, path = weights or (None, None)
    return Decision(
        source=source,
        digest=digest,
        cpu=machine.cpu(),
        llama_build=machine.llama_build(),
        file=place_of(source, digest, type).name if type else None,
        file_bytes=path.stat().st_size if path else 0,
        type=type,
        reason=reason,
    )


def place_of(source: Identity, digest: str, type: str) -> Path:
    """Where weights made for this machine are kept."""
    here = _short(digest, machine.cpu(), machine.llama_build())
    return folder() / f"{_stem(source)}.{type}-{here}.gguf"


def settle(made: Path, place: Path) -> None:
    """Moves a complete file to its place. Raises OSError."""
    with made.open("rb") as file:
        os.fsync(file.fileno())  # or a power failure could leave the name without the data
    made.replace(place)


def put_off(source: Path, reason: str, is_final: bool) -> None:
    """Records that nothing could be measured, so that not every start tries again. Unless it is
    final, it expires after an hour. Does nothing while another process measures.

    Raises CacheUnusable or OSError if it can't be recorded.
    """
    retry_at = None if is_final else time.time() + RETRY_AFTER_S
    with _lock_file() as lock:
        if cache.try_lock(lock):
            known = decide(identify(source), "", reason)
            keep(msgspec.structs.replace(known, retry_at=retry_at))


def keep(decision: Decision, weights: Path | None = None) -> None:
    """Moves `weights` to their place, if they are not there yet, then records the decision.

    Call it with the lock held. Raises OSError; the previous decision is then still valid.
    """
    if weights:
        assert decision.path, "weights belong to a decision for them"
        settle(weights, decision.path)
    source = decision.source
    name = f"{_stem(source)}-{_short(source.path, decision.cpu, decision.llama_build)}"
    record = folder() / f"{name}.json"
    cache.write_whole(record, msgspec.json.format(msgspec.json.encode(decision)))
    _drop_outdated(record, decision)


def _drop_outdated(record: Path, newest: Decision) -> None:
    """Removes decisions of this CPU that are obsolete, of an older build or a source that is gone,
    and weights without a decision."""
    for path, known in _records():
        is_replaced = known.source.path == newest.source.path or not os.path.exists(
            known.source.path
        )
        if path != record and known.cpu == newest.cpu and is_replaced:
            path.unlink(missing_ok=True)
    used = {known.file for _, known in _records()}
    for file in folder().glob("*.gguf"):
        if file.name not in used:
            file.unlink(missing_ok=True)


def _stem(source: Identity) -> str:
    return re.sub(r"[^\w.-]", "_", Path(source.path).stem)[:80]


def _short(*facts: str) -> str:
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:12]


@contextmanager
def locked(waiting: Callable[[str], None]) -> Iterator[None]:
    """Holds the folder's lock; calls `waiting` with the name of another process that has it.

    Two measurements at once would distort each other. Removes scratch of dead processes. Raises
    CacheUnusable if the folder can't be written, or another process holds it for LOCK_LIMIT_S.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(cache.locked(folder() / cache.LOCK, LOCK_LIMIT_S, waiting))
        except cache.LockHeld as error:
            raise CacheUnusable(str(error)) from None
        except OSError as error:
            raise _unusable(error) from None
        cache.sweep(folder())
        yield


def _lock_file() -> IO[bytes]:
    try:
        folder().mkdir(parents=True, exist_ok=True)
        return (folder() / cache.LOCK).open("ab")
    except OSError as error:
        raise _unusable(error) from None


@contextmanager
def scratch(needed_bytes: int) -> Iterator[Path]:
    """A temporary folder in the cache for unfinished files. Call it with the lock held.

    Raises CacheUnusable if it can't be created or the disk has less than `needed_bytes` free.
    """
    path = cache.scratch_folder(folder())
    try:
        path.mkdir()
        free = shutil.disk_usage(path).free
    except OSError as error:
        raise _unusable(error) from None
    try:
        if free < needed_bytes:
            raise CacheUnusable(
                f"{folder()} has {free / 1e6:,.0f} MB free and {needed_bytes / 1e6:,.0f} MB are "
                "needed for a while; free some space, or set LOCALINFRA_CACHE to another folder"
            )
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def sweep_if_free() -> None:
    """Removes the scratch of a worker that was killed, unless another one is running."""
    cache.sweep_if_free(folder())


def _unusable(error: OSError) -> CacheUnusable:
    return CacheUnusable(
        f"{folder()} can't be written to ({error.strerror or error}); make it writable, or set "
        "LOCALINFRA_CACHE to a folder that is"
    )
