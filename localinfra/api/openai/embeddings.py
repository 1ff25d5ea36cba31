"""POST /v1/embeddings."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from localinfra.api.call import Call
from localinfra.api.generation.token_ids import are_ids
from localinfra.api.generation.usage import InputUsage
from localinfra.api.http.pieces import fill_arrays
from localinfra.api.http.weight import MAX_TOKEN_IDS
from localinfra.api.vectors import as_base64, as_floats, pieces, truncated_header
from localinfra.errors import InvalidRequest

if TYPE_CHECKING:
    from localinfra.embed.model import Embeddings  # brings numpy, which only a loaded model needs

ROUTE = "/v1/embeddings"
MAX_INPUTS = 2048

InputType = Literal["query", "document"]

# A list of texts, the token ids of one text, or a list of lists of token ids.
Ids = Annotated[list[int], Meta(max_length=MAX_TOKEN_IDS)]
Inputs = Annotated[list[str | int | Ids], Meta(max_length=MAX_TOKEN_IDS)]


class EmbeddingsRequest(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    input: str | Inputs  # a text, the token ids of one, or a list of either
    encoding_format: Literal["float", "base64"] = "float"  # base64: little-endian float32
    dimensions: Annotated[int, Meta(ge=1)] | None = None  # shorten the vectors
    input_type: InputType | None = None  # begin with the model's prompt for queries, documents
    prompt_name: str | None = None  # begin with this prompt of the model
    truncate: bool | None = None  # cut off texts that are too long, in place of refusing them
    user: str | None = None  # only logged

    def inputs(self) -> list[str | list[int]]:
        """A text or its token ids per vector. Raises InvalidRequest."""
        return checked_inputs(self.input, "input")


def checked_inputs(
    given: str | Sequence[str | int | list[int]], param: str
) -> list[str | list[int]]:
    """A text or its token ids per vector. Raises InvalidRequest, with the index of the first empty
    one."""
    if isinstance(given, str):
        return checked_inputs([given], param)
    if are_ids(given):
        return [given]  # type: ignore[list-item]  # the ids of one text
    if not given:
        raise InvalidRequest(f"{param} is empty: send at least one text.", param)
    if len(given) > MAX_INPUTS:
        raise InvalidRequest(
            f"{param} has {len(given)} texts: send at most {MAX_INPUTS} at once.", param
        )
    inputs: list[str | list[int]] = []
    for index, item in enumerate(given):
        if isinstance(item, int) or type(item) is not type(given[0]):
            raise InvalidRequest(
                f"{param} mixes texts and token ids: send only strings, or only lists of ids.",
                param,
            )
        if not item:
            raise InvalidRequest(f"{param}[{index}] is empty: leave it out.", param)
        inputs.append(item)
    return inputs


class EngineEmbeddingsRequest(EmbeddingsRequest, frozen=True, kw_only=True):
    """The form of `openai` before 1.0, with the model in the path."""

    model: str = ""


class EmbeddingObject(msgspec.Struct, frozen=True):
    """A vector."""

    object: Literal["embedding"]
    index: int  # of its text
    embedding: list[float] | str  # numbers, or base64


class EmbeddingsList(msgspec.Struct, frozen=True, kw_only=True):
    """The vectors, in the order of the texts."""

    object: Literal["list"] = "list"
    data: Sequence[EmbeddingObject] = ()
    model: str
    usage: InputUsage


async def create_embeddings(request: Request) -> Response:
    """Makes vectors of unit length from texts."""
    call = await Call.begin(request, EmbeddingsRequest, MAX_TOKEN_IDS)
    return await answer_embeddings(call, call.body.model)


async def create_engine_embeddings(request: Request) -> Response:
    """Makes vectors from texts; the model is in the path."""
    call = await Call.begin(request, EngineEmbeddingsRequest, MAX_TOKEN_IDS)
    return await answer_embeddings(call, request.path_params["id"])


async def answer_embeddings(call: Call[EmbeddingsRequest], name: str) -> Response:
    body, inputs = call.body, call.body.inputs()
    call.log_user(body.user)
    found, model_name, usage = await embed_texts(
        call,
        name,
        inputs,
        input_type=body.input_type,
        prompt_name=body.prompt_name,
        truncate=body.truncate,
        dimensions=body.dimensions,
    )
    form = as_base64 if body.encoding_format == "base64" else as_floats
    rows = await pieces(found.rows, form, frame, call.threads.vectors)
    answer = EmbeddingsList(model=model_name, usage=usage)
    return call.pieces(fill_arrays(answer, {"data": rows}))


async def embed_texts(
    call: Call[msgspec.Struct],
    name: str,
    inputs: Sequence[str | list[int]],
    *,
    input_type: InputType | None,
    prompt_name: str | None = None,
    truncate: bool | None,
    dimensions: int | None,
    normalize: bool = True,
    param: str = "input",
) -> tuple["Embeddings", str, InputUsage]:
    """The vectors, the model's name, and the usage, which is charged: also of a client that leaves
    while they are computed or written. `param`: the field of the texts, for errors."""
    model = await call.models.embedding(name, ROUTE)
    charge = call.charge(model)
    found = await model.embed(
        inputs,
        prompt=model.prompt(input_type, prompt_name),
        truncate=truncate,
        dimensions=dimensions,
        normalize=normalize,
        param=param,
        client=call.caller,
        left=charge.add_left,
    )
    usage = charge.add_input(found.num_tokens)
    call.add_headers(truncated_header(found.truncated))
    return found, model.name, usage


def frame(index: int, row: bytes) -> bytes:
    """An EmbeddingObject."""
    return b'{"object":"embedding","index":%d,"embedding":%b}' % (index, row)
