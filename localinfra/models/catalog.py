"""models.toml as structs: what each model is called, where its files are, how it is to run.

Resolves names and finds files. Loads nothing, fetches nothing and imports no model package.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import msgspec
from msgspec import Meta

from localinfra.config.settings import Config, read_text
from localinfra.config.tables import close_matches, decode, either, suggestion, toml
from localinfra.errors import ConfigError, InvalidRequest, ModelNotFound
from localinfra.models.sources import HubSource, Source, absolute, parse_source
from localinfra.models.versions import Version, dotted, table_name, write_out

Tokens = Annotated[int, Meta(ge=1, le=100_000_000)]
Count = Annotated[int, Meta(ge=1, le=1024)]
Usd = Annotated[float, Meta(ge=0, le=1_000_000)]
Name = Annotated[
    str,
    Meta(
        pattern=r"^(?!deploy_id:|deploy/)[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,199}$",
        description="a name of letters, digits and . _ : / @ + - (not deploy_id:... or deploy/...)",
    ),
]
DeployId = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$",
        description="an id of letters, digits and . _ -",
    ),
]
DEPLOY_ID = "deploy_id:"  # what an id begins with where names are expected
KvType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"]


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What requests would cost at a hosted service; `usage.estimated_cost` comes from it."""

    input: Usd = 0.0  # USD per million tokens
    output: Usd = 0.0  # USD per million tokens
    image: Usd = 0.0  # USD per image

    def of(self, num_input: int, num_output: int = 0, num_images: int = 0) -> float:
        """What tokens read, tokens generated and images cost, in USD."""
        return (num_input * self.input + num_output * self.output) / 1e6 + num_images * self.image


class LoraAdapter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    path: Path  # a GGUF file
    scale: float = 1.0  # how strongly it counts


class BaseEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every kind of model has. The file's `versions` are entries of their own."""

    hub_patterns: ClassVar[tuple[str, ...]] = ()  # the files of a hub's repository it needs

    source: Source  # where its files are, in one of the forms above
    aliases: tuple[Name, ...] = ()  # other names it answers to
    version: Version | None = None  # the table also answers to NAME:VERSION
    deploy_id: DeployId | None = None  # answers to deploy_id:ID
    description: str | None = None  # shown by GET /v1/models
    price: Price = Price()  # for usage.estimated_cost, /metrics and `localinfra costs`
    preload: bool = False  # load when the server starts, not at the first request
    download_gb: Annotated[float, Meta(gt=0)] | None = None  # size, told where files are absent

    @property
    def unneeded_files(self) -> str | None:
        """A pattern of those among `hub_patterns` that this entry does without."""
        return None


class TextModelEntry(BaseEntry, tag_field="kind", tag="text", frozen=True, kw_only=True):
    """A GGUF file for chat and completions. None: the loader decides by file and machine."""

    kind: ClassVar[str] = "text"
    article: ClassVar[str] = "a text model"
    routes: ClassVar[str] = "/v1/chat/completions or /v1/completions"

    # tokens of one sequence; default: what the model was trained for, 8192 at most
    context_length: Tokens | None = None
    sequences: Annotated[int, Meta(ge=1, le=64)] = 8  # most at the same time; more wait
    # tokens of all running sequences together; default: `context_length`, and never less
    kv_cache_tokens: Tokens | None = None
    kv_type: KvType = "f16"  # number type of the KV cache; smaller ones take less memory
    batch_size: Annotated[int, Meta(ge=1, le=65_536)] = 512  # most tokens of one step
    flash_attention: Literal["auto"] | bool = "auto"  # auto: llama.cpp decides
    threads: Count | None = None  # while decoding; default: what the machine's load leaves
    batch_threads: Count | None = None  # while reading prompts; default: as `threads`
    # layers on GPUs; auto: as many as fit the free memory
    gpu_layers: Literal["auto"] | Annotated[int, Meta(ge=0)] = "auto"
    # how weights are split over several GPUs; none: all on `main_gpu`
    split_mode: Literal["none", "layer", "row"] = "layer"
    main_gpu: Annotated[int, Meta(ge=0)] = 0  # the GPU of split_mode "none", by its number
    # share of each GPU; default: by free memory
    tensor_split: tuple[Annotated[float, Meta(ge=0)], ...] = ()
    # MiB of main memory for prefixes that leave the KV cache; default: an eighth of the memory,
    # 2048 at most; 0 keeps none
    parked_prefixes_mib: Annotated[int, Meta(ge=0)] | None = None
    # speculative decoding: drafts from the text so far are verified where that is faster
    prompt_lookup: bool = True
    # while a prompt is read, aim at steps of this many times what the running streams usually take
    max_gap_ratio: Annotated[float, Meta(ge=1.5, le=1000)] = 4.0
    mmap: bool = True  # map the file into memory instead of reading it
    mlock: bool = False  # lock the weights in main memory, so that they are never swapped out
    lora: tuple[LoraAdapter, ...] = ()  # adapters applied to every request
    # lossless: serve the weights in a type that is faster on this CPU, if one is as exact
    optimize: Literal["off", "lossless"] = "off"
    chat_template: str | None = None  # Jinja text instead of the file's own
    chat_template_file: Path | None = None  # the same from a file
    # tokens of an answer whose request names no limit; default: what the context leaves in
    # conversations, 2048 in text completions
    default_max_tokens: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    max_output_tokens: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None  # cap on every answer

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

    context_length: Tokens | None = None  # tokens of one text; default: as the files say
    device: Device = "auto"  # where to compute
    dtype: Dtype = "auto"  # auto: float32 on CPUs
    # auto: the fastest of those installed whose numbers are the same as torch's in float32
    backend: Literal["auto", "torch", "onnx", "openvino"] = "auto"
    threads: Count | None = None  # default: as many as there are cores
    # tokens of one batch, padding included; default: by device and backend
    batch_tokens: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None


class EmbeddingModelEntry(EncoderEntry, tag_field="kind", tag="embedding", frozen=True):
    """A sentence-transformers folder, or a GGUF file of an embedder."""

    kind: ClassVar[str] = "embedding"
    article: ClassVar[str] = "an embedding model"
    routes: ClassVar[str] = "/v1/embeddings"

    # of a vector: told by /v1/models before the model is loaded; a warning if the files differ
    dimensions: Annotated[int, Meta(ge=1, le=65_536)] | None = None
    prompts: dict[str, str] = {}  # what texts begin with, by the name of the prompt, such as query
    truncate: bool = False  # cut texts that are too long instead of refusing them
    token_ids: Literal["cl100k", "model"] = "cl100k"  # whose token ids requests send
    # how tokens become one vector, for a GGUF file that does not say
    pooling: Literal["mean", "cls", "last"] | None = None


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
    device: Device = "auto"  # where to compute
    dtype: Dtype = "auto"  # auto: bfloat16, float32 on CPUs
    # what waits in main memory: nothing, whole parts (model) or layers (group); auto: by the GPU's
    # free memory
    offload: Literal["auto", "none", "model", "group"] = "auto"
    # float8: the transformer's weights in eight bits; auto: on GPUs where it fits only so
    quantize: Literal["auto", "none", "float8"] = "auto"
    # decode in tiles: less memory; auto: on GPUs with little of it free
    vae_tiling: Literal["auto"] | bool = "auto"
    vae_slicing: bool = True  # decode the images of a batch one by one: less memory
    # kernels of attention; auto: PyTorch's own
    attention: Literal["auto", "native", "cudnn", "flash", "sage", "xformers", "flex"] = "auto"
    compile: bool = False  # faster, after minutes of compiling at the first image of each size
    # images of a request computed together; auto: as many as fit a large GPU, else one
    images_at_once: Literal["auto"] | Annotated[int, Meta(ge=1, le=10)] = "auto"
    # idle weights leave the memory after this long; default: they stay
    unload_after_s: Annotated[float, Meta(ge=1)] | None = None
    steps: Annotated[int, Meta(ge=1, le=50)] = 4  # of an image whose request names no number
    guidance_scale: Annotated[float, Meta(ge=0, le=30)] = 0.0  # the same; Schnell does not use it
    default_size: Annotated[int, Meta(ge=64, le=2048, multiple_of=16)] = 1024  # pixels a side

    @property
    def unneeded_files(self) -> str | None:
        return "transformer/*.safetensors" if self.transformer else None


ModelEntry = TextModelEntry | EmbeddingModelEntry | RerankModelEntry | ImageModelEntry
ENTRIES = (TextModelEntry, EmbeddingModelEntry, RerankModelEntry, ImageModelEntry)
KINDS: dict[object, type[ModelEntry]] = {entry.kind: entry for entry in ENTRIES}

E = TypeVar("E", bound=ModelEntry)


class Catalog:
    """The served models by their own names, which of a version is NAME:VERSION, in the file's
    order."""

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
        """Returns the own name and entry of what a client asks for, by name, alias,
        NAME:VERSION or deploy_id:ID.

        Raises ModelNotFound unless a fallback model answers for foreign names.
        """
        found = self.names_by_id.get(name)
        if found is None and self.fallback_model is not None and self._is_foreign(name):
            found = self.names_by_id[self.fallback_model]
        if found is None:
            raise ModelNotFound(self._why_unknown(name[:200]), "model")
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

    def versions(self, name: str) -> tuple[str, ...]:
        """The versions of the model that the entry called `name` is one of."""
        model = model_of(name, self.entries[name])
        return tuple(
            entry.version
            for other, entry in self.entries.items()
            if entry.version and model_of(other, entry) == model
        )

    def _is_foreign(self, name: str) -> bool:
        """Whether nothing here was meant: neither a version of a model nor a deploy_id."""
        model, _, _ = name.rpartition(":")
        return model not in self.names_by_id and not name.startswith(DEPLOY_ID)

    def _why_unknown(self, name: str) -> str:
        model, _, version = name.rpartition(":")
        if name.startswith(DEPLOY_ID):
            id = name.removeprefix(DEPLOY_ID)
            return f"No model has the deploy_id {id!r}. {self._known(id, DEPLOY_ID)}"
        if model in self.names_by_id:
            known = self._known(version, f"{model}:")
            return f"The model {model!r} has no version {version!r}. {known}"
        close = close_matches(name, self.names_by_id)
        return f"The model {name!r} does not exist. {hint(close, self.entries)}"

    def _known(self, word: str, prefix: str) -> str:
        """What there is with the prefix. Compared without it, which would make all look alike."""
        known = [id.removeprefix(prefix) for id in self.names_by_id if id.startswith(prefix)]
        close = [prefix + id for id in close_matches(word, known)]
        return hint(close, [prefix + id for id in known])


def hint(close: Sequence[str], known: Collection[str]) -> str:
    if close:
        return f"Did you mean {' or '.join(close)}?"
    return f"Served here: {', '.join(known)}." if known else "models.toml names none."


def model_of(name: str, entry: ModelEntry) -> str:
    """The name of the model that the entry called `name` is a version of; itself, if of none."""
    return name.removesuffix(f":{entry.version}")


def table_of(name: str, entry: ModelEntry) -> str:
    """The entry's place in models.toml."""
    model = model_of(name, entry)
    return table_name(model, None if model == name else entry.version)


def unique_ids(entries: Mapping[str, ModelEntry]) -> dict[str, str]:
    """Maps all that a client may ask for to the own name of its entry; raises ValueError if two
    claim one."""
    owners: dict[str, str] = {}
    for name, entry in entries.items():
        deploy_ids = (f"{DEPLOY_ID}{entry.deploy_id}",) if entry.deploy_id else ()
        for id in (name, *entry.aliases, *deploy_ids):
            if id in owners:
                other = table_of(owners[id], entries[owners[id]])
                raise ValueError(taken(id, other, table_of(name, entry)))
            owners[id] = name
    return owners


def taken(id: str, by: str, place: str) -> str:
    return f"{place} the name {toml(id)} is already taken by {by}"


def load(config: Config) -> Catalog:
    """Decodes the model tables of a settings file and reads their chat template files.

    Raises ConfigError naming the file, the table and the key.
    """
    entries: dict[str, ModelEntry] = {}
    for name, table in config.models.items():
        for own_name, entry in decode_model(name, table, config.folder, str(config.path)).items():
            if own_name in entries:
                other, place = (table_of(own_name, one) for one in (entries[own_name], entry))
                raise ConfigError(f"{config.path}: {taken(own_name, other, place)}")
            entries[own_name] = entry
    try:
        return Catalog(entries, config.server.fallback_model)
    except ValueError as error:
        raise ConfigError(f"{config.path}: {error}") from None


def decode_model(name: str, table: object, folder: Path, file: str) -> dict[str, ModelEntry]:
    """What a model's table describes, by own names: the model itself, and each of its versions."""
    where = f"{file}: {table_name(name)}"
    if not isinstance(table, dict):
        raise ConfigError(f'{where} expected a table of settings, written [model."NAME"]')
    if inner := dotted(table):
        raise ConfigError(f"{where} a name with dots needs quotes: {table_name(f'{name}.{inner}')}")
    decode({"name": name}, NameTable, f"{where} the model's")
    shared, versions = write_out(name, table, file)
    # With a source in any case, so that a mistake in what versions share is told of this table.
    model = decode_entry({"source": "-"} | shared if versions else shared, folder, where)
    names = (name, *model.aliases)
    found: dict[str, ModelEntry] = {}
    if "source" in shared:
        own_version = [f"{id}:{model.version}" for id in names if model.version]
        found[name] = msgspec.structs.replace(model, aliases=(*model.aliases, *own_version))
    for version, settings, is_default in versions:
        entry = decode_entry(settings, folder, f"{file}: {table_name(name, version)}")
        by_alias = (f"{alias}:{version}" for alias in model.aliases)
        aliases = (*entry.aliases, *by_alias, *(names if is_default else ()))
        entry = msgspec.structs.replace(entry, version=version, aliases=aliases)
        found[f"{name}:{version}"] = entry
    return found


def decode_entry(table: dict[str, object], folder: Path, where: str) -> ModelEntry:
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
            without=entry.unneeded_files,
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
    if path.exists() and not path.is_file():  # reading a pipe would wait for its writer
        raise ConfigError(f"{where} chat_template_file: {path} is not a file")
    try:
        template = read_text(path)
    except OSError as error:
        told = error.strerror or error
        raise ConfigError(f"{where} chat_template_file: can't read {path}: {told}") from None
    except ValueError as error:  # not UTF-8, or NUL in the path
        raise ConfigError(f"{where} chat_template_file: can't read {path}: {error}") from None
    return msgspec.structs.replace(entry, chat_template=template, chat_template_file=None)
