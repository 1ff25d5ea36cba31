"""POST /api/embed, and its predecessor /api/embeddings."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from localinfra.api.call import Call
from localinfra.api.http.pieces import fill_arrays
from localinfra.api.ollama.answer import Stopwatch
from localinfra.api.ollama.calls import embedding_model
from localinfra.api.ollama.options import OllamaFields
from localinfra.api.openai.embeddings import MAX_INPUTS, checked_inputs, embed_texts
from localinfra.api.vectors import as_floats, pieces

if TYPE_CHECKING:
    from localinfra.embed.model import Embeddings  # brings numpy, which only a loaded model needs

ROUTE, OLD_ROUTE = "/api/embed", "/api/embeddings"


class OllamaEmbedFields(OllamaFields, frozen=True, kw_only=True):
    input: str | Annotated[list[str], Meta(max_length=MAX_INPUTS)] = ""  # empty: load the model
    truncate: bool = True
    dimensions: Annotated[int, Meta(ge=0)] = 0  # 0: the model's own


class OldEmbedFields(OllamaFields, frozen=True, kw_only=True):
    prompt: str = ""


class OllamaEmbeddings(msgspec.Struct, frozen=True, kw_only=True):
    """The vectors, in the order of the texts."""

    model: str
    embeddings: Sequence[Sequence[float]] = ()
    total_duration: int  # nanoseconds, like the next
    load_duration: int
    prompt_eval_count: int  # tokens


class OldEmbedding(msgspec.Struct, frozen=True):
    embedding: Sequence[float] = ()


async def create_ollama_embeddings(request: Request) -> Response:
    """Makes vectors from texts, in the form of Ollama's clients."""
    call = await Call.begin(request, OllamaEmbedFields, has_type=False)
    body, watch = call.body, Stopwatch(call.started_s)
    texts = checked_inputs(body.input, "input") if body.input else []
    model = await embedding_model(call, ROUTE)
    watch.loaded()
    rows: list[bytes] = []
    num_tokens = 0
    if texts:
        found, _, usage = await embed_texts(
            call,
            model.name,
            texts,
            input_type=None,
            truncate=body.truncate,
            dimensions=body.dimensions or None,
        )
        num_tokens = usage.prompt_tokens
        rows = await rows_of(call, found)
    times = watch.durations()
    answer = OllamaEmbeddings(
        model=model.name,
        total_duration=times.total,
        load_duration=times.load,
        prompt_eval_count=num_tokens,
    )
    return call.pieces(fill_arrays(answer, {"embeddings": rows}))


async def create_old_ollama_embedding(request: Request) -> Response:
    """Makes the vector of one text, in Ollama's old form.

    It is not normalized, as in Ollama."""
    call = await Call.begin(request, OldEmbedFields, has_type=False)
    model = await embedding_model(call, OLD_ROUTE)
    rows: list[bytes] = []
    if call.body.prompt:
        found, _, _ = await embed_texts(
            call,
            model.name,
            [call.body.prompt],
            input_type=None,
            truncate=True,
            dimensions=None,
            normalize=False,
            param="prompt",
        )
        rows = [row.removeprefix(b"[").removesuffix(b"]") for row in await rows_of(call, found)]
    return call.pieces(fill_arrays(OldEmbedding(), {"embedding": rows}))


async def rows_of(call: Call[OllamaFields], found: "Embeddings") -> list[bytes]:
    return await pieces(found.rows, as_floats, lambda _, row: row, call.threads.vectors)
