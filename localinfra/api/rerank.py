"""POST /v1/rerank: scores documents against a query, in the shape of Cohere's and Jina's APIs."""

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from localinfra.api.call import Call
from localinfra.api.generation.usage import InputUsage
from localinfra.api.vectors import truncated_header
from localinfra.chance import random_hex
from localinfra.errors import InvalidRequest

ROUTE = "/v1/rerank"
MAX_DOCUMENTS = 2048


class Document(msgspec.Struct, frozen=True):
    text: str


Documents = Annotated[list[str | Document], Meta(max_length=MAX_DOCUMENTS)]


class RerankRequest(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    query: str
    documents: Documents
    top_n: Annotated[int, Meta(ge=1)] | None = None  # send the best ones only
    return_documents: bool = False  # send their texts too
    truncate: bool = True  # cut off documents that are too long, as other rerankers do

    def texts(self) -> list[str]:
        """The documents' texts. Raises InvalidRequest."""
        return checked_documents(self.query, self.documents)


class RankedDocument(msgspec.Struct, frozen=True):
    index: int  # in the request
    relevance_score: float
    document: Document | UnsetType = UNSET


class Ranking(msgspec.Struct, frozen=True):
    id: str
    model: str
    results: list[RankedDocument]
    usage: InputUsage


def checked_documents(query: str, documents: list[str | Document]) -> list[str]:
    if not query:
        raise InvalidRequest("query is empty.", "query")
    if not documents:
        raise InvalidRequest("documents is empty: send at least one.", "documents")
    texts = [item if isinstance(item, str) else item.text for item in documents]
    if "" in texts:
        raise InvalidRequest(f"documents[{texts.index('')}] is empty.", "documents")
    return texts


async def create_ranking(request: Request) -> Response:
    """Ranks documents by how well they answer a query.

    In the form of Cohere's and Jina's clients."""
    call = await Call.begin(request, RerankRequest)
    body, texts = call.body, call.body.texts()
    model = await call.models.rerank(body.model, ROUTE)
    charge = call.charge(model)
    scores = await model.score(
        body.query, texts, truncate=body.truncate, client=call.caller, left=charge.add_left
    )
    usage = charge.add_input(scores.num_tokens)
    call.add_headers(truncated_header(scores.truncated))
    order = sorted(range(len(texts)), key=lambda index: -scores.values[index])
    results = [
        RankedDocument(
            index,
            scores.values[index],
            Document(texts[index]) if body.return_documents else UNSET,
        )
        for index in order[: body.top_n]
    ]
    return call.json(Ranking(f"rerank-{random_hex(32)}", model.name, results, usage))
