"""POST /v1/embeddings."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from localinfra.api.generation.params import log_user
from localinfra.api.generation.usage import Charge, charge_of
from localinfra.api.http.body import Decoded, read_body
from localinfra.api.http.pieces import PiecesResponse
from localinfra.api.http.sse import until_disconnect
from localinfra.api.http.state import limits, runtime, threads
from localinfra.api.http.weight import MAX_TOKEN_IDS
from localinfra.api.vectors import as_base64, as_floats, pieces, truncated_header
from localinfra.errors import InvalidRequest

if TYPE_CHECKING:
    from localinfra.embed.model import Embeddings  # brings numpy, which only a loaded model needs

ROUTE = "/v1/embeddings"
MAX_INPUTS = 2048

InputType = Literal["query", "document"]

# Texts, the token ids of one text, or lists of these.
Ids = Annotated[list[int], Meta(max_length=MAX_TOKEN_IDS)]
Inputs = Annotated[list[str | int | Ids], Meta(max_length=MAX_TOKEN_IDS)]


class EmbeddingsRequest(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    input: str | Inputs
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    input_type: InputType | None = None
    prompt_name: str | None = None
    truncate: bool | None = None
    user: str | None = None

    def inputs(self) -> list[str | list[int]]:
        """A text, or its token ids, for each vector. Raises InvalidRequest."""
        given = [self.input] if isinstance(self.input, str) else self.input
        if set(map(type, given)) == {int}:  # there may be a million
            return [given]  # type: ignore[list-item]  # one text as token ids
        return checked_inputs(given, "input")


class EmbeddingsUsage(msgspec.Struct, frozen=True):
    prompt_tokens: int
    total_tokens: int
    estimated_cost: float  # USD


def checked_inputs(given: Sequence[str | int | list[int]], param: str) -> list[str | list[int]]:
    """Raises InvalidRequest with the index of the first that is no text."""
    if not given:
        raise InvalidRequest(f"{param} is empty: send at least one text.", param)
    if len(given) > MAX_INPUTS:
        raise InvalidRequest(
            f"{param} has {len(given)} texts; at most {MAX_INPUTS} can be sent at once.", param
        )
    inputs: list[str | list[int]] = []
    for index, item in enumerate(given):
        if isinstance(item, int) or type(item) is not type(given[0]):
            raise InvalidRequest(
                f"{param} mixes texts and token ids: send strings, or lists of ids.", param
            )
        if not item:
            raise InvalidRequest(f"{param}[{index}] is empty: every text needs a token.", param)
        inputs.append(item)
    return inputs


class EngineEmbeddingsRequest(EmbeddingsRequest, frozen=True, kw_only=True):
    """As `openai` before 1.0 sends it: the model is in the path."""

    model: str = ""


async def create_embeddings(request: Request) -> Response:
    decoded = await read_body(request, EmbeddingsRequest, limits(request), MAX_TOKEN_IDS)
    return await answer(request, decoded)


async def create_engine_embeddings(request: Request) -> Response:
    decoded = await read_body(request, EngineEmbeddingsRequest, limits(request), MAX_TOKEN_IDS)
    body = msgspec.structs.replace(decoded.value, model=request.path_params["id"])
    return await answer(request, decoded.holding(body))


async def answer(request: Request, decoded: Decoded[EmbeddingsRequest]) -> Response:
    body = decoded.value
    inputs = body.inputs()
    log_user(request, body.user)
    found, model_name, charge = await embedded(
        request,
        body.model,
        inputs,
        input_type=body.input_type,
        prompt_name=body.prompt_name,
        truncate=body.truncate,
        dimensions=body.dimensions,
    )
    form = as_base64 if body.encoding_format == "base64" else as_floats
    rows = await pieces(found.rows, form, framed, threads(request).vectors)
    charge.add(prompt_tokens=found.num_tokens)
    usage = EmbeddingsUsage(
        prompt_tokens=found.num_tokens,
        total_tokens=found.num_tokens,
        estimated_cost=charge.cost,
    )
    head = b'{"object":"list","data":['
    tail = b'],"model":%b,"usage":%b}' % (
        msgspec.json.encode(model_name),
        msgspec.json.encode(usage),
    )
    headers = {**decoded.headers, **truncated_header(found.truncated)}
    return PiecesResponse([head, *rows, tail], headers)


async def embedded(
    request: Request,
    name: str,
    inputs: Sequence[str | list[int]],
    *,
    input_type: InputType | None,
    prompt_name: str | None = None,
    truncate: bool | None,
    dimensions: int | None,
    param: str = "input",
) -> tuple["Embeddings", str, Charge]:
    """The vectors, which model made them, and where to add what they cost, once the answer is
    there. Errors name `param`."""
    model = await runtime(request).embedding_model(name, ROUTE)
    charge = charge_of(request, model)
    prompt = model.prompt(input_type, prompt_name)
    found = await until_disconnect(
        request.receive,
        model.embed(inputs, prompt=prompt, truncate=truncate, dimensions=dimensions, param=param),
    )
    return found, model.name, charge


def framed(index: int, row: bytes) -> bytes:
    return b'{"object":"embedding","index":%d,"embedding":%b}' % (index, row)
