"""POST /v1/inference/{model}: DeepInfra's native API; the body depends on the model's kind."""

import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Annotated

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from localinfra.api.body import read_body
from localinfra.api.embeddings import InputType, checked_inputs
from localinfra.api.render import json_response
from localinfra.api.rerank import Document, checked_documents
from localinfra.api.sse import until_disconnect
from localinfra.api.state import limits, runtime
from localinfra.api.usage import charge_of
from localinfra.api.vectors import PiecesResponse, as_floats, pieces, truncated_header
from localinfra.errors import InvalidRequest
from localinfra.models.catalog import (
    DEPLOY_ID,
    EmbeddingModelEntry,
    ModelEntry,
    RerankModelEntry,
)

ROUTE = "/v1/inference"


class InferenceStatus(msgspec.Struct, frozen=True):
    status: str
    runtime_ms: int
    cost: float  # USD
    tokens_input: int
    tokens_generated: int


class Timer:
    """A request's id, and what is said of it at its end."""

    def __init__(self) -> None:
        self.request_id = uuid.uuid4().hex
        self._started = time.monotonic()

    def status(self, cost: float, num_input: int, num_generated: int = 0) -> InferenceStatus:
        elapsed_ms = round(1000 * (time.monotonic() - self._started))
        return InferenceStatus("succeeded", elapsed_ms, cost, num_input, num_generated)


class EmbeddingBody(msgspec.Struct, frozen=True, kw_only=True):
    inputs: str | list[str | int | list[int]]
    normalize: bool = False  # DeepInfra's default: vectors as the model gives them
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    input_type: InputType | None = None
    truncate: bool | None = None


class RerankBody(msgspec.Struct, frozen=True, kw_only=True):
    query: str | None = None
    documents: list[str | Document] = msgspec.field(default_factory=list)
    queries: list[str] = msgspec.field(default_factory=list)  # DeepInfra's, one for all
    truncate: bool = True


class RerankScores(msgspec.Struct, frozen=True):
    scores: list[float]  # in the documents' order
    input_tokens: int
    request_id: str
    inference_status: InferenceStatus


async def infer(request: Request) -> Response:
    """Raises ModelNotFound, and InvalidRequest for a kind that does not answer here."""
    name = asked_for(request.path_params["id"])
    _, entry = runtime(request).catalog.resolve(name)
    handler = HANDLERS.get(type(entry))
    if handler is None:
        raise InvalidRequest(
            f"{entry.article.capitalize()} does not answer at {ROUTE} yet: use {entry.routes}.",
            "model",
        )
    return await handler(request, name)


def asked_for(path: str) -> str:
    """A model's name from the path, which for a deployment is `deploy/ID`."""
    first, _, deploy_id = path.partition("/")
    return f"{DEPLOY_ID}{deploy_id}" if first == "deploy" else path


async def infer_embeddings(request: Request, name: str) -> Response:
    timer = Timer()
    decoded = await read_body(request, EmbeddingBody, limits(request))
    body = decoded.value
    given = [body.inputs] if isinstance(body.inputs, str) else body.inputs
    inputs = checked_inputs(given, "inputs")
    model = await runtime(request).embedding_model(name, ROUTE)
    charge = charge_of(request, model)
    found = await until_disconnect(
        request.receive,
        model.embed(
            inputs,
            prompt=model.prompt(body.input_type, None),
            truncate=body.truncate,
            dimensions=body.dimensions,
            normalize=body.normalize,
            param="inputs",
        ),
    )
    rows = await pieces(found.rows, as_floats, lambda index, row: row)
    charge.add(prompt_tokens=found.num_tokens)
    status = timer.status(charge.cost, found.num_tokens)
    tail = b'],"input_tokens":%d,"request_id":%b,"inference_status":%b}' % (
        found.num_tokens,
        msgspec.json.encode(timer.request_id),
        msgspec.json.encode(status),
    )
    headers = {**decoded.headers, **truncated_header(found.truncated)}
    return PiecesResponse([b'{"embeddings":[', *rows, tail], headers)


async def infer_ranking(request: Request, name: str) -> Response:
    timer = Timer()
    decoded = await read_body(request, RerankBody, limits(request))
    body = decoded.value
    query = body.query or next(iter(body.queries), "")
    if len(set(body.queries)) > 1:
        raise InvalidRequest("Send one query; each document is ranked by it.", "queries")
    texts = checked_documents(query, body.documents)
    model = await runtime(request).rerank_model(name, ROUTE)
    charge = charge_of(request, model)
    found = await until_disconnect(
        request.receive, model.score(query, texts, truncate=body.truncate)
    )
    charge.add(prompt_tokens=found.num_tokens)
    status = timer.status(charge.cost, found.num_tokens)
    return json_response(
        RerankScores(found.values, found.num_tokens, timer.request_id, status),
        headers={**decoded.headers, **truncated_header(found.truncated)},
    )


HANDLERS: dict[type[ModelEntry], Callable[[Request, str], Awaitable[Response]]] = {
    EmbeddingModelEntry: infer_embeddings,
    RerankModelEntry: infer_ranking,
}
