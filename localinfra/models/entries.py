"""A model's settings in models.toml: one struct for each kind, with the properties of the kind.

Knows what a model's files look like, but not how it is loaded or computes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

import msgspec
from msgspec import Meta

from localinfra.engine.request import EngineSettings
from localinfra.models import looks
from localinfra.models.companions import projector_of
from localinfra.models.names import DeployId, Endpoint, Name
from localinfra.models.sampling import SamplingSettings
from localinfra.models.sources import ModelSource, Source
from localinfra.models.versions import Version

Tokens = Annotated[int, Meta(ge=1, le=100_000_000)]
Count = Annotated[int, Meta(ge=1, le=1024)]
Usd = Annotated[float, Meta(ge=0, le=1_000_000)]
ENGINE = EngineSettings()  # its defaults
KvType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"]


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Prices as of a hosted service, for `usage.estimated_cost`."""

    input: Usd = 0.0  # USD per million tokens
    output: Usd = 0.0  # USD per million tokens
    image: Usd = 0.0  # USD per image

    def of(self, num_input: int, num_output: int = 0, num_images: float = 0) -> float:
        """The cost of tokens read, tokens generated and images, in USD."""
        return (num_input * self.input + num_output * self.output) / 1e6 + num_images * self.image


class LoraAdapter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    path: Path  # a GGUF file
    scale: float = 1.0  # factor for its weights


class ModelDetails(msgspec.Struct, frozen=True):
    """Limits and sizes for clients. None: unknown until the model is loaded, or not of its kind."""

    context_length: int | None = None  # tokens
    default_max_tokens: int | None = None
    max_output_tokens: int | None = None
    dimensions: int | None = None
    # what the model's authors recommend, for clients to send
    recommended: SamplingSettings | None = None


class ModelEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of every kind of model. The file's `versions` are entries of their own."""

    kind: ClassVar[str]  # as in models.toml and on the wire
    article: ClassVar[str]  # a model of the kind, in errors
    routes: ClassVar[tuple[str, ...]]  # its endpoints
    example: ClassVar[str]  # fields of a request to the first of them
    hub_patterns: ClassVar[tuple[str, ...]] = ()  # the files it needs of a hub repository

    source: Source  # where its files are, in one of the forms above
    aliases: tuple[Name, ...] = ()  # other names it answers to
    version: Version | None = None  # also answers to NAME:VERSION
    deploy_id: DeployId | None = None  # also answers to deploy_id:ID
    description: str | None = None  # shown by GET /v1/models
    price: Price = Price()  # for usage.estimated_cost, /metrics and `localinfra costs`
    preload: bool = False  # load when the server starts, not at the first request
    pinned: bool = False  # never unload it to make room for another model
    # unload the model when idle for this many seconds; default: never
    unload_after_s: Annotated[float, Meta(ge=1)] | None = None
    download_gb: Annotated[float, Meta(gt=0)] | None = None  # size, shown if files are absent

    @property
    def unneeded_files(self) -> str | None:
        """The pattern of files in `hub_patterns` that this entry does not need."""
        return None

    @property
    def details(self) -> ModelDetails:
        """The details that are known before the model is loaded."""
        return ModelDetails()

    @property
    def safer(self) -> Self:
        """The entry for a model that has killed the server: with as little as possible of what may
        differ between machines."""
        return self

    @property
    def other_ggufs(self) -> Mapping[str, Path]:
        """Key → the GGUF file that it names, for present files other than the source."""
        return {}

    @property
    def other_files(self) -> tuple[Path, ...]:
        """The present files that are loaded with the source. Reads folder listings."""
        return (*self.other_ggufs.values(),)

    @property
    def other_sources(self) -> tuple[Source, ...]:
        """Where its other files are, to fetch them with the first."""
        return ()

    def problem(self, path: Path) -> str | None:
        """Why the file or folder can't be a model of this kind, at a glance. Raises OSError."""
        return None

    def problem_inside(self, path: Path) -> str | None:
        """The same after reading the header of a file without `problem`."""
        return None

    def extra(self, path: Path) -> str | None:
        """The extra in pyproject.toml with the libraries it needs."""
        return None


class TextModelEntry(ModelEntry, tag_field="kind", tag="text", frozen=True, kw_only=True):
    """A GGUF file for chat and completions. None: the loader decides from file and machine."""

    kind: ClassVar[str] = "text"
    article: ClassVar[str] = "a text model"
    routes: ClassVar[tuple[str, ...]] = ("/v1/chat/completions", "/v1/completions")
    example: ClassVar[str] = '"messages": [{"role": "user", "content": "Hello!"}]'

    # tokens of one sequence; default: what the model was trained for if that leaves enough memory
    # for others, else less, but no less than 4096
    context_length: Tokens | None = None
    sequences: Annotated[int, Meta(ge=1, le=64)] = 8  # the most that run at once; others wait
    # tokens of all running sequences together; default and minimum: `context_length`
    kv_cache_tokens: Tokens | None = None
    # each running sequence has a cache of `context_length`, whatever `kv_cache_tokens` says: for
    # many long conversations that share little; prefixes come from copies in main memory then;
    # Qwen 4: always
    separate_caches: bool = False
    # number type of the KV cache; smaller ones take less memory; flash attention reads f32 as f16
    kv_type: KvType = "f16"
    # what layers with a sliding window keep; full: all tokens, so that any part of a prompt can be
    # shared, and drafts taken back; window: less, and prompts go on from saved states; auto: full,
    # if it leaves half of the memory beside the weights to others, with a context of 32768 tokens
    # where its length is not set, and costs no layer on a GPU; Llama 4: always full
    window_cache: Literal["auto", "full", "window"] = "auto"
    # the most tokens of one step; auto: 512, or up to 2048 on GPUs by CUDA or ROCm, where weights
    # and cache leave memory for that
    batch_size: Literal["auto"] | Annotated[int, Meta(ge=1, le=65_536)] = "auto"
    flash_attention: Literal["auto"] | bool = "auto"  # auto: llama.cpp decides
    device_sampling: Literal["auto"] | bool = "auto"  # auto: where all layers are on GPUs
    threads: Count | None = None  # for decoding; default: adapts to the machine's load
    batch_threads: Count | None = None  # for prefill; default: same as `threads`
    # layers on GPUs; auto: as many as fit the free memory
    gpu_layers: Literal["auto"] | Annotated[int, Meta(ge=0)] = "auto"
    # how weights are split over several GPUs; none: all on `main_gpu`
    split_mode: Literal["none", "layer", "row"] = "layer"
    main_gpu: Annotated[int, Meta(ge=0)] = 0  # number of the GPU used by split_mode "none"
    # share of each GPU; default: by free memory
    tensor_split: tuple[Annotated[float, Meta(ge=0)], ...] = ()
    # other machines that run llama.cpp's ggml-rpc-server and take layers like GPUs. Nothing is
    # encrypted or authenticated, and one that goes away ends the server: for trusted networks alone
    rpc_servers: Annotated[tuple[Endpoint, ...], Meta(max_length=16)] = ()
    # MiB of main memory for prefixes offloaded from the KV cache, and for saved states, which some
    # models need to share prefixes; default: an eighth of the memory, at most 2048; 0 keeps none
    parked_prefixes_mib: Annotated[int, Meta(ge=0)] | None = None
    # speculative decoding with drafts from the text so far, when that is faster
    prompt_lookup: bool = ENGINE.prompt_lookup
    # a small model with the same vocabulary whose drafts are verified, when that is faster
    draft: Annotated[ModelSource, Meta(description="the name of another text model")] | None = None
    # draft with the file's own layers for multi-token prediction, when that is faster; they take
    # memory, also for states to go back to in hybrid models
    mtp: bool = False
    # while a prompt is read, aim for steps of at most this many times the usual step of the streams
    max_gap_ratio: Annotated[float, Meta(ge=1.5, le=1000)] = ENGINE.max_gap_ratio
    # seconds that such a step may take all the same where that is better for all; 0: none
    max_stall_s: Annotated[float, Meta(ge=0, le=60)] = ENGINE.max_stall_s
    # its projector, a GGUF file that turns pictures and sounds into what the model reads; default:
    # the mmproj file that came with the model, if there is one
    mmproj: Source | None = None
    vision: bool = True  # read pictures and sounds, if the model has a projector
    # the most tokens of one picture, where the projector takes pictures of any size; default: its
    # own limit, as large as 4096
    max_image_tokens: Annotated[int, Meta(ge=16, le=16_384)] | None = None
    mmap: bool = True  # map the file into memory instead of reading it
    mlock: bool = False  # lock the weights in main memory, so that they are never swapped out
    lora: tuple[LoraAdapter, ...] = ()  # adapters applied to every request
    # lossless: serve the weights in a type that is faster on this CPU and as exact, if there is one
    optimize: Literal["off", "lossless"] = "off"
    chat_template: str | None = None  # Jinja template instead of the file's own
    chat_template_file: Path | None = None  # the same from a file
    # limit on the tokens of an answer if the request has none; default: what the context leaves in
    # conversations, 2048 in text completions
    default_max_tokens: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    max_output_tokens: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None  # limit of any answer
    # sampling parameters of requests that leave them out, in place of the API's own defaults
    sampling: SamplingSettings = SamplingSettings()
    # sampling parameters that `localinfra chat` and other clients should send, shown by
    # GET /v1/models; default: those in the file, if it has any
    recommended: SamplingSettings | None = None

    def __post_init__(self) -> None:
        if self.source.is_repository:
            raise ValueError(
                'source: a text model is one file: "hf:OWNER/REPO:QUANT" or "hf:OWNER/REPO/FILE"'
            )
        if self.chat_template is not None and self.chat_template_file is not None:
            raise ValueError("chat_template: set it or chat_template_file, not both")
        if self.mtp and self.draft is not None:
            raise ValueError("mtp: set it or draft, not both")

    @property
    def details(self) -> ModelDetails:
        return ModelDetails(
            context_length=self.context_length,
            default_max_tokens=self.default_max_tokens,
            max_output_tokens=self.max_output_tokens,
            recommended=self.recommended,
        )

    @property
    def safer(self) -> Self:
        return msgspec.structs.replace(
            self,
            gpu_layers=0,
            rpc_servers=(),
            flash_attention=False,
            # llama.cpp reads other types with flash attention only
            kv_type=self.kv_type if self.kv_type in ("f32", "bf16") else "f16",
            device_sampling=False,
            prompt_lookup=False,
            draft=None,
            mtp=False,
            vision=False,
            optimize="off",
        )

    @property
    def other_ggufs(self) -> Mapping[str, Path]:
        draft = self.draft.find() if self.draft else None
        adapters = {f"lora[{at}].path": adapter.path for at, adapter in enumerate(self.lora)}
        mmproj = self.mmproj.find() if self.mmproj and self.vision else None
        files = {"draft": draft, "mmproj": mmproj}
        return adapters | {key: path for key, path in files.items() if path}

    @property
    def other_sources(self) -> tuple[Source, ...]:
        return (self.mmproj,) if self.mmproj and self.vision else ()

    @property
    def other_files(self) -> tuple[Path, ...]:
        return (*super().other_files, *filter(None, [None if self.mmproj else self.projector]))

    @property
    def projector(self) -> Path | None:
        """The projector's file, if it is here."""
        if not self.vision or self.mmproj:
            return self.mmproj.find() if self.mmproj and self.vision else None
        model = self.source.find()
        return projector_of(self.source, model) if model else None

    def problem(self, path: Path) -> str | None:
        return looks.ggufs_inside(path) if path.is_dir() else looks.gguf(path)

    def problem_inside(self, path: Path) -> str | None:
        return looks.gguf_header(path, mtp=self.mtp)


Device = Literal["auto", "cpu", "cuda", "mps"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]


class EncoderEntry(ModelEntry, frozen=True, kw_only=True):
    """The settings of embedders and cross-encoders. None: as in the model's files."""

    hub_patterns: ClassVar[tuple[str, ...]] = ("*.json", "*.txt", "*.model", "*.safetensors")

    context_length: Tokens | None = None  # tokens of one text; default: as in the model's files
    device: Device = "auto"  # where to compute
    dtype: Dtype = "auto"  # auto: float32 on CPUs
    # auto: the fastest installed one that gives the same numbers as torch in float32
    backend: Literal["auto", "torch", "onnx", "openvino"] = "auto"
    threads: Count | None = None  # default: one per core
    # tokens of one batch, padding included; default: by device and backend
    batch_tokens: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None

    @property
    def details(self) -> ModelDetails:
        return ModelDetails(context_length=self.context_length)

    @property
    def safer(self) -> Self:
        return msgspec.structs.replace(self, device="cpu", backend="torch")

    def problem(self, path: Path) -> str | None:
        return looks.encoder(path, self.article)

    def extra(self, path: Path) -> str | None:
        return "embeddings" if path.is_dir() else None  # a GGUF file needs none


class EmbeddingModelEntry(EncoderEntry, tag_field="kind", tag="embedding", frozen=True):
    """A sentence-transformers folder, or a GGUF file of an embedder."""

    kind: ClassVar[str] = "embedding"
    article: ClassVar[str] = "an embedding model"
    routes: ClassVar[tuple[str, ...]] = ("/v1/embeddings",)
    example: ClassVar[str] = '"input": "Hello!"'

    # size of a vector: shown by /v1/models before loading; a warning if the files differ
    dimensions: Annotated[int, Meta(ge=1, le=65_536)] | None = None
    prompts: dict[str, str] = {}  # prefixes for texts, by the name of the prompt, such as query
    truncate: bool = False  # cut texts that are too long instead of refusing them
    token_ids: Literal["cl100k", "model"] = "cl100k"  # the vocabulary of token ids in requests
    # how the vectors of tokens become one, if the GGUF file does not say
    pooling: Literal["mean", "cls", "last"] | None = None

    @property
    def details(self) -> ModelDetails:
        return ModelDetails(context_length=self.context_length, dimensions=self.dimensions)

    def problem(self, path: Path) -> str | None:
        if path.is_dir():
            has_ggufs_alone = any(path.glob("*.gguf")) and not looks.safetensors(path)
            return looks.ggufs_inside(path) if has_ggufs_alone else super().problem(path)
        return looks.gguf(path)

    def problem_inside(self, path: Path) -> str | None:
        return None if path.is_dir() else looks.gguf_header(path, embeds=True)


class RerankModelEntry(EncoderEntry, tag_field="kind", tag="rerank", frozen=True):
    """A folder of a cross-encoder."""

    kind: ClassVar[str] = "rerank"
    article: ClassVar[str] = "a reranker"
    routes: ClassVar[tuple[str, ...]] = ("/v1/rerank",)
    example: ClassVar[str] = '"query": "Hello!", "documents": ["Hi!", "Good bye!"]'


Offload = Literal["none", "model", "group"]
Quantize = Literal["none", "float8"]
Attention = Literal["auto", "native", "cudnn", "flash", "sage", "xformers", "flex"]


class ImageModelEntry(ModelEntry, tag_field="kind", tag="image", frozen=True, kw_only=True):
    """A diffusers folder. auto: decided at load, from device and free memory."""

    kind: ClassVar[str] = "image"
    # The components' folders: FLUX's repositories also have all weights in one file beside them.
    hub_patterns: ClassVar[tuple[str, ...]] = ("model_index.json", "*/*")
    article: ClassVar[str] = "an image model"
    routes: ClassVar[tuple[str, ...]] = ("/v1/images/generations",)
    example: ClassVar[str] = '"prompt": "a lighthouse"'

    transformer: Source | None = None  # a GGUF file in place of the folder's own
    device: Device = "auto"  # where to compute
    dtype: Dtype = "auto"  # auto: bfloat16, float32 on CPUs
    # what stays in main memory until needed: nothing, whole components (model) or layers (group);
    # auto: from the GPU's free memory
    offload: Literal["auto", Offload] = "auto"
    # float8: the transformer's weights in eight bits; auto: on GPUs where it does not fit otherwise
    quantize: Literal["auto", Quantize] = "auto"
    # decode in tiles: less memory; auto: on GPUs with little free memory
    vae_tiling: Literal["auto"] | bool = "auto"
    vae_slicing: bool = True  # decode the images of a batch one by one: less memory
    # attention kernels; auto: PyTorch's own
    attention: Attention = "auto"
    compile: bool = False  # faster, after minutes of compiling at the first image of each size
    # images of a request computed together; auto: as many as fit a large GPU, else one
    images_at_once: Literal["auto"] | Annotated[int, Meta(ge=1, le=10)] = "auto"
    steps: Annotated[int, Meta(ge=1, le=50)] = 4  # per image, if the request has none
    # if the request has none; Schnell ignores it
    guidance_scale: Annotated[float, Meta(ge=0, le=30)] = 0.0
    default_size: Annotated[int, Meta(ge=64, le=2048, multiple_of=16)] = 1024  # pixels per side

    @property
    def unneeded_files(self) -> str | None:
        return "transformer/*.safetensors" if self.transformer else None

    @property
    def other_sources(self) -> tuple[Source, ...]:
        return (self.transformer,) if self.transformer else ()

    @property
    def other_ggufs(self) -> Mapping[str, Path]:
        path = self.transformer.find() if self.transformer else None
        return {"transformer": path} if path else {}

    def problem(self, path: Path) -> str | None:
        return looks.pipeline(path)

    def extra(self, path: Path) -> str | None:
        return "images"


# The kinds that most people try come first.
KINDS: dict[object, type[ModelEntry]] = {
    entry.kind: entry
    for entry in (TextModelEntry, EmbeddingModelEntry, RerankModelEntry, ImageModelEntry)
}
