"""Where a text model's layers go and what it will take: a plan from its header and the room there
is; then llama.cpp's weights and context by that plan, or by a smaller one if memory runs out.
"""

import contextlib
import logging
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from localinfra import install, machine
from localinfra.engine.backend import MOST_PADDING
from localinfra.errors import ModelUnavailable
from localinfra.footprint import CPU, Footprint, Room
from localinfra.llama import peers
from localinfra.llama.build_info import free_memory, unused_features
from localinfra.llama.memories import CHUNKED
from localinfra.llama.model import LoadFailed, LoraFile, Model, ModelSettings, NoContext
from localinfra.llama.settings import MIN_OUTPUT_ROWS, ContextSettings, Rounding
from localinfra.models import measured
from localinfra.models.entries import TextModelEntry
from localinfra.models.gguf.header import GgufHeader
from localinfra.models.gguf.mtp import without_mtp
from localinfra.models.kv_cache import cache_bytes
from localinfra.models.memory import (
    UNKNOWN_CONTEXT,
    compute_bytes,
    fewer_layers,
    layer_sizes,
    layers_per_device,
    smaller_context,
)
from localinfra.models.seats import LoadPlan
from localinfra.text.identity import identity
from localinfra.text.known_loads import heard_once
from localinfra.text.projector import ProjectorPlan
from localinfra.text.sizing import (
    cache_shape,
    context_settings,
    device_reserve,
    rollback,
    sized,
    with_batch,
)

if TYPE_CHECKING:
    from localinfra.llama.context import LlamaContext

logger = logging.getLogger(__name__)

roundings = measured.Records("rounding", Rounding)  # finding them takes as long as a small load

# llama.cpp ends the process if, after the large buffers, it gets no memory for a graph's nodes,
# which are 36 MB with SmolLM2.
SPARE_BYTES = 96 << 20


class TextPlan(LoadPlan, frozen=True, kw_only=True):
    path: Path
    header: GgufHeader
    settings: ContextSettings
    gpu_layers: int
    tensor_split: tuple[float, ...]
    # of its draft model and its projector, which `expected` includes
    draft: "TextPlan | None" = None
    projector: ProjectorPlan | None = None

    @property
    def gpus(self) -> list[str]:
        """Those that have layers of it, by this plan."""
        return [device for device in self.expected.bytes_on if device != CPU]

    @property
    def projector_identity(self) -> str:
        """What the rows of pictures depend on, besides these."""
        return self.projector.identity if self.projector else ""

    @property
    def shape(self) -> object:
        others = [other and other.shape for other in (self.draft, self.projector)]
        own = (self.path, self.header.size_bytes, self.settings, self.gpu_layers, self.tensor_split)
        return (*own, *others)


def plan_text(
    name: str, entry: TextModelEntry, path: Path, header: GgufHeader, room: Room
) -> TextPlan:
    """`room` is for all models together: a plan does not depend on what else is loaded now."""
    loaded = header if entry.mtp else without_mtp(header)
    free = peers_memory(name, entry) | (free_memory() if entry.gpu_layers != 0 else {})
    if entry.split_mode == "none":
        free = dict(list(free.items())[entry.main_gpu : entry.main_gpu + 1])
    gpus = {device: room.get(device, size) for device, size in free.items()}
    host_bytes = room.get(CPU, machine.available_memory() or 0)
    # Layers that don't fit the GPUs share main memory with their caches.
    is_on_gpu = sum(gpus.values()) > loaded.tensor_bytes
    place_bytes = sum(gpus.values()) + (0 if is_on_gpu else host_bytes)
    settings = sized(entry, loaded, place_bytes, list(gpus.values()))
    settings = msgspec.structs.replace(settings, max_rollback=rollback(entry, loaded, settings))
    settings = with_batch(entry, loaded, settings, gpus)
    layers, split = entry.gpu_layers, entry.tensor_split
    if layers == "auto":
        reserve = device_reserve(loaded, settings)
        fitting = layers_per_device(loaded, list(gpus.values()), cache_shape(settings), reserve)
        layers, split = sum(fitting), split or tuple(map(float, fitting))
        if gpus:
            total = sum(gpus.values()) / 2**30
            where = "GPUs and other machines" if entry.rpc_servers else "the GPU"
            logger.info("%s: %d layers fit the %.1f GiB of %s", name, layers, total, where)
    return TextPlan(
        expected=expected(entry, loaded, settings, layers, split, list(gpus)),
        path=path,
        header=header,
        settings=settings,
        gpu_layers=layers,
        tensor_split=split,
    )


def peers_memory(name: str, entry: TextModelEntry) -> dict[str, int]:
    """The free bytes of other machines' devices, which come before this one's, as in llama.cpp.
    Raises ModelUnavailable."""
    if not entry.rpc_servers or entry.gpu_layers == 0:
        return {}
    try:
        found = peers.ask(entry.rpc_servers)
    except peers.PeersUnusable as error:
        raise ModelUnavailable(f"{name}: rpc_servers: {error}.", "model") from None
    return {device.device: device.free_bytes for device in found}


def warn_of_slow_layers(name: str, num_on_cpu: int, unused: Sequence[str]) -> None:
    """`unused`: what the CPU has for them and the build does not use."""
    if num_on_cpu > 0 and "AVX2" in unused:
        logger.warning(
            "%s: %d layers stay on the CPU, where this build of llama.cpp doesn't use %s: that "
            "makes them many times slower. One compiled for this machine does: %s",
            name, num_on_cpu, " ".join(unused), install.rebuild(compiles=True),
        )  # fmt: skip


def expected(
    entry: TextModelEntry,
    header: GgufHeader,
    settings: ContextSettings,
    gpu_layers: int,
    tensor_split: tuple[float, ...],
    gpus: list[str],
) -> Footprint:
    """What a model will take that has never been loaded with these settings."""
    shape = cache_shape(settings)
    sizes = layer_sizes(header, shape)
    num_on_gpus = min(gpu_layers, len(sizes)) if gpus else 0
    on_gpus = sum(sizes[len(sizes) - num_on_gpus :])
    samples = settings.device_sampling
    if samples is None:
        samples = num_on_gpus == len(sizes)
    compute = compute_bytes(header, shape, num_output_rows(settings), samples=samples)
    host = max(0, header.tensor_bytes + sum(cache_bytes(header, shape)) - on_gpus)
    if settings.mtp:
        from localinfra.llama.hidden import hidden_bytes

        compute *= 2  # in two contexts
        host += hidden_bytes(settings.num_sequences, header.embedding_length)
    mapped = max(0, header.tensor_bytes - on_gpus) if entry.mmap and not entry.mlock else 0
    shares = tensor_split if sum(tensor_split) else (1.0,) * len(gpus)
    by_gpu = {
        gpu: round(on_gpus * share / sum(shares)) + compute
        for gpu, share in zip(gpus, shares, strict=False)
        if share and num_on_gpus
    }
    return Footprint({CPU: host + compute, **by_gpu}, mapped)


def num_output_rows(settings: ContextSettings) -> int:
    """Rows of logits that a step may have."""
    return max(settings.num_sequences, MIN_OUTPUT_ROWS) + MOST_PADDING


def place(name: str, entry: TextModelEntry, plan: TextPlan) -> tuple["LlamaContext", Model]:
    """Loads the weights and makes the context. If memory runs out, tries with fewer layers on the
    GPU where their number is not set, then with a shorter context where that is not set."""
    trained = plan.header.context_length or UNKNOWN_CONTEXT
    layers, settings = plan.gpu_layers, plan.settings
    if entry.rpc_servers and layers:
        logger.warning(
            "%s: layers go to %s. Nothing on that way is encrypted or authenticated, and if one of "
            "them goes away, this server ends", name, ", ".join(entry.rpc_servers),
        )  # fmt: skip
    while True:
        try:
            context, model = load_with_layers(entry, plan, settings, layers)
            if model.is_offloaded:
                num_on_cpu = plan.header.block_count + 1 - layers
                warn_of_slow_layers(name, num_on_cpu, unused_features())
            return context, model
        except LoadFailed as error:
            has_choice = plan.header.architecture not in CHUNKED
            if settings.full_window and entry.window_cache == "auto" and has_choice:
                logger.warning("%s: loading failed (%s); trying a window cache", name, error)
                settings = msgspec.structs.replace(settings, full_window=False)
                continue
            usual = context_settings(entry, settings.context_length).batch_size
            if settings.batch_size > usual:
                logger.warning("%s: loading failed (%s); trying steps of %d", name, error, usual)
                settings = msgspec.structs.replace(settings, batch_size=usual)
                continue
            tried = layers, settings.context_length
            smaller = tried
            if entry.gpu_layers == "auto" and layers:
                smaller = fewer_layers(layers), settings.context_length
            elif entry.context_length is None and isinstance(error, NoContext):
                smaller = layers, smaller_context(settings.context_length, trained)
            if smaller == tried:
                raise ModelUnavailable(
                    f"{name} could not be loaded: {error}. If memory is short, lower "
                    "context_length, kv_cache_tokens or gpu_layers in models.toml.",
                    "model",
                ) from None
            layers, length = smaller
            logger.warning(
                "%s: loading failed (%s); trying %d layers on the device and %d tokens of context",
                name, error, layers, length,
            )  # fmt: skip
            settings = msgspec.structs.replace(
                context_settings(entry, length, plan.header.architecture),
                full_window=settings.full_window,
                max_rollback=settings.max_rollback,
            )


def load_with_layers(
    entry: TextModelEntry, plan: TextPlan, settings: ContextSettings, layers: int
) -> tuple["LlamaContext", Model]:
    """Raises LoadFailed, after freeing everything."""
    model_settings = ModelSettings(
        gpu_layers=layers,
        split_mode=entry.split_mode,
        main_gpu=entry.main_gpu,
        tensor_split=plan.tensor_split if layers else (),
        mmap=entry.mmap,
        mlock=entry.mlock,
        lora=tuple(LoraFile(adapter.path, adapter.scale) for adapter in entry.lora),
        mtp=settings.mtp,
        rpc_servers=entry.rpc_servers if layers else (),
    )
    facts = measured.state_of(plan.path), settings, model_settings
    name = measured.identity(entry, *facts)
    return heard_once(name, lambda: loaded(entry, plan, settings, model_settings))


def loaded(
    entry: TextModelEntry, plan: TextPlan, settings: ContextSettings, of_model: ModelSettings
) -> tuple["LlamaContext", Model]:
    model = Model(plan.path, of_model)
    known_by = identity(entry, plan.header, settings, is_offloaded=model.is_offloaded)
    name = measured.digest(known_by)
    known = roundings.find(name)
    try:
        check_memory(model, plan.header, settings)
        with scanned(model):
            context = context_type(settings)(model, settings, known)
    except BaseException:
        model.close()
        raise
    if context.rounding and context.rounding != known:
        roundings.keep(name, context.rounding)
    return context, model


@contextlib.contextmanager
def scanned(model: Model) -> Iterator[None]:
    """Finds the model's special tokens beside what is done in the block: 20 ms for 49k tokens."""
    scan = threading.Thread(target=lambda: model.special_tokens, name="vocabulary")
    scan.start()
    try:
        yield
    finally:
        scan.join()


def context_type(settings: ContextSettings) -> "type[LlamaContext]":
    """Imported late: numpy's import takes half as long as loading the weights of a small model,
    and goes on beside that when a server starts."""
    if settings.mtp:
        from localinfra.llama.mtp import HiddenContext

        return HiddenContext
    from localinfra.llama.context import LlamaContext

    return LlamaContext


def check_memory(model: Model, header: GgufHeader, settings: ContextSettings) -> None:
    """Raises NoContext if the system would refuse a context on the CPU its memory. What it gives in
    the middle of that can't be known here; what it has promised, it gives."""
    shape = cache_shape(settings)
    samples = bool(settings.device_sampling)  # as no layers are offloaded
    compute = compute_bytes(header, shape, num_output_rows(settings), samples=samples)
    own_bytes = sum(cache_bytes(header, shape)) + compute
    if not model.is_offloaded and not machine.gives(own_bytes + SPARE_BYTES):
        raise NoContext(
            f"{model.path}: the system refuses {(own_bytes + SPARE_BYTES) >> 20} MiB for "
            f"{settings.num_cells} tokens of context"
        )
