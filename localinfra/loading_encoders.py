"""Catalogue entries of embedders and rerankers → models in memory.

Blocking; the pool calls it in a thread. On CPUs what is fastest is found once, by a process of its
own (`embed/prepare.py`), so that this one needs no torch where another library gives the same.
"""

import contextlib
import importlib.util
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

import localinfra
from localinfra import install, machine
from localinfra.backend_detect import look
from localinfra.embed import plan as plans
from localinfra.embed.encoder import Description, Encoder, Kind, Tokens
from localinfra.embed.graph_encoders import OnnxEncoder, OpenVinoEncoder
from localinfra.embed.model import EmbeddingModel, RerankModel
from localinfra.embed.plan import Plan
from localinfra.embed.tokenizer import MAX_BLANKS, FastTokenizer
from localinfra.embed.worker import Worker
from localinfra.errors import ModelUnavailable
from localinfra.models.catalog import EmbeddingModelEntry, EncoderEntry, RerankModelEntry
from localinfra.models.sources import locate

if TYPE_CHECKING:
    from localinfra.llama.model import Model

logger = logging.getLogger(__name__)

PREPARE_LIMIT_S = 900
GGUF_CONTEXT = 4096  # more is asked for, not assumed: an encoder reserves memory for all of it


class Loaded(NamedTuple):
    encoder: Encoder
    description: Description
    tokenizer: FastTokenizer


def load_embedding_model(name: str, entry: EmbeddingModelEntry, max_waiting: int) -> EmbeddingModel:
    """Raises ModelUnavailable with what to do."""
    path = locate(name, entry.source)
    if path.suffix == ".gguf":
        return load_gguf_embedder(name, entry, path, max_waiting)
    loaded = load_encoder(name, entry, path, "embedding")
    if entry.dimensions not in (None, loaded.description.width):
        logger.warning(
            "%s has %d dimensions, not %d as models.toml says",
            name, loaded.description.width, entry.dimensions,
        )  # fmt: skip
    described = loaded.description
    prompts = {**described.prompts, **entry.prompts}
    worker = Worker(loaded.encoder, name=name, max_waiting=max_waiting)
    return EmbeddingModel(name, entry, worker, loaded.tokenizer, prompts, described.default_prompt)


def load_rerank_model(name: str, entry: RerankModelEntry, max_waiting: int) -> RerankModel:
    """Raises ModelUnavailable with what to do."""
    loaded = load_encoder(name, entry, locate(name, entry.source), "rerank")
    worker = Worker(loaded.encoder, name=name, max_waiting=max_waiting)
    return RerankModel(name, entry, worker, loaded.tokenizer)


def load_encoder(name: str, entry: EncoderEntry, folder: Path, kind: Kind) -> Loaded:
    if importlib.util.find_spec("sentence_transformers") is None:
        raise ModelUnavailable(
            f"{name} needs sentence-transformers, which is not installed: "
            f"{install.extra('embeddings')}. A GGUF file of an embedder works without it.",
            "model",
        )
    device, is_float32 = device_of(entry), entry.dtype in ("auto", "float32")
    if entry.backend in ("onnx", "openvino") and (device != "cpu" or not is_float32):
        raise ModelUnavailable(
            f'{name}: backend = "{entry.backend}" computes on the CPU and in float32 or what is as '
            'exact. Set device = "cpu" and leave dtype out, or backend = "torch".',
            "model",
        )
    if entry.backend == "torch" or device != "cpu" or not is_float32:
        return load_torch(name, entry, folder, kind, device, entry.dtype)
    cache, plan = planned(name, entry, folder, kind)
    chosen = "torch" if plan is None else plan.fastest(exact=entry.dtype == "float32")
    if entry.backend != "auto":
        chosen = entry.backend
        if plan is None or chosen not in plan.measured:
            raise ModelUnavailable(
                f"{name} can't be computed by {chosen}: it is not installed, or does not know this "
                'model\'s operations. Set backend = "auto" for it in models.toml.',
                "model",
            )
    if plan is not None:
        logger.info("%s is computed by %s: %s", name, chosen, told(plan))
    if plan is None or chosen.startswith("torch"):
        dtype = "bfloat16" if chosen == "torch-bf16" else "float32"
        return load_torch(name, entry, folder, kind, device, dtype)
    encoder = graph_encoder(chosen, cache / plans.GRAPH, plan.description, entry)
    tokenizer = FastTokenizer((cache / plans.TOKENIZER).read_text(), plan.description.max_tokens)
    return Loaded(encoder, plan.description, tokenizer)


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
    """Asks torch, which takes seconds to load, only where the machine has a GPU."""
    if entry.device != "auto":
        return entry.device
    found = look()
    if found.nvidia_gpu or (found.system, found.machine) == ("Darwin", "arm64"):
        from localinfra.embed.torch_encoder import usable_gpu

        return usable_gpu() or "cpu"
    return "cpu"


def told(plan: Plan) -> str:
    """Each way's milliseconds for a short text and for a batch."""
    parts = [
        f"{name} {1000 * result.short_s:.1f} / {1000 * result.mixed_s:.0f} ms"
        f"{'' if result.is_near else ' (other vectors)'}"
        for name, result in plan.measured.items()
    ]
    return ", ".join(parts)


def planned(name: str, entry: EncoderEntry, folder: Path, kind: Kind) -> tuple[Path, Plan | None]:
    """The plan for this folder on this machine, made if there is none yet; None where it can't be
    made, which the log tells."""
    threads = entry.threads or machine.usable_cores()
    identity = plans.fingerprint(folder, kind, machine.cpu(), threads, entry.context_length)
    cache = plans.place(machine.cache_folder("encoders"), folder, identity)
    if (plan := plans.load(cache)) is not None:
        return cache, plan
    logger.info("%s: finding the fastest way to compute it on this machine, once: 20 s", name)
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache.parent, prefix=".scratch-") as scratch:
            out = Path(scratch) / "new"
            out.mkdir()
            request = plans.Request(str(folder), kind, str(out), threads, entry.context_length)
            run_prepare(request)
            with contextlib.suppress(OSError):  # another process was sooner with the same
                out.rename(cache)
        plans.drop_unused(cache.parent)
    except (OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, "stderr", None) or error
        logger.warning("%s is computed by torch, since measuring failed: %s", name, reason)
        return cache, None
    return cache, plans.load(cache)


def run_prepare(request: plans.Request) -> None:
    """Raises SubprocessError with what the process said last."""
    # -P: what lies in the working directory is nobody's module.
    command = [sys.executable, "-P", "-m", "localinfra.embed.prepare"]
    package = str(Path(localinfra.__file__).parent.parent)
    subprocess.run(
        [*command, msgspec.json.encode(request).decode()],
        check=True,
        capture_output=True,
        text=True,
        timeout=PREPARE_LIMIT_S,
        env={**os.environ, "PYTHONPATH": package},
        stdin=subprocess.DEVNULL,
    )


# --- GGUF files -----------------------------------------------------------------------------------


def load_gguf_embedder(
    name: str, entry: EmbeddingModelEntry, path: Path, max_waiting: int
) -> EmbeddingModel:
    from localinfra.llama.embedder import EmbedderSettings, LlamaEmbedder
    from localinfra.llama.model import LoadFailed, Model, ModelSettings
    from localinfra.models.gguf import BadGguf, read_header

    try:
        header = read_header(path, embeds=True)
        # Never more than it was trained for: an encoder has no position beyond.
        trained = header.context_length or GGUF_CONTEXT
        length = min(entry.context_length or GGUF_CONTEXT, trained)
        threads = entry.threads or machine.usable_cores()
        layers = 0 if entry.device == "cpu" else 999
        model = Model(path, ModelSettings(gpu_layers=layers))
        encoder = LlamaEmbedder(model, EmbedderSettings(length, threads, entry.pooling))
    except (BadGguf, LoadFailed) as error:
        raise ModelUnavailable(f"{name}: {error}", "model") from None
    worker = Worker(encoder, name=name, max_waiting=max_waiting)
    return EmbeddingModel(name, entry, worker, GgufTokenizer(model, length), entry.prompts)


class GgufTokenizer:
    """llama.cpp's vocabulary as `embed.Tokenizer`."""

    def __init__(self, model: "Model", max_tokens: int):
        self._model = model
        self.max_tokens = max_tokens
        self.num_vocab = model.num_vocab
        self._before, self._after = model.tokens_around
        self.max_characters = max_tokens * max(model.longest_token, MAX_BLANKS)

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        return [
            self.wrap(self._model.tokenize(text, parse_special=False, add_bos=False))
            for text in texts
        ]

    def wrap(self, ids: list[int]) -> Tokens:
        return Tokens([*self._before, *ids, *self._after])

    def cut(self, tokens: Tokens) -> Tokens:
        if len(tokens) <= self.max_tokens:
            return tokens
        kept = self.max_tokens - len(self._after)
        return Tokens(tokens.ids[:kept] + self._after, None, tokens.num_prompt)
