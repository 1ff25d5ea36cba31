"""Routes and their operations → the OpenAPI document.

https://spec.openapis.org/oas/v3.1.0.html
"""

import inspect
import itertools
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import msgspec
from starlette.routing import BaseRoute, Route

from localinfra import __version__, errors
from localinfra.api.http.errors import (
    OLLAMA_STATUSES,
    AnthropicErrorBody,
    ErrorBody,
    OllamaErrorBody,
    speaks_anthropic,
    speaks_ollama,
)
from localinfra.api.http.limiting import limit_header_texts, limit_headers
from localinfra.api.openapi.examples import MODEL_KINDS
from localinfra.api.openapi.operation import JSON, LINES, Handler, Operation
from localinfra.api.openapi.operations import OPERATIONS, TAGS
from localinfra.api.openapi.schemas import (
    Schema,
    Struct,
    component_schemas,
    docstring,
    one_of,
    reference,
)

ABOUT = """\
GGUF chat models, embedders, rerankers and image pipelines, on your own machine.

**Fields.** Unknown fields of a body are ignored, and named in the answer's header \
`x-localinfra-ignored`. A null counts as not given.

**Second names.** `x-also-at` lists further paths of an operation, below the base URLs that \
clients of other services are used to.

**Streams.** The schema of a `text/event-stream` is that of each event's `data`, and of an \
`application/x-ndjson` that of each line. An error after the first byte is an event or a line \
too."""

HEADERS = {
    "x-request-id": "The request's id in the log: the client's own if it sent one.",
    "x-localinfra-ignored": "Paths of the body's fields that had no effect, separated by commas.",
    "x-localinfra-truncated": "Indices of texts whose end was cut off, or where a prompt was.",
    "retry-after": "Seconds to wait before the next try.",
    **limit_header_texts(),
}
SECURITY = {
    "key": {"type": "http", "scheme": "bearer", "description": "One of the server's keys."},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}
# A server without keys needs none.
USUAL_SECURITY: list[dict[str, list[str]]] = [{"key": []}, {"x-api-key": []}, {}]

# By the beginnings of their names among the document's responses.
ERROR_BODIES: Mapping[str, Struct] = {
    "Error": ErrorBody,
    "Anthropic": AnthropicErrorBody,
    "Ollama": OllamaErrorBody,
}
OF_ALL = (401, 403, 500)
OF_BODIES = (400, 408, 413, 415, 429)
OF_MODELS = (404, 503)
PARAMETER = re.compile(r"\{(\w+)(?::\w+)?\}")
PARAMETERS = {
    "id": "its id; a model's may hold `/`, plain or as `%2F`",
    "name": "the file's name, as in its URL",
}


def openapi_document(routes: Sequence[BaseRoute]) -> Schema:
    """The document of these routes. Raises KeyError for a route without an operation."""
    shown = [one for one in routes if isinstance(one, Route) and one.include_in_schema]
    operations = [OPERATIONS[handler_of(route)] for route in shown]
    asked = itertools.chain.from_iterable(operation.body for operation in operations)
    answered = itertools.chain.from_iterable((*one.answer, *one.events) for one in operations)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "localinfra",
            "version": __version__,
            "description": ABOUT,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "tags": [
            {"name": name, "description": text}
            for name, text in TAGS.items()
            if any(operation.tag == name for operation in operations)
        ],
        "paths": paths_of(shown),
        "components": {
            "schemas": component_schemas(asked, (*answered, *ERROR_BODIES.values())),
            "responses": dict(error_responses()),
            "headers": {
                name: {"description": text, "schema": {"type": "string"}}
                for name, text in HEADERS.items()
            },
            "securitySchemes": SECURITY,
        },
        "security": USUAL_SECURITY,
        "x-example-models": MODEL_KINDS,  # name → kind
    }


def handler_of(route: Route) -> Handler:
    """The handler itself, within what may be around it."""
    handler: Handler = inspect.unwrap(route.endpoint)
    return handler


def paths_of(routes: Iterable[Route]) -> Schema:
    """Each handler at the first of its paths, preferably one below /v1."""
    groups: dict[object, list[Route]] = {}
    for route in routes:
        groups.setdefault(handler_of(route), []).append(route)
    paths: dict[str, Schema] = {}
    order = list(OPERATIONS)
    for group in sorted(groups.values(), key=lambda group: order.index(handler_of(group[0]))):
        first, *others = sorted(group, key=lambda route: not route.path.startswith("/v1/"))
        [method] = set(first.methods or ()) - {"HEAD"}
        operation = operation_object(first)
        if others:
            operation["x-also-at"] = [plain(route.path) for route in others]
        paths.setdefault(plain(first.path), {})[method.lower()] = operation
    return paths


def plain(path: str) -> str:
    """`/v1/models/{id:path}` → `/v1/models/{id}`."""
    return PARAMETER.sub(r"{\1}", path)


def operation_object(route: Route) -> Schema:
    operation = OPERATIONS[handler_of(route)]
    summary, _, more = docstring(handler_of(route)).partition("\n\n")
    found: Schema = {
        "operationId": handler_of(route).__name__,
        "tags": [operation.tag],
        "summary": summary.rstrip("."),
    }
    if more:
        found["description"] = more
    if parameters := list(parameters_of(route, operation)):
        found["parameters"] = parameters
    if operation.body:
        found["requestBody"] = {"required": True, "content": dict(body_contents(operation))}
    found["responses"] = {"200": answer_object(operation), **error_references(route, operation)}
    if operation.is_open:
        found["security"] = []
    if operation.is_old:
        found["deprecated"] = True
    return found


def parameters_of(route: Route, operation: Operation) -> Iterator[Schema]:
    for name in PARAMETER.findall(route.path):
        found: Schema = {
            "name": name,
            "in": "path",
            "required": True,
            "description": PARAMETERS[name],
            "schema": {"type": "string"},
        }
        if name in operation.path:
            found["examples"] = named_examples(operation.path[name])
        yield found
    for name, query in operation.query.items():
        yield {
            "name": name,
            "in": "query",
            "description": query.description,
            "schema": msgspec.json.schema(query.kind),
        }


def named_examples(examples: Mapping[str, object]) -> Schema:
    return {name: {"value": value} for name, value in examples.items()}


def body_contents(operation: Operation) -> Iterator[tuple[str, Schema]]:
    schema = one_of(operation.body)
    yield JSON, {"schema": schema, "examples": named_examples(operation.examples)}
    if operation.files is not None:
        encoding = {name: {"contentType": "image/*"} for name in operation.files}
        yield "multipart/form-data", {"schema": schema, "encoding": encoding}


def answer_object(operation: Operation) -> Schema:
    content: Schema = {}
    if operation.answer:
        content[JSON] = {"schema": one_of(operation.answer)}
    if operation.media_type:
        content[operation.media_type] = {"schema": {"type": "string"}}
    if operation.events:
        content[operation.stream_type] = {"schema": one_of(operation.events)}
    headers = ["x-request-id", *(["x-localinfra-ignored"] if operation.body else [])]
    return {
        "description": answer_text(operation),
        "headers": {name: header_reference(name) for name in (*headers, *operation.headers)},
        "content": content,
    }


def answer_text(operation: Operation) -> str:
    if not operation.events:
        return "The answer."
    if operation.stream_type == LINES:
        return "The answer; with `stream`, the default, a line for each part of it."
    if operation.has_named_events:
        return "The answer; with `stream`, events whose names are the types of their data."
    return "The answer; with `stream`, events that end with `data: [DONE]`."


def header_reference(name: str) -> Schema:
    return {"$ref": f"#/components/headers/{name}"}


# --- errors ---------------------------------------------------------------------------------------


def error_references(route: Route, operation: Operation) -> Schema:
    statuses = {500, *operation.statuses}
    statuses |= set() if operation.is_open else set(OF_ALL)
    statuses |= set(OF_BODIES) if operation.body else set()
    statuses |= set(OF_MODELS) if operation.uses_model else set()
    statuses |= {404} if route.param_convertors else set()
    api = api_of(route.path)
    return {
        str(status): {"$ref": f"#/components/responses/{api}{status}"}
        for status in sorted(set().union(*(statuses_in(api, status) for status in statuses)))
    }


def api_of(path: str) -> str:
    """The one whose error bodies the route has: a key of ERROR_BODIES."""
    scope = {"path": path}
    if speaks_ollama(scope):
        return "Ollama"
    return "Anthropic" if speaks_anthropic(scope) else "Error"


def statuses_in(api: str, status: int) -> set[int]:
    """Those with which the API has errors of this status."""
    kinds = error_kinds(errors.ApiError)
    return {status_in(api, kind) for kind in kinds if kind.status == status}


def status_in(api: str, kind: type[errors.ApiError]) -> int:
    return OLLAMA_STATUSES.get(kind, kind.status) if api == "Ollama" else kind.status


def headers_of(api: str, kinds: Collection[type[errors.ApiError]]) -> Iterator[str]:
    yield "x-request-id"
    if errors.QueueFull in kinds or errors.RateLimited in kinds:
        yield "retry-after"
    if errors.RateLimited in kinds:
        yield from limit_headers(anthropic=api == "Anthropic")


def error_responses() -> Iterator[tuple[str, Schema]]:
    """A response for each status, in each API's shape."""
    for api, body in ERROR_BODIES.items():
        by_status: dict[int, list[type[errors.ApiError]]] = {}
        for kind in error_kinds(errors.ApiError):
            by_status.setdefault(status_in(api, kind), []).append(kind)
        for status, kinds in sorted(by_status.items()):
            yield (
                f"{api}{status}",
                {
                    "description": "\n".join(dict.fromkeys(map(error_text, kinds))),
                    "headers": {name: header_reference(name) for name in headers_of(api, kinds)},
                    "content": {JSON: {"schema": reference(body)}},
                },
            )


def error_kinds(kind: type[errors.ApiError]) -> Iterator[type[errors.ApiError]]:
    """Those of errors.py: others only give a code of their own."""
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield child
            yield from error_kinds(child)


def error_text(kind: type[errors.ApiError]) -> str:
    text = docstring(kind)
    return f"- `{kind.code}`" + (f": {text}" if text else "") if kind.code else f"- {text}"
