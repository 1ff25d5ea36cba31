"""A catalogue entry → a TextModel in memory: find the file, check it, place it, start its engine.

Blocking; the pool calls it in a thread. Only checked files reach llama.cpp.
"""

import logging
import os
from pathlib import Path

import msgspec

from localinfra import machine
from localinfra.engine.engine import Engine
from localinfra.engine.request import EngineSettings
from localinfra.errors import ModelUnavailable
from localinfra.llama.build_info import free_memory
from localinfra.llama.context import ContextSettings, LlamaContext
from localinfra.llama.model import LoadFailed, LoraFile, Model, ModelSettings
from localinfra.models.entries import TextModelEntry
from localinfra.models.gguf.reader import BadGguf, GgufHeader, read_adapter, read_header
from localinfra.models.memory import fewer_layers, layers_per_device
from localinfra.models.sources import locate
from localinfra.optimize import store
from localinfra.optimize.job import OptimizeJob
from localinfra.prefixes.shelves import Shelves
from localinfra.text.model import TextModel
from localinfra.text.templates import compile_templates

logger = logging.getLogger(__name__)

# A longer context must be configured, since its KV cache is allocated at load.
DEFAULT_CONTEXT = 8192

DEFAULT_MAX_OFFLOADED = 2 << 30  # bytes


def load_text_model(
    name: str,
    entry: TextModelEntry,
    max_waiting: int,
    *,
    share_prefixes: bool = False,
    shelves: Shelves | None = None,
) -> TextModel:
    """`share_prefixes`: clients reuse each other's prefixes, not only their own. `shelves` keep
    them beyond the model's unloading.

    Raises ModelUnavailable with the remedy: file absent, damaged, or too large for memory."""
    try:
        path, header = weights(name, entry)
        for adapter in entry.lora:
            read_adapter(adapter.path)
    except BadGguf as error:
        raise ModelUnavailable(str(error), "model") from None
    settings = context_settings(entry, header)
    context, model = place(name, entry, path, header, settings)
    if not model.can_generate:
        context.close()
        raise ModelUnavailable(
            f"{name}: {path} is a {model.description} model, which does not generate text; "
            'give it kind = "embedding" in models.toml if it is an embedder.',
            "model",
        )
    if entry.chat_template:
        templates = compile_templates(entry.chat_template, None, model)
    else:
        templates = compile_templates(header.chat_template, header.tool_use_template, model)
    for problem in templates.errors:
        logger.warning("%s: chat template: %s", name, problem)
    engine_settings = EngineSettings(
        max_waiting=max_waiting,
        max_offloaded=max_offloaded_bytes(entry),
        prompt_lookup=entry.prompt_lookup,
        max_gap_ratio=entry.max_gap_ratio,
        adapts_threads=entry.threads is None and entry.batch_threads is None,
    )
    known_by = identity(entry, path, settings, is_offloaded=model.is_offloaded)
    shelf = shelves.shelf(name, known_by) if shelves else None
    engine = Engine(context, engine_settings, name=name, shelf=shelf)
    return TextModel(
        name,
        entry,
        model,
        engine,
        templates,
        max_waiting,
        share_prefixes=share_prefixes,
        salt_of=shelves.salt if shelves else str,
    )


def identity(
    entry: TextModelEntry, path: Path, settings: ContextSettings, *, is_offloaded: bool
) -> list[str]:
    """Everything that the numbers in KV cells depend on besides their tokens."""
    files = [store.identify(path), *(store.identify(adapter.path) for adapter in entry.lora)]
    counts = msgspec.structs.replace(settings, threads=None, batch_threads=None, num_sequences=1)
    facts = (files, [adapter.scale for adapter in entry.lora], counts, is_offloaded)
    return [machine.cpu(), machine.llama_build(), msgspec.json.encode(facts).decode()]


def weights(name: str, entry: TextModelEntry) -> tuple[Path, GgufHeader]:
    """The file to serve: the one optimized for this machine if there is one, or the source itself.

    Raises ModelUnavailable and BadGguf.
    """
    source = locate(name, entry.source)
    if entry.optimize == "off" or computes_on_gpu(entry):
        return source, read_header(source)
    known = store.find(source)
    if known and known.path:
        try:
            header = read_header(known.path)
        except BadGguf as error:
            logger.warning("%s: the original is served: %s", name, error)
        else:
            logger.info("%s: %s", name, known.reason)
            return known.path, header
    return source, read_header(source)


def computes_on_gpu(entry: TextModelEntry) -> bool:
    return entry.gpu_layers != 0 and bool(free_memory())


def optimize_job(
    name: str, entry: TextModelEntry, *, lossless_only: bool, keep: bool
) -> OptimizeJob:
    """The job that measures an entry's model. Raises ModelUnavailable, also if llama.cpp would
    place the weights on a GPU: only the CPU's speed is measured."""
    source = locate(name, entry.source)
    if computes_on_gpu(entry):
        raise ModelUnavailable(
            f"{name} runs on the GPU, where the type of its weights matters little. Only models on "
            "the CPU can be optimized: set gpu_layers = 0 in models.toml.",
            "model",
        )
    try:
        settings = context_settings(entry, read_header(source))
    except BadGguf as error:
        raise ModelUnavailable(str(error), "model") from None
    return OptimizeJob(
        source=str(source), settings=settings, lossless_only=lossless_only, keep=keep
    )


def context_settings(entry: TextModelEntry, header: GgufHeader) -> ContextSettings:
    length = entry.context_length or min(header.context_length or DEFAULT_CONTEXT, DEFAULT_CONTEXT)
    return ContextSettings(
        context_length=length,
        num_cells=max(entry.kv_cache_tokens or length, length),
        num_sequences=entry.sequences,
        batch_size=max(entry.batch_size, entry.sequences),
        threads=entry.threads,
        batch_threads=entry.batch_threads,
        flash_attention=None if entry.flash_attention == "auto" else entry.flash_attention,
        kv_type=entry.kv_type,
    )


def max_offloaded_bytes(entry: TextModelEntry) -> int:
    if entry.parked_prefixes_mib is not None:
        return entry.parked_prefixes_mib << 20
    return min(DEFAULT_MAX_OFFLOADED, host_memory() // 8)


def host_memory() -> int:
    """This machine's main memory in bytes; 0 if the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0


def place(
    name: str, entry: TextModelEntry, path: Path, header: GgufHeader, settings: ContextSettings
) -> tuple[LlamaContext, Model]:
    """Loads the weights and makes the context, with as many layers on the devices as fit.

    With `gpu_layers = "auto"`, retries a failed load with fewer layers, and logs that.
    """
    layers, split = entry.gpu_layers, entry.tensor_split
    if layers == "auto":
        devices = free_memory()
        if entry.split_mode == "none":
            devices = devices[entry.main_gpu : entry.main_gpu + 1]
        fitting = layers_per_device(header, devices, settings.num_cells, settings.kv_type)
        layers, split = sum(fitting), split or tuple(map(float, fitting))
        if devices:
            total = sum(devices) / 2**30
            logger.info("%s: %d layers fit the %.1f GiB free on the GPU", name, layers, total)
    while True:
        try:
            return load_with_layers(entry, path, settings, layers, split)
        except LoadFailed as error:
            if entry.gpu_layers != "auto" or layers == 0:
                raise ModelUnavailable(
                    f"{name} could not be loaded: {error}. If memory is short, lower "
                    "context_length, kv_cache_tokens or gpu_layers in models.toml.",
                    "model",
                ) from None
            retry = fewer_layers(layers)
            logger.warning(
                "%s: loading with %d layers on the device failed (%s); trying %d",
                name, layers, error, retry,
            )  # fmt: skip
            layers = retry


def load_with_layers(
    entry: TextModelEntry,
    path: Path,
    settings: ContextSettings,
    layers: int,
    tensor_split: tuple[float, ...],
) -> tuple[LlamaContext, Model]:
    """Raises LoadFailed, after freeing everything."""
    model = Model(
        path,
        ModelSettings(
            gpu_layers=layers,
            split_mode=entry.split_mode,
            main_gpu=entry.main_gpu,
            tensor_split=tensor_split if layers else (),
            mmap=entry.mmap,
            mlock=entry.mlock,
            lora=tuple(LoraFile(adapter.path, adapter.scale) for adapter in entry.lora),
        ),
    )
    try:
        return LlamaContext(model, settings), model
    except BaseException:
        model.close()
        raise
