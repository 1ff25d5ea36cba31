"""POST /api/show: what a model's files and settings say, in Ollama's shape."""

import datetime
import functools
from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from localinfra.api.call import Call
from localinfra.api.ollama.calls import renamed_errors, served_name
from localinfra.api.ollama.managing import ManagingFields
from localinfra.api.ollama.models import OllamaDetails, details_at, shown_details
from localinfra.chat.formats.harmony import HARMONY
from localinfra.chat.template import ChatTemplate, TemplateError
from localinfra.errors import FilesAbsent
from localinfra.models.details import HeaderDetails, header_details
from localinfra.models.entries import (
    EmbeddingModelEntry,
    ImageModelEntry,
    ModelDetails,
    ModelEntry,
    TextModelEntry,
)
from localinfra.models.sampling import SamplingSettings, recommended_in
from localinfra.models.senses import Sense, senses_of
from localinfra.models.sources import locate

TEMPLATE = "tokenizer.chat_template"
SENSES = {Sense.SIGHT: "vision", Sense.HEARING: "audio"}
FILLS = ("tokenizer.ggml.fim_pre_token_id", "tokenizer.ggml.prefix_token_id")


class ShownModel(msgspec.Struct, frozen=True, kw_only=True):
    license: str
    modelfile: str
    parameters: str  # one per line
    template: str  # Jinja, where Ollama has Go's templates
    details: OllamaDetails
    model_info: Mapping[str, Any]  # of a GGUF file's header, without long lists
    capabilities: list[str]
    modified_at: datetime.datetime


async def show_ollama_model(request: Request) -> Response:
    """Says what a model's files and settings hold."""
    call = await Call.begin(request, ManagingFields, has_type=False)
    name = await served_name(call.models, call.body.id)
    with renamed_errors(call.body.id):
        name, entry = call.models.catalog.resolve(name)
        loaded = call.runtime.loaded().get(name)
        known = loaded.details if loaded else entry.details
        return call.json(await call.threads.files.run(shown_model, name, entry, known))


def shown_model(name: str, entry: ModelEntry, known: ModelDetails) -> ShownModel:
    """Blocks. Raises FilesAbsent."""
    path, found = locate(name, entry.source), details_at(entry)
    if found is None:
        raise FilesAbsent(f"The files of {name} are not all here any more.", "model")
    header = HeaderDetails()
    if path.is_file():
        header = header_details(path, found, embeds=isinstance(entry, EmbeddingModelEntry))
    if header.num_parameters and not found.parameters:
        found = msgspec.structs.replace(found, parameters=short_number(header.num_parameters))
    template = template_of(entry, header)
    parameters = parameters_of(entry, known, header)
    return ShownModel(
        license=str(header.metadata.get("general.license", "")),
        modelfile="\n".join([f"FROM {name}", *(f"PARAMETER {line}" for line in parameters)]),
        parameters="\n".join(parameters),
        template=template,
        details=shown_details(found),
        model_info=model_info(header, known),
        capabilities=capabilities(entry, header, template),
        modified_at=datetime.datetime.fromtimestamp(found.modified_s, datetime.UTC),
    )


def short_number(number: int) -> str:
    """134515008 → 134.5M."""
    size, unit = next(
        ((size, unit) for size, unit in ((1e9, "B"), (1e6, "M")) if number >= size), (1e3, "K")
    )
    return f"{number / size:.1f}{unit}"


def template_of(entry: ModelEntry, header: HeaderDetails) -> str:
    own = entry.chat_template if isinstance(entry, TextModelEntry) else None
    return own or str(header.metadata.get(TEMPLATE, ""))


def parameters_of(entry: ModelEntry, known: ModelDetails, header: HeaderDetails) -> list[str]:
    """What requests get that say nothing else, under Ollama's names."""
    if not isinstance(entry, TextModelEntry):
        return []
    recommended = known.recommended or recommended_in(header.metadata) or SamplingSettings()
    values = recommended.given | entry.sampling.given
    names = {"repetition_penalty": "repeat_penalty"}
    lines = [f"{names.get(name, name)} {value:g}" for name, value in values.items()]
    return [*lines, *([f"num_ctx {known.context_length}"] if known.context_length else [])]


def model_info(header: HeaderDetails, known: ModelDetails) -> dict[str, object]:
    """With the context length that the model is served with, where that is known."""
    info = {key: value for key, value in header.metadata.items() if key != TEMPLATE}
    if header.num_parameters is not None:
        info["general.parameter_count"] = header.num_parameters
    if known.context_length is not None:
        info[f"{info.get('general.architecture', 'model')}.context_length"] = known.context_length
    return info


def capabilities(entry: ModelEntry, header: HeaderDetails, template: str) -> list[str]:
    if isinstance(entry, EmbeddingModelEntry):
        return ["embedding"]
    if isinstance(entry, ImageModelEntry):
        return ["image"]
    if not isinstance(entry, TextModelEntry):
        return []
    path = entry.projector
    reads = senses_of(path) if path else ()
    sees = [name for sense, name in SENSES.items() if sense in reads]
    fills = ["insert"] if any(key in header.metadata for key in FILLS) else []
    return ["completion", *(template_capabilities(template) if template else ()), *sees, *fills]


@functools.lru_cache(maxsize=64)
def template_capabilities(source: str) -> tuple[str, ...]:
    """Models whose template knows no tools are told of them in words."""
    try:
        template = ChatTemplate(source, bos_token="", eos_token="", special_tokens=())
    except TemplateError:
        return ()
    thinks = template.voice is HARMONY or template.voice.reasoning is not None
    return ("tools", "thinking") if thinks else ("tools",)
