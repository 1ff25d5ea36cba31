"""Catalogue entries of embedders and rerankers → models in memory.

Blocking; the pool calls it in a thread. On CPUs a child process (`embed/prepare.py`) finds the
fastest way to compute a model, once. Until then torch computes; the fastest way then replaces it.
From the next start on, torch is not even imported if another library gives the same vectors.
"""

import logging
from pathlib import Path
from typing import NamedTuple

from localinfra import cache, garbage, install, machine
from localinfra.backend_detect import look
from localinfra.embed import plan as plans
from localinfra.embed.encoder import Description, Encoder, Kind
from localinfra.embed.gguf import load_gguf_embedder
from localinfra.embed.graph_encoders import OnnxEncoder, OpenVinoEncoder
from localinfra.embed.measuring import Measurement
from localinfra.embed.model import EmbeddingModel, RerankModel
from localinfra.embed.plan import EncoderPlan
from localinfra.embed.tokenizer import FastTokenizer
from localinfra.embed.worker import EmbedWorker
from localinfra.errors import ModelUnavailable
from localinfra.footprint import CPU, Footprint, Room
from localinfra.models.entries import EmbeddingModelEntry, EncoderEntry, RerankModelEntry
from localinfra.models.seats import LoadPlan
from localinfra.models.sources import locate

logger = logging.getLogger(__name__)

NEEDED = {"onnx": ("onnxruntime", "onnxscript"), "openvino": ("openvino", "onnxscript")}


class Wanted(NamedTuple):
    """An encoder to compute on the CPU, with its settings from models.toml."""

    name: str
    entry: EncoderEntry
    folder: Path
    kind: Kind

    @property
    def threads(self) -> int:
        return self.entry.threads or machine.usable_cores()

    @property
    def ways(self) -> tuple[str, ...] | None:
        """The ways to try; None: all."""
        return None if self.entry.backend == "auto" else (self.entry.backend,)

    def place(self, ways: tuple[str, ...] | None) -> Path:
        """The cache folder of the plan that tried these ways."""
        length = self.entry.context_length
        identity = plans.fingerprint(
            self.folder, self.kind, machine.cpu(), self.threads, length, ways
        )
        return plans.place(machine.cache_folder("encoders"), self.folder, identity)


class Loaded(NamedTuple):
    encoder: Encoder
    description: Description
    tokenizer: FastTokenizer
    unmeasured: Wanted | None = None  # set if there is no plan for it yet


def start_worker(
    name: str, loaded: Loaded, max_waiting: int
) -> tuple[EmbedWorker, Measurement | None]:
    """Starts the encoder's worker, and a measurement if there is no plan for it yet."""
    worker = EmbedWorker(loaded.encoder, name=name, max_waiting=max_waiting)
    if loaded.unmeasured is None:
        return worker, None
    measurement = measurement_of(loaded.unmeasured, worker)
    measurement.start()
    return worker, measurement


def encoder_plan(name: str, entry: EncoderEntry, room: Room) -> LoadPlan:
    """What an encoder will take: its weights. Raises ModelUnavailable if its files are absent."""
    path = locate(name, entry.source)
    files = [path] if path.is_file() else [*path.rglob("*.safetensors")]
    size = sum(file.stat().st_size for file in files)
    if path.is_file():
        return LoadPlan(Footprint({CPU: size}, size))
    device = device_of(entry)
    return LoadPlan(Footprint({"cuda:0" if device == "cuda" else device: size}))


def load_embedding_model(name: str, entry: EmbeddingModelEntry, max_waiting: int) -> EmbeddingModel:
    """Raises ModelUnavailable; its message says what to do."""
    path = locate(name, entry.source)
    if path.suffix == ".gguf":
        return load_gguf_embedder(name, entry, path, max_waiting)
    loaded = load_encoder(name, entry, path, "embedding")
    if entry.dimensions not in (None, loaded.description.width):
        logger.warning(
            "%s has %d dimensions, not %d as set in models.toml",
            name, loaded.description.width, entry.dimensions,
        )  # fmt: skip
    described = loaded.description
    prompts = {**described.prompts, **entry.prompts}
    worker, measurement = start_worker(name, loaded, max_waiting)
    return EmbeddingModel(
        name, entry, worker, loaded.tokenizer, prompts, described.default_prompt, measurement
    )


def load_rerank_model(name: str, entry: RerankModelEntry, max_waiting: int) -> RerankModel:
    """Raises ModelUnavailable; its message says what to do."""
    loaded = load_encoder(name, entry, locate(name, entry.source), "rerank")
    worker, measurement = start_worker(name, loaded, max_waiting)
    return RerankModel(name, entry, worker, loaded.tokenizer, measurement)


def load_encoder(name: str, entry: EncoderEntry, folder: Path, kind: Kind) -> Loaded:
    if not install.is_installed("sentence_transformers"):
        raise ModelUnavailable(
            f"{name} needs sentence-transformers, which is not installed: "
            f"{install.extra('embeddings')}. A GGUF file of an embedder works without it.",
            "model",
        )
    device, is_float32 = device_of(entry), entry.dtype in ("auto", "float32")
    if entry.backend in ("onnx", "openvino") and (device != "cpu" or not is_float32):
        raise ModelUnavailable(
            f'{name}: backend = "{entry.backend}" needs the CPU and float32. Set device = "cpu" '
            'and leave dtype out, or set backend = "torch".',
            "model",
        )
    if entry.backend == "torch" or device != "cpu" or not is_float32:
        return load_torch(name, entry, folder, kind, device, entry.dtype)
    wanted = Wanted(name, entry, folder, kind)
    if missing := [lib for lib in NEEDED.get(entry.backend, ()) if not install.is_installed(lib)]:
        raise ModelUnavailable(
            f'{name}: backend = "{entry.backend}" needs packages that are missing: pip install '
            f'{" ".join(missing)}, or set backend = "auto" for it in models.toml.',
            "model",
        )
    cache.sweep_if_free(machine.cache_folder("encoders"))
    if found := known_plan(wanted):
        return load_planned(wanted, *found)
    logger.info("%s runs on torch at first", name)
    loaded = load_torch(name, entry, folder, kind, device, "float32")
    return loaded._replace(unmeasured=wanted)


def known_plan(wanted: Wanted) -> tuple[Path, EncoderPlan] | None:
    """The folder and contents of a plan kept in the cache."""
    for ways in dict.fromkeys((None, wanted.ways)):  # a plan that tried all ways will do
        place = wanted.place(ways)
        if (plan := plans.load(place)) is not None:
            return place, plan
    return None


def chosen_way(wanted: Wanted, plan: EncoderPlan) -> str:
    """The way to compute it. Raises ModelUnavailable if the backend set can't run it."""
    backend = wanted.entry.backend
    if backend == "auto":
        return plan.fastest(exact=wanted.entry.dtype == "float32")
    if backend not in plan.measured:
        raise ModelUnavailable(
            f"{wanted.name} can't use {backend}, which does not support this model's operations. "
            'Set backend = "auto" for it in models.toml.',
            "model",
        )
    return backend


def load_planned(wanted: Wanted, place: Path, plan: EncoderPlan) -> Loaded:
    chosen = chosen_way(wanted, plan)
    logger.info("%s runs on %s: %s", wanted.name, chosen, timings(plan))
    if chosen.startswith("torch"):
        dtype = "bfloat16" if chosen == "torch-bf16" else "float32"
        return load_torch(wanted.name, wanted.entry, wanted.folder, wanted.kind, "cpu", dtype)
    encoder = graph_encoder(chosen, place / plans.GRAPH, plan.description, wanted.entry)
    tokenizer = FastTokenizer((place / plans.TOKENIZER).read_text(), plan.description.max_tokens)
    return Loaded(encoder, plan.description, tokenizer)


def measurement_of(wanted: Wanted, worker: EmbedWorker) -> Measurement:
    """A measurement that switches the worker to the fastest way."""
    place = wanted.place(wanted.ways)
    length = wanted.entry.context_length
    request = plans.Request(
        str(wanted.folder), wanted.kind, "", wanted.threads, length, wanted.ways
    )

    def use(plan: EncoderPlan) -> None:
        if chosen_way(wanted, plan) == "torch":
            logger.info("%s stays on torch: %s", wanted.name, timings(plan))
        else:
            worker.replace(load_planned(wanted, place, plan).encoder)
            garbage.collect()  # torch's memory is held by reference cycles

    return Measurement(wanted.name, request, place, use)


def graph_encoder(
    chosen: str, graph: Path, description: Description, entry: EncoderEntry
) -> Encoder:
    threads = entry.threads or machine.usable_cores()
    if chosen == "onnx":
        return OnnxEncoder(graph, description, threads=threads, batch_tokens=entry.batch_tokens)
    precision = "bf16" if chosen == "openvino-bf16" else "f32"
    return OpenVinoEncoder(
        graph, description, threads=threads, precision=precision, batch_tokens=entry.batch_tokens
    )


def load_torch(
    name: str, entry: EncoderEntry, folder: Path, kind: Kind, device: str, dtype: str
) -> Loaded:
    from localinfra.embed.torch_encoder import TorchEncoder

    encoder = TorchEncoder(
        folder,
        kind,
        device=device,
        dtype="float32" if dtype == "auto" else dtype,
        threads=entry.threads or machine.usable_cores() if device == "cpu" else None,
        batch_tokens=entry.batch_tokens,
        max_tokens=entry.context_length,
    )
    tokenizer = FastTokenizer(encoder.tokenizer_json, encoder.description.max_tokens)
    return Loaded(encoder, encoder.description, tokenizer)


def device_of(entry: EncoderEntry) -> str:
    """The torch device. Imports torch, which takes seconds, only if the machine has a GPU."""
    if entry.device != "auto":
        return entry.device
    found = look()
    if found.nvidia_gpu or (found.system, found.machine) == ("Darwin", "arm64"):
        from localinfra.embed.torch_encoder import usable_gpu

        return usable_gpu() or "cpu"
    return "cpu"


def timings(plan: EncoderPlan) -> str:
    """Milliseconds of each way, for a short text and for a batch."""
    parts = [
        f"{name} {1000 * result.short_s:.1f} / {1000 * result.mixed_s:.0f} ms"
        f"{'' if result.is_near else ' (other vectors)'}"
        for name, result in plan.measured.items()
    ]
    return ", ".join(parts)
