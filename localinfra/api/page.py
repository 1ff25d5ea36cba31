"""GET /: the page in localinfra/web/, and the files it consists of.

Their URLs contain a hash of all of them, so browsers may keep them for good, and the relative
imports of a page that is open never mix two versions. The page itself is asked for anew each time.
"""

import functools
import gzip
import hashlib
from collections.abc import Mapping
from pathlib import Path

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from localinfra import __version__
from localinfra.api.http.errors import json_response
from localinfra.api.http.guard import PAGE_FILES
from localinfra.errors import NotFound
from localinfra.executor import in_daemon_thread

FOLDER = Path(__file__).parent.parent / "web"
INDEX = "index.html"
HERE = b"{web}"  # in index.html: where the other files are
MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

# Whatever a model writes: no script but these files runs, and nothing is asked of another host.
POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ]
)
COMMON_HEADERS = {"vary": "Accept, Accept-Encoding", "x-content-type-options": "nosniff"}
INDEX_HEADERS = COMMON_HEADERS | {
    "content-security-policy": POLICY,
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}
FILE_HEADERS = COMMON_HEADERS | {"cache-control": "public, max-age=31536000, immutable"}


class PageFile(msgspec.Struct, frozen=True):
    data: bytes
    gzipped: bytes
    media_type: str


class Page(msgspec.Struct, frozen=True):
    version: str  # hash of all names and contents
    files: Mapping[str, PageFile]  # by path below the folder


@functools.cache
def read_page(folder: Path = FOLDER) -> Page:
    """Reads and compresses the files, which takes some 20 ms."""
    contents = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.suffix in MEDIA_TYPES
    }
    digest = hashlib.sha256()
    for name, data in contents.items():
        digest.update(b"%d %s %d " % (len(name), name.encode(), len(data)) + data)
    version = digest.hexdigest()[:16]
    contents[INDEX] = contents[INDEX].replace(HERE, f"{PAGE_FILES}/{version}".encode())
    return Page(version, {name: page_file(name, data) for name, data in contents.items()})


def page_file(name: str, data: bytes) -> PageFile:
    return PageFile(data, gzip.compress(data, mtime=0), MEDIA_TYPES[Path(name).suffix])


async def current_page() -> Page:
    """Reads it in a thread, once."""
    if not read_page.cache_info().currsize:
        await in_daemon_thread(read_page, name="read the page")
    return read_page()


async def get_index(request: Request) -> Response:
    """The page for browsers; JSON for clients that probe the root."""
    if "text/html" not in request.headers.get("accept", ""):
        return json_response(
            {
                "name": "localinfra",
                "version": __version__,
                "routes": ["/v1/chat/completions", "/v1/models", "/v1/embeddings", "/health"],
            },
            headers={"vary": "Accept"},
        )
    page = await current_page()
    return file_response(request, page.files[INDEX], page.version, INDEX_HEADERS)


async def get_page_file(request: Request) -> Response:
    page = await current_page()
    file = page.files.get(request.path_params["path"])
    if request.path_params["version"] != page.version or file is None:
        raise NotFound("The page has no such file, or no longer: reload it.")
    return file_response(request, file, page.version, FILE_HEADERS)


def file_response(
    request: Request, file: PageFile, version: str, headers: Mapping[str, str]
) -> Response:
    etag = f'W/"{version}"'  # weak: the same for both encodings
    own = {**headers, "etag": etag}
    if etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=own)
    if "gzip" in request.headers.get("accept-encoding", ""):
        own["content-encoding"] = "gzip"
        return Response(file.gzipped, headers=own, media_type=file.media_type)
    return Response(file.data, headers=own, media_type=file.media_type)
