"""Images that clients fetch by URL: kept in memory for a while, at unguessable URLs."""

import secrets
import time
from collections import OrderedDict

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from localinfra.api.http.guard import IMAGE_FILES
from localinfra.api.http.state import AppState
from localinfra.config.settings import ServerSettings
from localinfra.errors import NotFound
from localinfra.shares import Holdings

MAX_BYTES = 256 << 20  # in total; the oldest of who has most are dropped first


class KeptImage(msgspec.Struct, frozen=True):
    data: bytes
    media_type: str
    expires_at: float  # time.monotonic()
    owner: str  # see `RequestState.caller`


class ImageFiles:
    """The images kept. Event loop only."""

    def __init__(self, kept_s: float = 0.0):
        self._kept_s = kept_s
        self._images: OrderedDict[str, KeptImage] = OrderedDict()
        self._held = Holdings()

    def apply(self, settings: ServerSettings) -> None:
        """Images that are kept already stay for as long as they were promised."""
        self._kept_s = settings.image_urls_s

    def put(self, data: bytes, media_type: str, owner: str) -> str:
        """Keeps an image of the owner and returns its path."""
        self._drop_expired()
        name = f"{secrets.token_urlsafe(24)}.{media_type.partition('/')[2]}"
        self._images[name] = KeptImage(data, media_type, time.monotonic() + self._kept_s, owner)
        self._held.add(owner, len(data))
        while self._held.total > MAX_BYTES and len(self._images) > 1:
            self._drop(self._least_wanted(name))
        return f"{IMAGE_FILES}/{name}"

    def has(self, name: str) -> bool:
        self._drop_expired()
        return name in self._images

    def get(self, name: str) -> KeptImage:
        """Raises NotFound if there is no such image, or no longer."""
        self._drop_expired()
        if name not in self._images:
            raise NotFound("There is no such image: its URL may have expired.")
        return self._images[name]

    def _drop_expired(self) -> None:
        now = time.monotonic()
        while self._images and next(iter(self._images.values())).expires_at < now:
            self._drop(next(iter(self._images)))

    def _least_wanted(self, newest: str) -> str:
        """Never the newest: its URL has not been told yet."""
        greediest, oldest = self._held.greediest, next(iter(self._images))
        names = (name for name, image in self._images.items() if image.owner == greediest)
        return next((name for name in names if name != newest), oldest)

    def _drop(self, name: str) -> None:
        image = self._images.pop(name)
        self._held.add(image.owner, -len(image.data))


async def get_image_file(request: Request) -> Response:
    """Fetches an image that was asked for as URL.

    Needs no key: only who has the URL can know it. It expires after `image_urls_s`."""
    kept = AppState.of(request.app).store(ImageFiles).get(request.path_params["name"])
    headers = {"cache-control": "private, max-age=3600", "x-content-type-options": "nosniff"}
    return Response(kept.data, 200, headers, kept.media_type)
