"""The OpenAPI document, and answers held against it."""

import functools
import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

import jsonschema

from localinfra.api.app import create_app
from localinfra.api.openapi.document import openapi_document
from localinfra.config.settings import ServerSettings
from localinfra.models.catalog import Catalog
from localinfra.runtime import Runtime

METHODS = ("get", "post", "put", "delete")


class Example(NamedTuple):
    """A request that the document shows."""

    operation: str
    name: str
    method: str
    path: str
    body: Any  # None: it has none
    files: tuple[str, ...] = ()  # fields that a form may send as files

    def __str__(self) -> str:
        return f"{self.operation}: {self.name}"


@functools.cache
def document() -> Any:
    """The whole application's."""
    app = create_app(Runtime(ServerSettings(), Catalog({})))
    return json.loads(json.dumps(openapi_document(app.routes)))


def operations() -> Iterator[tuple[str, str, Any]]:
    """Each with its path and its method."""
    for path, item in document()["paths"].items():
        for method in METHODS:
            if method in item:
                yield path, method, item[method]


def operation(name: str) -> Any:
    [found] = [one for _, _, one in operations() if one["operationId"] == name]
    return found


def examples() -> list[Example]:
    """All that can be sent as they stand."""
    return [example for place in operations() for example in examples_of(*place)]


def examples_of(path: str, method: str, operation: Any) -> Iterator[Example]:
    parameters = [one for one in operation.get("parameters", ()) if one["in"] == "path"]
    if any("examples" not in one for one in parameters):
        return
    content = operation.get("requestBody", {}).get("content", {})
    bodies = content.get("application/json", {}).get("examples", {"": {"value": None}})
    for name, body in bodies.items():
        filled = path
        for one in parameters:
            values = one["examples"]
            value = values.get(name) or next(iter(values.values()))
            filled = filled.replace(f"{{{one['name']}}}", quote(value["value"], safe=""))
        files = content.get("multipart/form-data", {}).get("encoding", ())
        yield Example(
            operation["operationId"], name, method.upper(), filled, body["value"], tuple(files)
        )


def check_body(operation: Any, body: Any) -> None:
    """A request's body has no field that the document lacks."""
    check(body, operation["requestBody"]["content"]["application/json"]["schema"])


def check_answer(operation: Any, status: int, headers: Mapping[str, str], body: bytes) -> None:
    """An answer is as the document says, and has no field that it lacks."""
    documented = resolved(operation["responses"][str(status)])
    own = {name for name in headers if name.startswith("x-localinfra-")}
    assert own <= documented["headers"].keys()
    assert "x-request-id" in headers
    content = documented["content"]
    if not body:
        assert content == {}
        return
    media_type = headers["content-type"].partition(";")[0]
    if media_type == "application/json":
        check(json.loads(body), content[media_type]["schema"])
    elif media_type == "application/x-ndjson":
        for line in body.splitlines():
            check(json.loads(line), content[media_type]["schema"])
    elif media_type == "text/event-stream":
        check_events(body, content[media_type]["schema"], documented["description"])
    else:
        assert media_type in content or f"{media_type.partition('/')[0]}/*" in content


def check_events(stream: bytes, schema: Any, description: str) -> None:
    has_names = "names are the types" in description
    *events, rest = stream.decode().split("\n\n")
    assert rest == ""
    assert has_names or events.pop() == "data: [DONE]"
    assert events
    for event in events:
        if event.startswith(":"):  # a heartbeat
            continue
        *names, line = event.split("\n")
        data = json.loads(line.removeprefix("data: "))
        assert names == ([f"event: {data['type']}"] if has_names else [])
        check(data, schema)


def check(value: Any, schema: Any) -> None:
    whole = {**schema, "components": {"schemas": strict_schemas()}}
    jsonschema.Draft202012Validator(whole).validate(value)


@functools.cache
def strict_schemas() -> Any:
    """Objects have no fields but those that are named."""
    schemas = document()["components"]["schemas"]
    return {name: {"additionalProperties": False, **schema} for name, schema in schemas.items()}


def resolved(value: Any) -> Any:
    """What a reference leads to."""
    if "$ref" not in value:
        return value
    found = document()
    for step in value["$ref"].removeprefix("#/").split("/"):
        found = found[step]
    return found
