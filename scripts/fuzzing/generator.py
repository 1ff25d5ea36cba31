"""A seed and a number → the attempt with this number, the same on each machine. Pure."""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import Any
from urllib.parse import quote

from fuzzing.bodies import encoded, form
from fuzzing.heads import odd_headers, odd_method, odd_target, odd_version
from fuzzing.schemas import Schemas
from fuzzing.seeds import RARE, Route, filled, routes_of
from fuzzing.values import NUMBERS, TEXTS, Json, Twice, damaged, twice, written
from fuzzing.wire import AUTHORIZED, DELIVERIES, FORM_TYPE, JSON_TYPE, Delivery, HttpRequest, whole

HOST = (b"host", b"localhost")
MOST_TOKENS = 24
MOST_CHOICES = 6
LENGTHS = (
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "max_new_tokens",
    "num_predict",
)
INPUT_OF_ITEMS = ("create_response", "compact_conversation", "count_input_tokens")
COUNTS = ("n", "best_of", "num_responses", "num_images", "num_outputs", "partial_images")
# What bounds the work of a request that does not say it: operation → members.
BOUNDS: Mapping[str, Mapping[str, Json]] = {
    "create_chat_completion": {"max_tokens": 6},
    "create_engine_chat_completion": {"max_tokens": 6},
    "create_completion": {"max_tokens": 6},
    "create_engine_completion": {"max_tokens": 6},
    "create_response": {"max_output_tokens": 6},
    "compact_conversation": {"max_output_tokens": 6},
    "create_message": {"max_tokens": 6},
    "create_images": {"size": "64x64", "num_inference_steps": 1},
    "create_edits": {"size": "64x64", "num_inference_steps": 1},
    "infer": {"max_new_tokens": 6, "width": 64, "height": 64, "num_inference_steps": 1},
    "create_ollama_chat": {"options": {"num_predict": 6}},
    "create_ollama_text": {"options": {"num_predict": 6}},
}


@dataclass(frozen=True)
class Attempt:
    """A request, how it is delivered, and what it was made from."""

    number: int
    route: Route
    kind: str  # what was done to it
    request: HttpRequest
    delivery: Delivery
    body: Json = None  # what its body was written from, if it is JSON

    @property
    def is_on_route(self) -> bool:
        """Whether the documented statuses are all that may come."""
        return not ({"headers", "method", "target", "version"} & set(self.kind.split(" + ")))

    def with_body(self, body: Json) -> "Attempt":
        request = replace(self.request, body=written(body).encode())
        return replace(self, request=request, body=body, delivery=whole(request))


class Generator:
    """Of attempts for the routes of one document, or for one of them."""

    def __init__(self, document: Mapping[str, Any], seed: int, only: str = ""):
        self.seed = seed
        self._schemas = Schemas(document)
        self.routes = [route for route in routes_of(document) if only in (route.operation, "")]
        if not self.routes:
            raise SystemExit(f"no operation {only}: see operationId in /openapi.json")
        self._weights = [weight(route) for route in self.routes]

    def attempt(self, number: int, route: Route | None = None) -> Attempt:
        draw = Random(f"{self.seed} {number}")
        [drawn] = draw.choices(self.routes, self._weights)
        route = route or drawn
        made = self._request(route, draw)
        request, kinds, body = made
        for odd, share in (
            (odd_headers, 0.08),
            (odd_method, 0.03),
            (odd_target, 0.04),
            (odd_version, 0.01),
        ):
            if draw.random() < share:
                request = odd(request, draw)
                kinds.append(odd.__name__.removeprefix("odd_"))
        if request.version == b"HTTP/1.1" and draw.random() < 0.12:
            delivery = draw.choice(DELIVERIES)(request, draw)
            kinds.append(delivery.how)
        else:
            delivery = whole(request)
        if {"headers", "method", "version"} & set(kinds):
            delivery = replace(
                delivery, num_answers=None if not delivery.is_plain else 1, is_plain=False
            )
        return Attempt(number, route, " + ".join(kinds) or "valid", request, delivery, body)

    def _request(self, route: Route, draw: Random) -> tuple[HttpRequest, list[str], Json]:
        target = self._target(route, draw)
        headers = [HOST, AUTHORIZED]
        if route.schema is None:
            return HttpRequest(route.method, target, tuple(headers)), [], None
        body, kind = self._body(route, draw)
        body = bounded(body, route.operation, draw)
        if route.files is not None and isinstance(body, dict) and draw.random() < 0.3:
            data = form(body, route.files, draw, draw.choice((0, 0, 0.1, 0.5)))
            return (
                HttpRequest(route.method, target, (*headers, FORM_TYPE), data),
                [kind, "form"],
                None,
            )
        text = written(body)
        if draw.random() < 0.06:
            request = HttpRequest(route.method, target, (*headers, JSON_TYPE), encoded(text, draw))
            return request, [kind, "bytes"], None
        request = HttpRequest(route.method, target, (*headers, JSON_TYPE), text.encode())
        return request, [kind], body

    def _body(self, route: Route, draw: Random) -> tuple[Json, str]:
        kind = draw.random()
        if kind < 0.15 or not route.bodies:
            return self._by_schema(route, draw, 0), "by schema"
        if kind < 0.35:
            oddity = draw.choice((0.02, 0.1, 0.3))
            return self._by_schema(route, draw, oddity), "near schema"
        seed = draw.choice(route.bodies)
        if kind < 0.43:
            return copy.deepcopy(seed), "as it is"
        if kind < 0.47:
            return twice(copy.deepcopy(seed), draw), "a name twice"
        return damaged(seed, draw, draw.choice((1, 1, 1, 2, 3, 8))), "damaged"

    def _by_schema(self, route: Route, draw: Random, oddity: float) -> Json:
        """Mostly with a model that is there, or every one would end at its name."""
        body = self._schemas.value(route.schema, draw, oddity)
        models = [seed["model"] for seed in route.bodies if "model" in seed]
        if isinstance(body, dict) and models and draw.random() < 0.9:
            body["model"] = draw.choice(models)
        return body

    def _target(self, route: Route, draw: Random) -> bytes:
        path = route.path if draw.random() < 0.8 else draw.choice(route.paths)
        id = draw.choice(route.ids if draw.random() < 0.8 else TEXTS)
        if not id.strip("/") and "{" in path:
            id = "none"  # or it is another route: the list
        target = filled(path, id[:2000])
        query = [
            f"{one['name']}={quote(self._query(one, draw))}"
            for one in route.query
            if draw.random() < 0.4
        ]
        if query:
            target += "?" + "&".join(query)
        return target.encode("utf-8", "surrogateescape")

    def _query(self, parameter: Mapping[str, Any], draw: Random) -> str:
        if draw.random() < 0.4:
            return str(draw.choice((*NUMBERS, *TEXTS)))[:3000]
        value = self._schemas.value(parameter["schema"], draw, 0)
        return value if isinstance(value, str) else json.dumps(value)


def weight(route: Route) -> float:
    if route.operation in RARE:
        return 0.05
    if "pull" in route.operation:  # tries three times to reach what isn't there
        return 0.5
    return 2.0 + len(route.bodies) ** 0.5 * 2 if route.bodies else 1.0


def bounded(body: Json, operation: str, draw: Random) -> Json:
    """With little to do, in a valid request: so that no answer takes long."""
    if not isinstance(body, dict):
        return body
    for inner in (body, body.get("options"), body.get("input")):
        if isinstance(inner, dict):
            _bound(inner, draw)
    for name in ("prompt", "input", "inputs"):
        if isinstance(body.get(name), list) and operation not in INPUT_OF_ITEMS:
            body[name] = body[name][:MOST_CHOICES]
    if isinstance(body, Twice):
        again = bounded({body.name: body.again}, "", draw)
        body.again = again[body.name]
    bounds = BOUNDS.get(operation, {})
    if operation == "infer":
        bounds = dict(bounds) if "prompt" in body else {"max_new_tokens": 6}
        if isinstance(body.get("input"), dict):
            body["input"].setdefault("width", 64)
            body["input"].setdefault("height", 64)
    if operation in ("create_images", "create_edits") and {"width", "height"} & body.keys():
        bounds = {"num_inference_steps": 1}
    for name, value in bounds.items():
        if body.get(name) is None and "max_completion_tokens" not in body:
            body[name] = copy.deepcopy(value)
    return body


def _bound(values: dict[str, Json], draw: Random) -> None:
    for name in LENGTHS:
        if is_number(values.get(name)) and MOST_TOKENS < values[name] <= 1_000_000:
            values[name] = draw.randint(1, MOST_TOKENS)
    if is_number(values.get("num_predict")) and values["num_predict"] < 1:
        values["num_predict"] = 3
    for name in COUNTS:
        if is_number(values.get(name)) and MOST_CHOICES < values[name] <= 128:
            values[name] = draw.randint(1, MOST_CHOICES)
    if is_number(values.get("num_inference_steps")) and 2 < values["num_inference_steps"] <= 50:
        values["num_inference_steps"] = 2
    for name in ("width", "height"):
        if is_number(values.get(name)) and 128 < values[name] <= 4096:
            values[name] = 64
    size = values.get("size")
    if isinstance(size, str) and (size == "auto" or len(size) > 5):
        values["size"] = draw.choice(("64x64", "64x128", "64 x 64", "100x100"))


def is_number(value: Json) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
