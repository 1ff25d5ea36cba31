"""GET /openapi.json, and /docs, the page that shows it: the files in localinfra/web/docs/."""

import functools
from collections.abc import Mapping
from pathlib import Path

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from localinfra.api.http.guard import DOCS, OPENAPI
from localinfra.api.http.static import StaticFile, static_file, static_response
from localinfra.api.openapi.document import openapi_document
from localinfra.errors import NotFound
from localinfra.executor import in_daemon_thread

FOLDER = Path(__file__).parent.parent / "web" / "docs"
MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
}
# No script but the page's own files runs, and nothing is asked of another host.
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


@functools.lru_cache(maxsize=1)
def document_file(app: Starlette) -> StaticFile:
    """Takes 0.6 s the first time: the comments are read from the source."""
    return static_file(msgspec.json.encode(openapi_document(app.routes)), "application/json")


@functools.cache
def page_files() -> Mapping[str, StaticFile]:
    """By their names."""
    return {
        path.name: static_file(path.read_bytes(), MEDIA_TYPES[path.suffix])
        for path in FOLDER.iterdir()
        if path.suffix in MEDIA_TYPES
    }


async def get_openapi(request: Request) -> Response:
    file = await in_daemon_thread(document_file, request.app, name="write the OpenAPI document")
    return static_response(request, file)


async def get_docs(request: Request) -> Response:
    files = await in_daemon_thread(page_files, name="read the page of the docs")
    return static_response(request, files["index.html"], PAGE_HEADERS)


async def get_docs_file(request: Request) -> Response:
    files = await in_daemon_thread(page_files, name="read the page of the docs")
    file = files.get(request.path_params["name"])
    if file is None:
        raise NotFound("The page of the docs has no such file: reload it.")
    return static_response(request, file)


# They describe the other routes, and are not among those.
DOCS_ROUTES = [
    Route(OPENAPI, get_openapi, include_in_schema=False),
    Route(DOCS, get_docs, include_in_schema=False),
    Route(DOCS + "/{name}", get_docs_file, include_in_schema=False),
]
