"""POST /v1/embed and /v2/embed: embeddings in Cohere's shapes. Reranking is in rerank.py.

https://docs.cohere.com/reference/embed
"""

import uuid
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from localinfra.api.call import Call
from localinfra.api.generation.params import ShortName
from localinfra.api.http.pieces import fill_arrays, items_of
from localinfra.api.openai.embeddings import MAX_INPUTS, InputType, checked_inputs, embed_texts
from localinfra.api.vectors import as_base64, as_floats, pieces
from localinfra.chat.encoding import json_parts
from localinfra.chat.messages import TEXT_TYPES, TypeName
from localinfra.errors import InvalidRequest, UnsupportedParameter
from localinfra.executor import in_turns

FORMS = {"float": as_floats, "base64": as_base64}
INPUT_TYPES: dict[str, InputType] = {"search_query": "query", "search_document": "document"}
Texts = Annotated[list[str], Meta(max_length=MAX_INPUTS)]


class CohereContentPart(msgspec.Struct, frozen=True):
    type: TypeName
    text: str = ""


class EmbedInput(msgspec.Struct, frozen=True):
    content: Annotated[list[CohereContentPart], Meta(max_length=64)]

    def text(self) -> str:
        """Raises UnsupportedParameter if a part is not text."""
        if any(part.type not in TEXT_TYPES for part in self.content):
            raise UnsupportedParameter("The embedding models here take text only.", "inputs")
        return "\n".join(part.text for part in self.content)


class EmbedRequest(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    texts: Texts = []  # or inputs
    inputs: Annotated[list[EmbedInput], Meta(max_length=MAX_INPUTS)] = []
    images: Annotated[list[str], Meta(max_length=MAX_INPUTS)] = []
    # float, base64; others are ignored beside one of these
    embedding_types: Annotated[list[ShortName], Meta(max_length=16)] = []
    # queries and documents begin with the model's prompts for them
    input_type: (
        Literal["search_query", "search_document", "classification", "clustering", "image"] | None
    ) = None
    output_dimension: Annotated[int, Meta(ge=1)] | None = None  # shorten the vectors
    truncate: Literal["NONE", "START", "END"] = "END"  # of texts that are too long; no START

    def all_texts(self) -> tuple[list[str], str]:
        """The texts and the name of their field. Raises InvalidRequest, or UnsupportedParameter
        for images."""
        if self.images or self.input_type == "image":
            raise UnsupportedParameter("The embedding models here take text only.", "images")
        if self.truncate == "START":
            raise UnsupportedParameter(
                "A text can only be cut off at its end: send truncate END or NONE.", "truncate"
            )
        if self.texts and self.inputs:
            raise InvalidRequest("Send either texts or inputs, not both.", "inputs")
        if self.inputs:
            return [item.text() for item in self.inputs], "inputs"
        return self.texts, "texts"

    def forms(self) -> list[str]:
        """The types of vectors asked for, each once. Raises UnsupportedParameter if none is
        served."""
        wanted = list(dict.fromkeys(self.embedding_types or ["float"]))
        found = [name for name in wanted if name in FORMS]
        if not found:
            raise UnsupportedParameter(
                f"embedding_types can be {' and '.join(FORMS)}.", "embedding_types"
            )
        return found


class ApiVersion(msgspec.Struct, frozen=True):
    version: str  # 1 or 2, as in the path


class BilledUnits(msgspec.Struct, frozen=True):
    input_tokens: int


class EmbedMeta(msgspec.Struct, frozen=True):
    api_version: ApiVersion
    billed_units: BilledUnits


class CohereEmbeddings(msgspec.Struct, frozen=True):
    """The vectors, in the order of the texts."""

    id: str
    response_type: Literal["embeddings_floats", "embeddings_by_type"]
    # a list of vectors below /v1 without `embedding_types`; else such a list for each type
    embeddings: Sequence[Sequence[float]] | Mapping[str, Sequence[Sequence[float] | str]]
    texts: Sequence[str]
    meta: EmbedMeta


async def create_cohere_embeddings(request: Request) -> Response:
    """Makes embeddings in Cohere's form.

    Below /v1 without `embedding_types`, the answer is a plain list of vectors."""
    call = await Call.begin(request, EmbedRequest)
    body, forms = call.body, call.body.forms()
    texts, param = body.all_texts()
    found, _, _ = await embed_texts(
        call,
        body.model,
        checked_inputs(texts, param),
        input_type=INPUT_TYPES.get(body.input_type or ""),
        truncate=body.truncate == "END",
        dimensions=body.output_dimension,
        param=param,
    )
    vectors = {
        name: await pieces(found.rows, FORMS[name], lambda _, row: row, call.threads.vectors)
        for name in forms
    }
    version = request.scope["path"][2:3]
    is_plain = version == "1" and not body.embedding_types
    call.report_ignored(
        f"embedding_types[{at}]"
        for at, name in enumerate(body.embedding_types)
        if name not in FORMS
    )
    answer = CohereEmbeddings(
        id=str(uuid.uuid4()),
        response_type="embeddings_floats" if is_plain else "embeddings_by_type",
        embeddings=() if is_plain else dict.fromkeys(forms, ()),
        texts=(),
        meta=EmbedMeta(ApiVersion(version), BilledUnits(found.num_tokens)),
    )
    arrays = {"embeddings": vectors["float"]} if is_plain else vectors
    given = items_of(await in_turns(json_parts(texts)))
    return call.pieces(fill_arrays(answer, {**arrays, "texts": given}))
