"""Responses that stay the same: compressed once, and sent again only to those who lack them."""

import gzip
import hashlib
from collections.abc import Mapping

import msgspec
from starlette.requests import Request
from starlette.responses import Response


class StaticFile(msgspec.Struct, frozen=True):
    data: bytes
    gzipped: bytes
    media_type: str
    etag: str  # weak: the same for both encodings


def static_file(data: bytes, media_type: str) -> StaticFile:
    etag = f'W/"{hashlib.sha256(data).hexdigest()[:16]}"'
    return StaticFile(data, gzip.compress(data, mtime=0), media_type, etag)


def static_response(
    request: Request, file: StaticFile, headers: Mapping[str, str] | None = None
) -> Response:
    """Clients may keep the file, and ask each time whether it is still the same, unless `headers`
    say otherwise."""
    own = {
        "cache-control": "no-cache",
        "etag": file.etag,
        "vary": "Accept-Encoding",
        "x-content-type-options": "nosniff",
        **(headers or {}),
    }
    if file.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=own)
    if "gzip" in request.headers.get("accept-encoding", ""):
        own["content-encoding"] = "gzip"
        return Response(file.gzipped, headers=own, media_type=file.media_type)
    return Response(file.data, headers=own, media_type=file.media_type)
