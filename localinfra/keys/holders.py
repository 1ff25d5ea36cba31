"""Whose key a request carries: the plain keys of the settings and the named ones of a file, which
are looked at again while the server runs.

Keeps only hashes, logs no key.
"""

import asyncio
import hmac
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from localinfra.errors import ConfigError
from localinfra.executor import in_daemon_thread
from localinfra.keys import file
from localinfra.keys.file import KeyBook, Stamp
from localinfra.keys.meter import Clock, Meters, Permit
from localinfra.keys.record import KeyRecord, hash_of, label_of, utc_now

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0  # at the file, and only when a request comes
LOOK_LIMIT_S = 2.0  # a disk that hangs holds no request up for longer

NO_KEY = "none"  # the label of every caller if the server is open


class Holder(msgspec.Struct, frozen=True):
    """Who sends a request."""

    label: str  # in metrics, costs and logs
    record: KeyRecord | None = None  # of a named key
    may_manage: bool = True  # models, and read metrics of all keys


ANYONE = Holder(NO_KEY)


class Holders:
    """Those whom the server knows. Event loop only, but for `read`, which blocks."""

    def __init__(self, path: Path | None = None, clock: Clock = time.monotonic):
        """`path`: the file of the named keys; None: there are none."""
        self._path = path
        self._clock = clock
        self._plain: Sequence[bytes] = ()
        self._records: Mapping[bytes, KeyRecord] = {}
        self._has_file = False
        self._is_open_allowed = True
        self._stamp: Stamp | None = None  # of the file as it was read
        self._trouble = ""  # why it could not be read again
        self._looked_at_s = clock()
        self._look: asyncio.Task[None] | None = None
        self.meters = Meters(clock)

    def apply(self, plain: Iterable[str], *, is_open_allowed: bool) -> None:
        """`plain`: keys of the settings. `is_open_allowed`: without any key, all may call."""
        self._plain = [hash_of(key.encode()) for key in plain]
        self._is_open_allowed = is_open_allowed

    @property
    def is_open(self) -> bool:
        """Whether requests need no key. A file without keys keeps the server closed: revoking the
        last one must not let everyone in."""
        return self._is_open_allowed and not self._plain and not self._has_file

    def read(self) -> None:
        """Reads the file. Raises ConfigError."""
        if self._path:
            try:
                stamp = file.stamp(self._path)  # before: a change meanwhile is seen next time
            except OSError:
                stamp = None
            self._take(file.read(self._path), stamp)

    def _take(self, book: KeyBook | None, stamp: Stamp | None) -> None:
        self._has_file = book is not None
        keys = book.keys if book else ()
        self._records = {bytes.fromhex(key.sha256): key for key in keys}
        self._stamp = stamp
        self.meters.keep_only({key.label for key in keys})

    # --- Looking again --------------------------------------------------------------------------

    async def refresh(self) -> None:
        """Sees to it that keys made or revoked a second ago are known as such. A file that can't be
        read changes nothing, and is told of in the log."""
        self.look()
        if self._look is not None:
            await asyncio.wait([self._look], timeout=LOOK_LIMIT_S)

    def look(self) -> None:
        """Begins a look at the file, if it is time for one, and waits for nothing."""
        is_time = self._clock() - self._looked_at_s >= LOOK_EVERY_S
        if self._path is not None and self._look is None and is_time:
            self._look = asyncio.create_task(self._look_again(self._path))

    async def _look_again(self, path: Path) -> None:
        try:
            found = await in_daemon_thread(_changed, path, self._stamp, name="keys")
        except ConfigError as error:
            if str(error) != self._trouble:  # once, not with every look
                logger.error("the keys stay as they were: %s", error)
            self._trouble = str(error)
        else:
            self._trouble = ""
            if found:
                self._take(*found)
                logger.info("keys: %d in %s", len(self._records), path)
        finally:
            self._looked_at_s = self._clock()
            self._look = None

    # --- A request's key ------------------------------------------------------------------------

    def holder(self, offered: Iterable[str]) -> Holder | None:
        """The holder of one of these keys, as headers had them (in latin-1); None if none is valid.

        Compares with every hash in constant time, so timing does not reveal a near miss; all hashes
        have one length, so it does not reveal a key's length either. An empty string is never a
        key, even if configured.
        """
        if self.is_open:
            return ANYONE
        known = [*self._plain, *self._records]
        hashes = [hash_of(key.encode("latin-1")) for key in offered if key]
        pairs = [(ours, theirs) for ours in known for theirs in hashes]
        matches = [ours for ours, theirs in pairs if hmac.compare_digest(ours, theirs)]
        if not matches:
            return None
        record = self._records.get(matches[0])
        if record is None or matches[0] in self._plain:
            return Holder(label_of(matches[0]))
        if not record.is_valid(utc_now()):
            return None
        return Holder(record.label, record, record.may_manage)

    def permit(self, holder: Holder) -> Permit:
        """For one request of the holder."""
        record = holder.record
        if record is None:
            return Permit()
        models = None if record.models is None else frozenset(record.models)
        return Permit(self.meters.of(record.label, record.limits), models)


def _changed(path: Path, known: Stamp | None) -> tuple[KeyBook | None, Stamp] | None:
    """The file's content and stamp, if it has another stamp. Blocks. Raises ConfigError."""
    try:
        stamp = file.stamp(path)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
    return None if stamp == known else (file.read(path), stamp)
