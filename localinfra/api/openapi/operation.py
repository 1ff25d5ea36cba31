"""What the document says of one route, beside the docstring of its handler."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

import msgspec
from starlette.requests import Request
from starlette.responses import Response

Handler: TypeAlias = Callable[[Request], Awaitable[Response]]

JSON = "application/json"
EVENTS = "text/event-stream"
LINES = "application/x-ndjson"
TRUNCATED = ("x-localinfra-truncated",)  # headers


class Query(msgspec.Struct, frozen=True):
    """A parameter after the question mark."""

    kind: Any  # its type, as in a struct's annotation
    description: str


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    tag: str
    body: tuple[type[msgspec.Struct], ...] = ()  # one of these
    files: tuple[str, ...] | None = None  # fields that may be files; None: no form is taken
    examples: Mapping[str, Mapping[str, Any]] = {}  # bodies, by what they show
    # for each parameter in the path, examples; one with the name of a body's goes with it
    path: Mapping[str, Mapping[str, str]] = {}
    query: Mapping[str, Query] = {}
    answer: tuple[type[msgspec.Struct], ...] = ()  # one of these; none: it is not JSON, or empty
    media_type: str | None = None  # of an answer that is not JSON
    events: tuple[type[msgspec.Struct], ...] = ()  # one of these is the data of each, in a stream
    stream_type: str = EVENTS
    has_named_events: bool = False
    uses_model: bool = False
    headers: tuple[str, ...] = ()  # of the answer, beside those of all
    statuses: tuple[int, ...] = ()  # of errors, beside those that its body and model entail
    is_open: bool = False  # needs no key
    is_old: bool = False  # for clients that know nothing newer
