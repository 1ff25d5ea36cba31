"""GET /: the page in localinfra/web/, and the files it consists of.

Their URLs contain a hash of all of them, so browsers may keep them for good, and the relative
imports of a page that is open never mix two versions. The page itself is asked for anew each time.
"""

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from localinfra import __version__
from localinfra.api.http.errors import json_response
from localinfra.api.http.guard import PAGE_FILES
from localinfra.api.http.static import StaticFile, static_file, static_response
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
PAGE_HEADERS = {"content-security-policy": POLICY, "referrer-policy": "no-referrer"}
INDEX_HEADERS = PAGE_HEADERS | {"vary": "Accept, Accept-Encoding"}
FILE_HEADERS = {"cache-control": "public, max-age=31536000, immutable"}


class ServerName(msgspec.Struct, frozen=True):
    name: str = "localinfra"
    version: str = __version__
    routes: tuple[str, ...] = (
        "/v1/chat/completions",
        "/v1/models",
        "/v1/embeddings",
        "/health",
        "/docs",
    )


class Page(msgspec.Struct, frozen=True):
    version: str  # hash of all names and contents
    files: Mapping[str, StaticFile]  # by path below the folder


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
    files = {
        name: static_file(data, MEDIA_TYPES[Path(name).suffix]) for name, data in contents.items()
    }
    return Page(version, files)


async def current_page() -> Page:
    """Reads it in a thread, once."""
    if not read_page.cache_info().currsize:
        await in_daemon_thread(read_page, name="read the page")
    return read_page()


async def get_index(request: Request) -> Response:
    """Says what this server is.

    Browsers get the page; others JSON, or the words that Ollama's clients look for."""
    if "text/html" not in request.headers.get("accept", ""):
        return json_response(ServerName(), headers={"vary": "Accept"})
    page = await current_page()
    return static_response(request, page.files[INDEX], INDEX_HEADERS)


async def get_page_file(request: Request) -> Response:
    page = await current_page()
    file = page.files.get(request.path_params["path"])
    if request.path_params["version"] != page.version or file is None:
        raise NotFound("The page has no such file, or no longer: reload it.")
    return static_response(request, file, FILE_HEADERS)
