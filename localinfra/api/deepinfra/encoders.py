"""POST /v1/inference/{model} for embedders and rerankers."""

from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from localinfra.api.call import Call
from localinfra.api.deepinfra.status import ROUTE, InferenceStatus, Timer, refuse_webhook
from localinfra.api.http.pieces import fill_arrays
from localinfra.api.http.weight import MAX_TOKEN_IDS
from localinfra.api.openai.embeddings import Inputs, InputType, checked_inputs, embed_texts
from localinfra.api.rerank import MAX_DOCUMENTS, Documents, checked_documents
from localinfra.api.vectors import as_floats, pieces, truncated_header
from localinfra.errors import InvalidRequest, UnsupportedParameter


class EmbeddingBody(msgspec.Struct, frozen=True, kw_only=True):
    inputs: str | Inputs
    normalize: bool = False  # DeepInfra's default: the model's raw vectors
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    input_type: InputType | None = None
    truncate: bool | None = None
    image: str | None = None  # refused
    webhook: str | None = None

    def check(self) -> None:
        """Raises UnsupportedParameter."""
        refuse_webhook(self.webhook)
        if self.image:
            raise UnsupportedParameter("The embedding models here take text only.", "image")


class RerankBody(msgspec.Struct, frozen=True, kw_only=True):
    query: str | None = None
    documents: Documents = []
    # DeepInfra's form: one query, or the same one for each document.
    queries: Annotated[list[str], Meta(max_length=MAX_DOCUMENTS)] = []
    truncate: bool = True
    webhook: str | None = None


class NativeEmbeddings(msgspec.Struct, frozen=True, kw_only=True):
    """The vectors, in the order of the texts."""

    embeddings: Sequence[Sequence[float]] = ()
    input_tokens: int
    request_id: str
    inference_status: InferenceStatus


class RerankScores(msgspec.Struct, frozen=True):
    scores: list[float]  # in the documents' order
    input_tokens: int
    request_id: str
    inference_status: InferenceStatus


async def infer_embeddings(request: Request, name: str) -> Response:
    timer = Timer()
    call = await Call.begin_with_form(request, EmbeddingBody, ("image",), MAX_TOKEN_IDS)
    body = call.body
    body.check()
    found, _, usage = await embed_texts(
        call,
        name,
        checked_inputs(body.inputs, "inputs"),
        input_type=body.input_type,
        truncate=body.truncate,
        dimensions=body.dimensions,
        normalize=body.normalize,
        param="inputs",
    )
    rows = await pieces(found.rows, as_floats, lambda _, row: row, call.threads.vectors)
    answer = NativeEmbeddings(
        input_tokens=found.num_tokens,
        request_id=timer.request_id,
        inference_status=timer.status(usage.estimated_cost, found.num_tokens),
    )
    return call.pieces(fill_arrays(answer, {"embeddings": rows}))


async def infer_ranking(request: Request, name: str) -> Response:
    timer = Timer()
    call = await Call.begin_with_form(request, RerankBody)
    body = call.body
    refuse_webhook(body.webhook)
    query = body.query or next(iter(body.queries), "")
    if len(set(body.queries)) > 1:
        raise InvalidRequest("Send one query: all documents are ranked by it.", "queries")
    texts = checked_documents(query, body.documents)
    model = await call.models.rerank(name, ROUTE)
    charge = call.charge(model)
    found = await model.score(
        query, texts, truncate=body.truncate, client=call.caller, left=charge.add_left
    )
    call.add_headers(truncated_header(found.truncated))
    charge.add(prompt_tokens=found.num_tokens)
    status = timer.status(charge.cost, found.num_tokens)
    return call.json(RerankScores(found.values, found.num_tokens, timer.request_id, status))
