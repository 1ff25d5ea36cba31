"""The OpenAPI document: whole, valid, and as the routes are."""

import gzip
import inspect
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from asgi import Header, Reply, call, scope_of
from documented import Example, check_answer, check_body, document, examples, operation, operations
from openapi_spec_validator import OpenAPIV31SpecValidator
from request_structs import KINDS
from starlette.applications import Starlette
from starlette.routing import Route

from localinfra.api.anthropic.output import MessagesEvent
from localinfra.api.app import create_app
from localinfra.api.deepinfra.images import CogInput
from localinfra.api.deepinfra.inference import HANDLERS, infer
from localinfra.api.openai.responses.output import ResponsesEvent
from localinfra.api.openapi.document import plain
from localinfra.api.openapi.operation import Handler
from localinfra.api.openapi.operations import MESSAGE_EVENTS, OPERATIONS, RESPONSE_EVENTS
from localinfra.config.settings import ServerSettings
from localinfra.models.catalog import Catalog
from localinfra.runtime import Runtime

HOST = ("host", "localhost")
JSON = ("content-type", "application/json")
BODIES = [one for _, _, one in operations() if "requestBody" in one]


def name_of(operation: Any) -> str:
    return str(operation["operationId"])


@pytest.fixture(scope="module")
def app() -> Starlette:
    return create_app(Runtime(ServerSettings(api_keys=("secret",)), Catalog({})))


def get(app: Starlette, path: str, *headers: Header) -> Reply:
    return call(app, scope_of("GET", path, [HOST, *headers]))


# Whole


def test_every_route_is_in_the_document_and_the_other_way_round(app: Starlette) -> None:
    """But for the files of pages, and the documents of the API."""
    routes = [route for route in app.routes if isinstance(route, Route)]
    served = {
        (method.lower(), plain(route.path))
        for route in routes
        if route.include_in_schema
        for method in (route.methods or set()) - {"HEAD"}
    }
    told = {
        (method, name)
        for path, method, found in operations()
        for name in (path, *found.get("x-also-at", ()))
    }
    assert told == served


def test_the_document_is_valid() -> None:
    OpenAPIV31SpecValidator(document()).validate()


def test_every_body_that_is_read_is_in_the_document() -> None:
    bodies = {kind for row in OPERATIONS.values() for kind in row.body}
    assert bodies | {CogInput} == set(KINDS)


@pytest.mark.parametrize("handler", OPERATIONS, ids=lambda handler: handler.__name__)
def test_a_handler_reads_the_bodies_that_its_row_names(handler: Handler) -> None:
    readers = HANDLERS.values() if handler is infer else [handler]
    source = "".join(map(inspect.getsource, readers))
    begun = re.findall(r"\.begin(_with_form)?\(\s*request, (\w+)", source)
    row = OPERATIONS[handler]
    assert [name for _, name in begun] == [kind.__name__ for kind in row.body]
    assert all(bool(form) is (row.files is not None) for form, _ in begun)


@pytest.mark.parametrize("handler", OPERATIONS, ids=lambda handler: handler.__name__)
def test_a_row_names_the_parameters_that_its_handler_reads(handler: Handler) -> None:
    module = inspect.getsource(inspect.getmodule(handler) or handler)
    read = set(re.findall(r"query(?:_params)?\.get\(\"(\w+)\"", module))
    assert OPERATIONS[handler].query.keys() <= read
    own = re.findall(r"query(?:_params)?\.get\(\"(\w+)\"", inspect.getsource(handler))
    assert {*own} <= OPERATIONS[handler].query.keys()


@pytest.mark.parametrize("found", [one for _, _, one in operations()], ids=name_of)
def test_every_operation_says_what_it_does(found: Any) -> None:
    assert 5 < len(found["summary"]) < 80 and "\n" not in found["summary"]
    assert found["tags"][0] in {tag["name"] for tag in document()["tags"]}
    assert "Raises" not in found["summary"] + found.get("description", "")


@pytest.mark.parametrize("found", BODIES, ids=name_of)
def test_every_body_has_an_example(found: Any) -> None:
    assert found["requestBody"]["content"]["application/json"]["examples"]


@pytest.mark.parametrize("example", [one for one in examples() if one.body], ids=str)
def test_an_example_has_known_fields_only(example: Example) -> None:
    check_body(operation(example.operation), example.body)


def leaves(kind: type[object]) -> set[type[object]]:
    children: list[type[object]] = kind.__subclasses__()
    return set().union(*map(leaves, children)) if children else {kind}


def test_every_event_of_a_stream_is_in_the_document() -> None:
    assert leaves(ResponsesEvent) == {*RESPONSE_EVENTS}
    assert leaves(MessagesEvent) == {*MESSAGE_EVENTS}


def test_fields_are_described_by_the_comments_beside_them() -> None:
    schemas = document()["components"]["schemas"]
    seed = schemas["ChatCompletionRequest"]["properties"]["seed"]
    assert seed["description"] == "the same request and seed give the same text; -1: random"
    assert schemas["ModelCard"]["description"].startswith("A model:")


def test_what_was_encoded_before_is_described_too() -> None:
    """By what the `msgspec.Raw` holds."""
    content = document()["components"]["schemas"]["Logprobs"]["properties"]["content"]
    assert content["items"] == {"$ref": "#/components/schemas/TokenLogprobEntry"}


def lists_in(schema: Any) -> Iterator[Any]:
    inner = schema.values() if isinstance(schema, dict) else schema
    for value in inner if isinstance(schema, dict | list) else ():
        yield from lists_in(value)
    if isinstance(schema, dict) and schema.get("type") == "array":
        yield schema


def test_every_list_says_what_it_holds() -> None:
    """Generators of clients leave out the whole struct otherwise."""
    lists = list(lists_in(document()["components"]["schemas"]))
    assert lists and all("items" in schema for schema in lists)


def test_an_answer_has_its_fields_with_defaults_in_any_case() -> None:
    schemas = document()["components"]["schemas"]
    assert set(schemas["ChatCompletion"]["required"]) >= {"object", "choices"}
    assert "usage" not in schemas["ChatCompletion"]["required"]  # a chunk may have none
    assert schemas["PullEvent"]["required"] == ["status"]  # the others if they say something


def test_without_ollamas_api_the_document_is_silent_on_it() -> None:
    app = create_app(Runtime(ServerSettings(ollama_api=False), Catalog({})))
    found = json.loads(get(app, "/openapi.json").body)
    assert "Ollama" not in [tag["name"] for tag in found["tags"]]
    assert not any(path.startswith("/api/") for path in found["paths"])
    root = get(app, "/")
    assert root.header("content-type") == "application/json"
    check_answer(operation("get_index"), 200, dict(root.headers), root.body)


# Errors


@pytest.mark.parametrize("found", BODIES, ids=name_of)
def test_errors_are_as_documented(found: Any) -> None:
    app = create_app(Runtime(ServerSettings(), Catalog({})))
    [(path, method)] = [(path, method) for path, method, one in operations() if one == found]
    for headers, body, status in (
        ([HOST, JSON], b'{"a', 400),
        ([HOST, ("content-type", "text/html")], b"{}", 415),
        ([("host", "elsewhere.org"), JSON], b"{}", 403),
    ):
        if "{id}" in path and status != 403:
            continue  # an unknown model is another error, if the body is read after it
        reply = call(app, scope_of(method.upper(), path, headers), [body])
        assert reply.status == status
        check_answer(found, status, dict(reply.headers), reply.body)


def test_every_status_names_its_codes() -> None:
    refused = document()["components"]["responses"]["Error400"]["description"]
    assert "- `unsupported_parameter`: " in refused and "- `context_length_exceeded`: " in refused


def test_a_full_queue_is_503_to_ollamas_clients_as_documented() -> None:
    refused = document()["components"]["responses"]["Ollama503"]
    assert "- `queue_full`" in refused["description"] and "retry-after" in refused["headers"]
    limited = document()["components"]["responses"]["Ollama429"]
    assert "- `rate_limit_exceeded`" in limited["description"]
    assert "queue_full" not in limited["description"]
    for path, _, found in operations():
        if path.startswith("/api/") and "429" in found["responses"]:
            assert "503" in found["responses"]


@pytest.mark.parametrize(("api", "prefix"), [("Error", "x-"), ("Anthropic", "anthropic-")])
def test_a_limited_keys_429_has_the_headers_of_its_api(api: str, prefix: str) -> None:
    headers = document()["components"]["responses"][f"{api}429"]["headers"]
    limits = {name for name in headers if "ratelimit" in name}
    assert len(limits) == 6 and all(name.startswith(f"{prefix}ratelimit-") for name in limits)
    assert "retry-after" in headers


# Served


@pytest.mark.parametrize("path", ["/openapi.json", "/v1/openapi.json", "/openapi.json/"])
def test_the_document_is_read_without_a_key(app: Starlette, path: str) -> None:
    reply = get(app, path)
    assert reply.status == 200 and reply.header("content-type") == "application/json"
    assert json.loads(reply.body) == document()


def test_the_document_is_sent_once(app: Starlette) -> None:
    first = get(app, "/openapi.json", ("accept-encoding", "gzip"))
    assert first.header("content-encoding") == "gzip"
    assert json.loads(gzip.decompress(first.body)) == document()
    again = get(app, "/openapi.json", ("if-none-match", first.header("etag") or ""))
    assert (again.status, again.body) == (304, b"")
    assert get(app, "/openapi.json", ("if-none-match", '"other"')).status == 200


# The page


def linked(page: str) -> Iterator[str]:
    yield from re.findall(r'(?:href|src)="(/[^"]+)"', page)


def test_the_page_runs_its_own_scripts_only_and_asks_no_other_host(app: Starlette) -> None:
    page = get(app, "/docs")
    assert page.header("content-type") == "text/html; charset=utf-8"
    policy = page.header("content-security-policy") or ""
    allowed = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert allowed["default-src"] == "'none'"
    assert allowed["script-src"] == allowed["style-src"] == allowed["connect-src"] == "'self'"
    assert "unsafe" not in policy and "http" not in policy
    text = page.body.decode()
    assert re.findall(r"<script(?![^>]*\ssrc=)|<style| style=| on\w+=", text) == []
    paths = list(linked(text))
    assert paths and all(get(app, path).status == 200 for path in paths)


def test_scripts_of_the_page_make_no_markup_of_text_and_import_what_is_there(
    app: Starlette,
) -> None:
    [main] = [path for path in linked(get(app, "/docs").body.decode()) if path.endswith(".js")]
    found, new = set(), {main}
    while new:
        found |= new
        scripts = [get(app, path) for path in new]
        assert all(reply.status == 200 for reply in scripts)
        text = "\n".join(reply.body.decode() for reply in scripts)
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text)
        assert "//" not in re.sub(r"^\s*(//|\*).*$| // .*$", "", text, flags=re.M)  # no URL
        new = {f"/docs/{name}" for name in re.findall(r'from "\./([\w.]+)"', text)} - found


def test_another_file_of_the_page_is_not_found(app: Starlette) -> None:
    for name in ("none.js", "..%2Fapp.py"):
        assert get(app, f"/docs/{name}").status == 404
