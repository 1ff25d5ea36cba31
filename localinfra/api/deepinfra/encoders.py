"""POST /v1/inference/{model} for embedders and rerankers."""

from typing import Annotated

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from localinfra.api.deepinfra.status import ROUTE, InferenceStatus, Timer, refuse_webhook
from localinfra.api.generation.usage import charge_of
from localinfra.api.http.errors import json_response
from localinfra.api.http.form import read_body_or_form
from localinfra.api.http.pieces import PiecesResponse
from localinfra.api.http.sse import until_disconnect
from localinfra.api.http.state import limits, runtime, threads
from localinfra.api.http.weight import MAX_TOKEN_IDS
from localinfra.api.openai.embeddings import Inputs, InputType, checked_inputs
from localinfra.api.rerank import MAX_DOCUMENTS, Documents, checked_documents
from localinfra.api.vectors import as_floats, pieces, truncated_header
from localinfra.errors import InvalidRequest, UnsupportedParameter


class EmbeddingBody(msgspec.Struct, frozen=True, kw_only=True):
    inputs: str | Inputs
    normalize: bool = False  # DeepInfra's default: vectors as the model gives them
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    input_type: InputType | None = None
    truncate: bool | None = None
    image: str | None = None
    webhook: str | None = None

    def check(self) -> None:
        """Raises UnsupportedParameter."""
        refuse_webhook(self.webhook)
        if self.image:
            raise UnsupportedParameter("The embedding models here read texts alone.", "image")


class RerankBody(msgspec.Struct, frozen=True, kw_only=True):
    query: str | None = None
    documents: Documents = []
    # DeepInfra's, one for all.
    queries: Annotated[list[str], Meta(max_length=MAX_DOCUMENTS)] = []
    truncate: bool = True
    webhook: str | None = None


class RerankScores(msgspec.Struct, frozen=True):
    scores: list[float]  # in the documents' order
    input_tokens: int
    request_id: str
    inference_status: InferenceStatus


async def infer_embeddings(request: Request, name: str) -> Response:
    timer = Timer()
    decoded = await read_body_or_form(
        request, EmbeddingBody, limits(request), ("image",), MAX_TOKEN_IDS
    )
    body = decoded.value
    body.check()
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
    rows = await pieces(found.rows, as_floats, lambda index, row: row, threads(request).vectors)
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
    decoded = await read_body_or_form(request, RerankBody, limits(request))
    body = decoded.value
    refuse_webhook(body.webhook)
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
