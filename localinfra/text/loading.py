"""A catalogue entry → a TextModel in memory: find the file, check it, place it, start its engine.

Blocking; the pool calls it in a thread. Only checked files reach llama.cpp.
"""

import logging
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from localinfra import machine
from localinfra.engine.request import EngineSettings
from localinfra.errors import ModelUnavailable
from localinfra.footprint import CPU, Footprint, Room, less, total
from localinfra.llama.build_info import free_memory
from localinfra.llama.model import Model
from localinfra.models.entries import TextModelEntry
from localinfra.models.gguf.header import BadGguf, GgufHeader
from localinfra.models.known_headers import checked_header
from localinfra.models.sampling import recommended_in
from localinfra.models.sources import locate
from localinfra.optimize import store
from localinfra.optimize.job import OptimizeJob
from localinfra.prefixes.shelves import Shelves
from localinfra.text.courtesy import Company
from localinfra.text.draft import load_draft, plan_with_draft
from localinfra.text.identity import identity
from localinfra.text.placing import TextPlan, place
from localinfra.text.projector import load_projector, plan_projector, with_pictures
from localinfra.text.sizing import short_context

if TYPE_CHECKING:
    from localinfra.engine.engine import Engine
    from localinfra.llama.projector import Projector
    from localinfra.text.eyes import Eyes
    from localinfra.text.model import TextModel
    from localinfra.text.templates import ModelTemplates

logger = logging.getLogger(__name__)

DEFAULT_MAX_OFFLOADED = 2 << 30  # bytes


def load_text_model(
    name: str,
    entry: TextModelEntry,
    max_waiting: int,
    *,
    share_prefixes: bool = False,
    max_request_tokens: int | None = None,
    plan: TextPlan | None = None,
    shelves: Shelves | None = None,
) -> "TextModel":
    """`share_prefixes`: clients reuse each other's prefixes, not only their own.
    `max_request_tokens`: see `answer_lengths`. Without a `plan`, the model may take all memory that
    is free. `shelves` keep prefixes beyond its unloading.

    Raises ModelUnavailable with the remedy: file absent, damaged, or too large for memory."""
    plan = plan or text_plan(name, entry, {})
    path, header = plan.path, plan.header
    own_entry, entry = entry, with_pictures(entry, plan.projector)
    context, model = place(name, entry, plan)
    # Imported late: while a server starts, another thread imports it beside the load.
    from localinfra.engine.engine import Engine
    from localinfra.text.model import TextModel

    projector = None
    try:
        check_generates(name, path, model)
        if plan.projector:
            projector = load_projector(name, entry, plan.projector, model)
        drafter = load_draft(name, entry, plan, model, context)
    except BaseException:
        context.close()
        if projector:
            projector.close()
        raise
    # After a load that ran out of memory, the context may be smaller than planned.
    settings = msgspec.structs.replace(
        plan.settings,
        context_length=context.context_length,
        full_window=context.has_full_window,
    )
    known_by = identity(entry, header, settings, is_offloaded=model.is_offloaded)
    shelf = shelves.shelf(name, known_by) if shelves else None
    engine = Engine(
        context, engine_settings(entry, max_waiting), name=name, shelf=shelf, drafter=drafter
    )
    sees = partial(eyes_of, name, plan, engine, max_waiting, is_shared=share_prefixes)
    return TextModel(
        name,
        own_entry,
        model,
        engine,
        templates_of(name, entry, header, model),
        max_waiting,
        share_prefixes=share_prefixes,
        max_request_tokens=max_request_tokens,
        recommended=recommended_in(header.metadata),
        footprint=total(each.footprint for each in (context, drafter, projector) if each),
        eyes=sees(projector) if projector else None,
        salt_of=shelves.salt if shelves else str,
    )


def eyes_of(
    name: str,
    plan: TextPlan,
    engine: "Engine",
    max_waiting: int,
    projector: "Projector",
    *,
    is_shared: bool,
) -> "Eyes":
    from localinfra.text.eyes import Eyes

    return Eyes(
        name,
        projector,
        max_waiting,
        plan.projector_identity,
        is_shared=is_shared,
        mark_of=lambda: engine.mark,  # set once it is loaded
        company=lambda: company_of(engine),
    )


def company_of(engine: "Engine") -> Company:
    stats = engine.stats
    if stats.num_answering:
        return Company.ANSWERING
    return Company.READING if stats.num_running or engine.num_waiting else Company.NONE


def check_generates(name: str, path: Path, model: Model) -> None:
    """Raises ModelUnavailable."""
    if not model.can_generate:
        raise ModelUnavailable(
            f"{name}: {path} is a {model.description} model, which does not generate text; "
            'give it kind = "embedding" in models.toml if it is an embedder.',
            "model",
        )


def engine_settings(entry: TextModelEntry, max_waiting: int) -> EngineSettings:
    return EngineSettings(
        max_waiting=max_waiting,
        max_offloaded=max_offloaded_bytes(entry),
        prompt_lookup=entry.prompt_lookup,
        max_gap_ratio=entry.max_gap_ratio,
        max_stall_s=entry.max_stall_s,
        adapts_threads=entry.threads is None and entry.batch_threads is None,
    )


def templates_of(
    name: str, entry: TextModelEntry, header: GgufHeader, model: Model
) -> "ModelTemplates":
    from localinfra.text.templates import compile_templates

    if entry.chat_template:
        templates = compile_templates(entry.chat_template, None, model)
    else:
        templates = compile_templates(header.chat_template, header.tool_use_template, model)
    for problem in templates.errors:
        logger.warning("%s: chat template: %s", name, problem)
    return templates


def text_plan(name: str, entry: TextModelEntry, room: Room) -> TextPlan:
    """How the model will be loaded; `room` is for all models together. Raises ModelUnavailable if
    a file is absent or damaged."""
    try:
        path, header = weights(name, entry)
        check_adapters(entry)
        return plan_with_projector(name, entry, path, header, room)
    except BadGguf as error:
        raise ModelUnavailable(str(error), "model") from None


def check_adapters(entry: TextModelEntry) -> None:
    """Raises BadGguf."""
    if entry.lora:
        from localinfra.models.gguf.reader import read_adapter

        for adapter in entry.lora:
            read_adapter(adapter.path)


def plan_with_projector(
    name: str, entry: TextModelEntry, path: Path, header: GgufHeader, room: Room
) -> TextPlan:
    """The projector has its place first: pictures come before all else. Raises ModelUnavailable and
    BadGguf."""
    projector = plan_projector(name, entry, header, room)
    if projector is None:
        return plan_with_draft(name, entry, path, header, room)
    from localinfra.text.eyes import KEPT_BYTES, PIXEL_BYTES, SAMPLE_BYTES

    of_sounds = SAMPLE_BYTES if projector.longest_sound_s else 0
    free = free_memory() if entry.gpu_layers != 0 else {}
    free[CPU] = machine.available_memory() or 0
    room = {device: room.get(device, size) for device, size in free.items()}
    rest = less(room, projector.expected)
    plan = plan_with_draft(name, with_pictures(entry, projector), path, header, rest)
    return msgspec.structs.replace(
        plan,
        expected=total((plan.expected, projector.expected)),
        working=Footprint({CPU: KEPT_BYTES + max(PIXEL_BYTES, of_sounds)}),
        projector=projector,
    )


def weights(name: str, entry: TextModelEntry) -> tuple[Path, GgufHeader]:
    """The file to serve: the one optimized for this machine if there is one, or the source itself.

    Raises ModelUnavailable and BadGguf.
    """
    source = locate(name, entry.source)
    if entry.optimize == "off" or computes_on_gpu(entry):
        return source, checked_header(source)
    known = store.find(source)
    if known and known.path:
        try:
            header = checked_header(known.path)
        except BadGguf as error:
            logger.warning("%s: the original is served: %s", name, error)
        else:
            logger.info("%s: %s", name, known.reason)
            return known.path, header
    return source, checked_header(source)


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
        header = checked_header(source)
        settings = short_context(entry, header)
    except BadGguf as error:
        raise ModelUnavailable(str(error), "model") from None
    if header.num_parts > 1:
        raise ModelUnavailable(
            f"{name} is split into {header.num_parts} files. Only models in one file can be "
            "optimized: merge them with llama-gguf-split --merge.",
            "model",
        )
    return OptimizeJob(
        source=str(source), settings=settings, lossless_only=lossless_only, keep=keep
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
