"""Pictures that clients name by their URLs: fetched if the settings allow it, and kept for the next
turns of their conversations, for each client its own.
"""

import time
from collections import OrderedDict
from sys import getsizeof
from typing import NamedTuple
from urllib.parse import urlsplit

from localinfra.errors import InvalidRequest
from localinfra.executor import DaemonThreads
from localinfra.models.fetch.picture import MAX_URL_CHARS, NotFetched, fetch_picture
from localinfra.pictures import MAX_BYTES
from localinfra.shares import Holdings

FETCH_LIMIT_S = 20.0  # for all pictures of a request
KEPT_S = 600.0
MAX_KEPT_BYTES = 64 << 20  # together; the oldest of who has most are dropped first
OWN_BYTES = 16 << 10  # counted for each beside its data and URL, so that there are 4096 at most


class KeptPicture(NamedTuple):
    data: bytes
    until_s: float  # time.monotonic()
    size: int  # bytes, with its URL


class FetchedPictures:
    """Event loop only."""

    def __init__(self) -> None:
        self._threads = DaemonThreads("a fetch of a picture", 8, 64)
        self._kept: OrderedDict[tuple[str, str], KeptPicture] = OrderedDict()
        self._held = Holdings()

    @property
    def num_kept(self) -> int:
        return len(self._kept)

    async def get(self, client: str, url: str, path: str, limit_s: float) -> bytes:
        """The picture, or whatever else is there: `keep` it if it is one. Raises InvalidRequest,
        naming `path`, if it can't be had, and QueueFull."""
        self._drop_old()
        if kept := self._kept.get((client, url)):
            return kept.data
        try:
            return await self._threads.run(fetch_picture, url, MAX_BYTES, limit_s)
        except NotFetched as error:
            raise InvalidRequest(
                f"{path}: the picture at {host_of(url)} {error}. Send it as a data URL.", path
            ) from None

    def keep(self, client: str, url: str, data: bytes) -> None:
        """For the next turns. One that is kept already does not stay for longer."""
        if (client, url) in self._kept:
            return
        size = len(data) + getsizeof(url) + OWN_BYTES
        self._kept[client, url] = KeptPicture(data, time.monotonic() + KEPT_S, size)
        self._held.add(client, size)
        while self._held.total > MAX_KEPT_BYTES:
            greediest = self._held.greediest
            self._drop(next(key for key in self._kept if key[0] == greediest))

    def _drop_old(self) -> None:
        now_s = time.monotonic()
        while self._kept and next(iter(self._kept.values())).until_s < now_s:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: tuple[str, str]) -> None:
        if kept := self._kept.pop(key, None):
            self._held.add(key[0], -kept.size)


def host_of(url: str) -> str:
    try:
        return (urlsplit(url[:MAX_URL_CHARS]).hostname or "no host")[:100]
    except ValueError:
        return "no host"
