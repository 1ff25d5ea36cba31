"""What models.toml says of a model, as structs: one for each kind, with what is so of the kind.

Knows of files what they look like, and nothing of how a model is loaded or computes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta

from localinfra.engine.request import EngineSettings
from localinfra.models import looks
from localinfra.models.sources import HubSource, Source
from localinfra.models.versions import Version

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
ENGINE = EngineSettings()  # as it is where an entry says nothing else
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


class ModelDetails(msgspec.Struct, frozen=True):
    """What clients plan with. None: not known before the model is loaded, or not so of its kind."""

    context_length: int | None = None  # tokens
    default_max_tokens: int | None = None
    max_output_tokens: int | None = None
    dimensions: int | None = None


class ModelEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every kind of model has. The file's `versions` are entries of their own."""

    kind: ClassVar[str]  # as models.toml and the wire have it
    article: ClassVar[str]  # what errors call a model of the kind
    routes: ClassVar[str]  # where it answers
    hub_patterns: ClassVar[tuple[str, ...]] = ()  # the files of a hub's repository it needs

    source: Source  # where its files are, in one of the forms above
    aliases: tuple[Name, ...] = ()  # other names it answers to
    version: Version | None = None  # the table also answers to NAME:VERSION
    deploy_id: DeployId | None = None  # answers to deploy_id:ID
    description: str | None = None  # shown by GET /v1/models
    price: Price = Price()  # for usage.estimated_cost, /metrics and `localinfra costs`
    preload: bool = False  # load when the server starts, not at the first request
    # idle weights leave the memory after this long; default: they stay
    unload_after_s: Annotated[float, Meta(ge=1)] | None = None
    download_gb: Annotated[float, Meta(gt=0)] | None = None  # size, told where files are absent

    @property
    def unneeded_files(self) -> str | None:
        """A pattern of those among `hub_patterns` that this entry does without."""
        return None

    @property
    def details(self) -> ModelDetails:
        """What is known of the model before it is loaded."""
        return ModelDetails()

    @property
    def other_ggufs(self) -> Mapping[str, Path]:
        """GGUF files that are here beside the source, by the keys that name them."""
        return {}

    def problem(self, path: Path) -> str | None:
        """Why the file or folder can't be a model of this kind, by looks. Raises OSError."""
        return None

    def problem_inside(self, path: Path) -> str | None:
        """The same after a thorough look at a file that seems to be one."""
        return None

    def extra(self, path: Path) -> str | None:
        """Which of pyproject.toml's optional parts computes it."""
        return None


class TextModelEntry(ModelEntry, tag_field="kind", tag="text", frozen=True, kw_only=True):
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
    prompt_lookup: bool = ENGINE.prompt_lookup
    # while a prompt is read, aim at steps of this many times what the running streams usually take
    max_gap_ratio: Annotated[float, Meta(ge=1.5, le=1000)] = ENGINE.max_gap_ratio
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

    @property
    def details(self) -> ModelDetails:
        return ModelDetails(
            context_length=self.context_length,
            default_max_tokens=self.default_max_tokens,
            max_output_tokens=self.max_output_tokens,
        )

    @property
    def other_ggufs(self) -> Mapping[str, Path]:
        return {f"lora[{at}].path": adapter.path for at, adapter in enumerate(self.lora)}

    def problem(self, path: Path) -> str | None:
        return looks.ggufs_inside(path) if path.is_dir() else looks.gguf(path)

    def problem_inside(self, path: Path) -> str | None:
        return looks.gguf_header(path)


Device = Literal["auto", "cpu", "cuda", "mps"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]


class EncoderEntry(ModelEntry, frozen=True, kw_only=True):
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

    @property
    def details(self) -> ModelDetails:
        return ModelDetails(context_length=self.context_length)

    def problem(self, path: Path) -> str | None:
        return looks.encoder(path, self.article)

    def extra(self, path: Path) -> str | None:
        return "embeddings" if path.is_dir() else None  # a GGUF file needs none


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

    @property
    def details(self) -> ModelDetails:
        return ModelDetails(context_length=self.context_length, dimensions=self.dimensions)

    def problem(self, path: Path) -> str | None:
        if path.is_dir():
            has_ggufs_alone = any(path.glob("*.gguf")) and not looks.safetensors(path)
            return looks.ggufs_inside(path) if has_ggufs_alone else super().problem(path)
        if path.suffix == ".gguf":
            return looks.gguf(path)
        return (
            f"{path} is neither a folder of sentence-transformers nor a file whose name ends in "
            ".gguf"
        )

    def problem_inside(self, path: Path) -> str | None:
        return None if path.is_dir() else looks.gguf_header(path, embeds=True)


class RerankModelEntry(EncoderEntry, tag_field="kind", tag="rerank", frozen=True):
    """A folder of a cross-encoder."""

    kind: ClassVar[str] = "rerank"
    article: ClassVar[str] = "a reranker"
    routes: ClassVar[str] = "/v1/rerank"


Offload = Literal["none", "model", "group"]
Quantize = Literal["none", "float8"]
Attention = Literal["auto", "native", "cudnn", "flash", "sage", "xformers", "flex"]


class ImageModelEntry(ModelEntry, tag_field="kind", tag="image", frozen=True, kw_only=True):
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
    offload: Literal["auto", Offload] = "auto"
    # float8: the transformer's weights in eight bits; auto: on GPUs where it fits only so
    quantize: Literal["auto", Quantize] = "auto"
    # decode in tiles: less memory; auto: on GPUs with little of it free
    vae_tiling: Literal["auto"] | bool = "auto"
    vae_slicing: bool = True  # decode the images of a batch one by one: less memory
    # kernels of attention; auto: PyTorch's own
    attention: Attention = "auto"
    compile: bool = False  # faster, after minutes of compiling at the first image of each size
    # images of a request computed together; auto: as many as fit a large GPU, else one
    images_at_once: Literal["auto"] | Annotated[int, Meta(ge=1, le=10)] = "auto"
    steps: Annotated[int, Meta(ge=1, le=50)] = 4  # of an image whose request names no number
    guidance_scale: Annotated[float, Meta(ge=0, le=30)] = 0.0  # the same; Schnell does not use it
    default_size: Annotated[int, Meta(ge=64, le=2048, multiple_of=16)] = 1024  # pixels a side

    @property
    def unneeded_files(self) -> str | None:
        return "transformer/*.safetensors" if self.transformer else None

    @property
    def other_ggufs(self) -> Mapping[str, Path]:
        path = self.transformer.find() if self.transformer else None
        return {"transformer": path} if path else {}

    def problem(self, path: Path) -> str | None:
        return looks.pipeline(path)

    def extra(self, path: Path) -> str | None:
        return "images"


KINDS: dict[object, type[ModelEntry]] = {
    entry.kind: entry
    for entry in (TextModelEntry, EmbeddingModelEntry, RerankModelEntry, ImageModelEntry)
}
