"""GET /openapi.json, and /docs, the page that shows it: the files in localinfra/web/docs/."""

from collections.abc import Mapping
from weakref import WeakKeyDictionary

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from localinfra.api.http.guard import DOCS, OPENAPI
from localinfra.api.http.state import AppState
from localinfra.api.http.static import StaticFile, static_file, static_response
from localinfra.api.openapi.document import openapi_document
from localinfra.api.page import FOLDER as WEB
from localinfra.api.page import MEDIA_TYPES, PAGE_HEADERS
from localinfra.errors import NotFound

FOLDER = WEB / "docs"
DOCUMENT = "openapi.json"  # its name among the files
MADE: WeakKeyDictionary[Starlette, Mapping[str, StaticFile]] = WeakKeyDictionary()


def files_of(app: Starlette) -> Mapping[str, StaticFile]:
    """The page's files and the document, by name. Takes 0.3 s, once for an application: comments
    are read from the source."""
    if app not in MADE:
        document = msgspec.json.encode(openapi_document(app.routes))
        files = {
            path.name: static_file(path.read_bytes(), MEDIA_TYPES[path.suffix])
            for path in FOLDER.iterdir()
            if path.suffix in MEDIA_TYPES
        }
        MADE[app] = {**files, DOCUMENT: static_file(document, "application/json")}
    return MADE[app]


async def answer_file(
    request: Request, name: str, headers: Mapping[str, str] | None = None
) -> Response:
    app: Starlette = request.app
    # The first requests make the files in threads that are bounded: anyone may send them.
    threads = AppState.of(app).threads.conversions
    files = MADE[app] if app in MADE else await threads.run(files_of, app)
    if name not in files:
        raise NotFound("The page of the docs has no such file: reload it.")
    return static_response(request, files[name], headers)


async def get_openapi(request: Request) -> Response:
    return await answer_file(request, DOCUMENT)


async def get_docs(request: Request) -> Response:
    return await answer_file(request, "index.html", PAGE_HEADERS)


async def get_docs_file(request: Request) -> Response:
    return await answer_file(request, request.path_params["name"])


# They describe the other routes, and are not among those.
DOCS_ROUTES = [
    Route(OPENAPI, get_openapi, include_in_schema=False),
    Route(DOCS, get_docs, include_in_schema=False),
    Route(DOCS + "/{name}", get_docs_file, include_in_schema=False),
]
