"""models.toml as structs: what each model is called, where its files are, how it is to run.

Resolves names and finds files. Loads nothing, fetches nothing and imports no model package.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import msgspec
from msgspec import Meta

from localinfra.config import Config
from localinfra.errors import ConfigError, InvalidRequest, ModelNotFound
from localinfra.models.sources import HubSource, Source, absolute, parse_source
from localinfra.tables import close_matches, decode, either, suggestion, toml

Tokens = Annotated[int, Meta(ge=1, le=100_000_000)]
Count = Annotated[int, Meta(ge=1, le=1024)]
Usd = Annotated[float, Meta(ge=0, le=1_000_000)]
Name = Annotated[
    str,
    Meta(
        pattern=r"^(?!deploy_id:)[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,199}$",
        description="a name of letters, digits and . _ : / @ + - (not deploy_id:...)",
    ),
]
KvType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"]


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What requests would cost at a hosted service; `usage.estimated_cost` comes from it."""

    input: Usd = 0.0  # USD per million tokens
    output: Usd = 0.0  # USD per million tokens
    image: Usd = 0.0  # USD per image

    def of_input(self, num_tokens: int) -> float:
        """What texts cost that are only read, in USD."""
        return round(num_tokens * self.input / 1e6, 12)


class LoraAdapter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    path: Path
    scale: float = 1.0


class BaseEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every kind of model has."""

    hub_patterns: ClassVar[tuple[str, ...]] = ()  # the files of a hub's repository it needs

    source: Source
    aliases: tuple[Name, ...] = ()
    description: str | None = None
    price: Price = Price()
    preload: bool = False  # load when the server starts, not at the first request
    download_gb: Annotated[float, Meta(gt=0)] | None = None  # told where the files are not here


class TextModelEntry(BaseEntry, tag_field="kind", tag="text", frozen=True, kw_only=True):
    """A GGUF file for chat and completions. None: the loader decides by file and machine."""

    kind: ClassVar[str] = "text"
    article: ClassVar[str] = "a text model"
    routes: ClassVar[str] = "/v1/chat/completions or /v1/completions"

    context_length: Tokens | None = None  # of one sequence
    sequences: Annotated[int, Meta(ge=1, le=64)] = 8  # running at the same time
    kv_cache_tokens: Tokens | None = None  # shared by all sequences
    kv_type: KvType = "f16"
    batch_size: Annotated[int, Meta(ge=1, le=65_536)] = 512  # tokens per step
    flash_attention: Literal["auto"] | bool = "auto"
    threads: Count | None = None  # while decoding
    batch_threads: Count | None = None  # while reading prompts
    gpu_layers: Literal["auto"] | Annotated[int, Meta(ge=0)] = "auto"
    split_mode: Literal["none", "layer", "row"] = "layer"  # over several GPUs
    main_gpu: Annotated[int, Meta(ge=0)] = 0
    tensor_split: tuple[Annotated[float, Meta(ge=0)], ...] = ()  # share of each GPU
    # host memory for prefixes that leave the KV cache; default: an eighth of it, 2 GiB at most
    parked_prefixes_mib: Annotated[int, Meta(ge=0)] | None = None
    prompt_lookup: bool = True  # verify guesses from the text so far, where that is faster
    # running streams wait at most this many times their usual step while a prompt is read
    max_gap_ratio: Annotated[float, Meta(ge=1.5, le=1000)] = 4.0
    mmap: bool = True
    mlock: bool = False
    lora: tuple[LoraAdapter, ...] = ()
    # lossless: serve the weights in a type that is faster on this machine's CPU, if there is one
    optimize: Literal["off", "lossless"] = "off"
    chat_template: str | None = None  # Jinja text instead of the file's own
    chat_template_file: Path | None = None  # read by `load` into chat_template
    default_max_tokens: Annotated[int, Meta(ge=1, le=1_000_000)] = 2048
    max_output_tokens: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None  # cap on requests

    def __post_init__(self) -> None:
        if isinstance(self.source, HubSource) and not self.source.file:
            raise ValueError('source: a text model is one file: "hf:OWNER/REPO/FILE.gguf"')
        if self.chat_template is not None and self.chat_template_file is not None:
            raise ValueError("chat_template: give either it or chat_template_file, not both")


Device = Literal["auto", "cpu", "cuda", "mps"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]


class EncoderEntry(BaseEntry, frozen=True, kw_only=True):
    """What embedders and cross-encoders have in common. None: as the model's files say."""

    hub_patterns: ClassVar[tuple[str, ...]] = ("*.json", "*.txt", "*.model", "*.safetensors")

    context_length: Tokens | None = None  # of a text
    device: Device = "auto"
    dtype: Dtype = "auto"  # auto: float32 on CPUs
    # auto: the fastest of those installed whose numbers are the same as torch's in float32
    backend: Literal["auto", "torch", "onnx", "openvino"] = "auto"
    threads: Count | None = None
    batch_tokens: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None  # padded, in one batch


class EmbeddingModelEntry(EncoderEntry, tag_field="kind", tag="embedding", frozen=True):
    """A sentence-transformers folder, or a GGUF file of an embedder."""

    kind: ClassVar[str] = "embedding"
    article: ClassVar[str] = "an embedding model"
    routes: ClassVar[str] = "/v1/embeddings"

    dimensions: Annotated[int, Meta(ge=1, le=65_536)] | None = None
    prompts: dict[str, str] = {}  # what texts begin with, by name, such as query and document
    truncate: bool = False  # cut texts that are too long, instead of refusing them
    token_ids: Literal["cl100k", "model"] = "cl100k"  # what ids in requests mean
    pooling: Literal["mean", "cls", "last"] | None = None  # of a GGUF file that does not say


class RerankModelEntry(EncoderEntry, tag_field="kind", tag="rerank", frozen=True):
    """A folder of a cross-encoder."""

    kind: ClassVar[str] = "rerank"
    article: ClassVar[str] = "a reranker"
    routes: ClassVar[str] = "/v1/rerank"


class ImageModelEntry(BaseEntry, tag_field="kind", tag="image", frozen=True, kw_only=True):
    """A diffusers folder. auto: decided when it is loaded, by device and free memory."""

    kind: ClassVar[str] = "image"
    # The parts' folders; beside them FLUX's repositories have all weights in one file once more.
    hub_patterns: ClassVar[tuple[str, ...]] = ("model_index.json", "*/*")
    article: ClassVar[str] = "an image model"
    routes: ClassVar[str] = "/v1/images/generations"

    transformer: Source | None = None  # a GGUF file in place of the folder's own
    device: Device = "auto"
    dtype: Dtype = "auto"  # auto: bfloat16, float32 on CPUs
    # what waits in main memory: nothing, whole parts, or layers; auto: by the GPU's free memory
    offload: Literal["auto", "none", "model", "group"] = "auto"
    # float8: the transformer's weights in eight bits; auto: on GPUs where it fits only so
    quantize: Literal["auto", "none", "float8"] = "auto"
    vae_tiling: Literal["auto"] | bool = "auto"  # auto: on GPUs with little free memory
    vae_slicing: bool = True  # decode the images of a batch one by one
    attention: Literal["auto", "native", "cudnn", "flash", "sage", "xformers", "flex"] = "auto"
    compile: bool = False  # faster, after minutes of compiling at the first image of each size
    # images of a request computed together; auto: as many as fit a large GPU, else one
    images_at_once: Literal["auto"] | Annotated[int, Meta(ge=1, le=10)] = "auto"
    unload_after_s: Annotated[float, Meta(ge=0)] | None = None  # without use; None: stays
    steps: Annotated[int, Meta(ge=1, le=50)] = 4  # of an image for which no number is asked
    guidance_scale: Annotated[float, Meta(ge=0, le=30)] = 0.0  # schnell does not use it
    default_size: Annotated[int, Meta(ge=64, le=2048, multiple_of=16)] = 1024  # pixels a side


ModelEntry = TextModelEntry | EmbeddingModelEntry | RerankModelEntry | ImageModelEntry
ENTRIES = (TextModelEntry, EmbeddingModelEntry, RerankModelEntry, ImageModelEntry)
KINDS: dict[object, type[ModelEntry]] = {entry.kind: entry for entry in ENTRIES}

E = TypeVar("E", bound=ModelEntry)


class Catalog:
    """The served models by name and alias, in the file's order."""

    def __init__(
        self, entries: Mapping[str, ModelEntry], fallback_model: str | None = None
    ) -> None:
        """Raises ValueError for a name given twice and for a fallback that isn't served."""
        self.entries = dict(entries)
        self.names_by_id = unique_ids(self.entries)
        if fallback_model is not None and fallback_model not in self.names_by_id:
            raise ValueError(
                f"fallback_model: no model is called {toml(fallback_model)}; "
                f"{suggestion(fallback_model, self.names_by_id)}"
            )
        self.fallback_model = fallback_model

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.entries)

    def resolve(self, name: str) -> tuple[str, ModelEntry]:
        """Returns the name and entry of what a client asks for, by name or alias.

        Raises ModelNotFound unless a fallback model answers for foreign names.
        """
        found = self.names_by_id.get(name)
        if found is None and self.fallback_model is not None:
            found = self.names_by_id[self.fallback_model]
        if found is None:
            raise ModelNotFound(
                f"The model {name[:200]!r} does not exist. {self.hint(name)}", "model"
            )
        return found, self.entries[found]

    def resolve_as(self, kind: type[E], name: str, route: str) -> tuple[str, E]:
        """Like `resolve`, and raises InvalidRequest naming the right route for other kinds."""
        found, entry = self.resolve(name)
        if not isinstance(entry, kind):
            raise InvalidRequest(
                f"{found} is {entry.article}: it answers at {entry.routes}, not at {route}.",
                "model",
            )
        return found, entry

    def hint(self, name: str) -> str:
        if close := close_matches(name[:200], self.names_by_id):
            return f"Did you mean {' or '.join(close)}?"
        if not self.entries:
            return "models.toml names no models."
        return f"Served here: {', '.join(self.entries)}."


def unique_ids(entries: Mapping[str, ModelEntry]) -> dict[str, str]:
    """Maps every name and alias to the name of its entry; raises ValueError if two claim one."""
    owners: dict[str, str] = {}
    for name, entry in entries.items():
        for id in (name, *entry.aliases):
            if id in owners:
                raise ValueError(
                    f"[model.{toml(name)}] the name {toml(id)} is already taken by "
                    f"[model.{toml(owners[id])}]"
                )
            owners[id] = name
    return owners


def load(config: Config) -> Catalog:
    """Decodes the model tables of a settings file and reads their chat template files.

    Raises ConfigError naming the file, the table and the key.
    """
    entries = {
        name: decode_entry(name, table, config.folder, f"{config.path}: [model.{toml(name)}]")
        for name, table in config.models.items()
    }
    try:
        return Catalog(entries, config.server.fallback_model)
    except ValueError as error:
        raise ConfigError(f"{config.path}: {error}") from None


def decode_entry(name: str, table: object, folder: Path, where: str) -> ModelEntry:
    if not isinstance(table, dict):
        raise ConfigError(f'{where} expected a table of settings, written [model."NAME"]')
    if table and all(isinstance(value, dict) for value in table.values()):
        dotted = f"{name}.{next(iter(table))}"
        raise ConfigError(f'{where} a name with dots needs quotes: [model."{dotted}"]')
    decode({"name": name}, NameTable, f"{where} the model's")
    kind = table.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        expected = either(toml(known) for known in KINDS)
        found = f", got {toml(kind)}" if "kind" in table else ""
        raise ConfigError(f"{where} kind: expected {expected}{found}")

    def hook(type: type, value: Any) -> Any:
        if not isinstance(value, str) or not value:
            raise ValueError(f"expected a string, got {toml(value)}")
        if type is Source:
            return parse_source(value, folder)
        return absolute(value, folder)

    entry: ModelEntry = decode(table, KINDS[kind], where, hook)
    if isinstance(entry.source, HubSource):
        source = replace(
            entry.source,
            patterns=() if entry.source.file else entry.hub_patterns,
            size_gb=entry.download_gb,
        )
        entry = msgspec.structs.replace(entry, source=source)
    return with_template(entry, where) if isinstance(entry, TextModelEntry) else entry


class NameTable(msgspec.Struct, frozen=True):
    """A model's name, checked like a value although TOML has it as a key."""

    name: Name


def with_template(entry: TextModelEntry, where: str) -> TextModelEntry:
    path = entry.chat_template_file
    if path is None:
        return entry
    try:
        template = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or NUL in the path
        raise ConfigError(f"{where} chat_template_file: can't read {path}: {error}") from None
    return msgspec.structs.replace(entry, chat_template=template, chat_template_file=None)
