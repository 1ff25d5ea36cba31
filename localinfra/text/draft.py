"""The model that drafts for a text model, or its own layers that do: how they are planned, and
loaded beside it.

Knows nothing of how drafts are made or verified.
"""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from localinfra import machine
from localinfra.errors import ModelUnavailable
from localinfra.footprint import CPU, Room, less, total
from localinfra.llama.build_info import free_memory
from localinfra.llama.model import LoadFailed, Model
from localinfra.llama.settings import ContextSettings
from localinfra.llama.vocabularies import difference
from localinfra.models.entries import TextModelEntry
from localinfra.models.gguf.header import GgufHeader
from localinfra.models.gguf.mtp import mtp_problem
from localinfra.models.known_headers import checked_header
from localinfra.models.sources import locate
from localinfra.text.placing import TextPlan, place, plan_text

if TYPE_CHECKING:
    from localinfra.llama.context import LlamaContext
    from localinfra.llama.mtp import HiddenContext

logger = logging.getLogger(__name__)


def plan_with_draft(
    name: str, entry: TextModelEntry, path: Path, header: GgufHeader, room: Room
) -> TextPlan:
    """Like `plan_text`, with the entry's draft model, which has its place first: its steps come
    before every step of the large one. Raises ModelUnavailable and BadGguf."""
    if entry.mtp and (problem := mtp_problem(header)):
        raise ModelUnavailable(f"{name}: {problem}. Remove that line in models.toml.", "model")
    plan = plan_text(name, entry, path, header, room)
    if entry.draft is None:
        return plan
    draft_path = locate(name, entry.draft, "draft")
    draft_header = checked_header(draft_path)
    free = free_memory() if entry.gpu_layers != 0 else {}
    free[CPU] = machine.available_memory() or 0
    room = {device: room.get(device, size) for device, size in free.items()}

    def plan_draft(settings: ContextSettings) -> TextPlan:
        own = draft_entry(entry, draft_header, settings)
        return plan_text(f"the draft model of {name}", own, draft_path, draft_header, room)

    rest = less(room, plan_draft(plan.settings).expected)
    plan = plan_text(name, entry, path, header, rest)
    draft = plan_draft(plan.settings)
    expected = total((plan.expected, draft.expected))
    return msgspec.structs.replace(plan, expected=expected, draft=draft)


def draft_entry(
    entry: TextModelEntry, header: GgufHeader, settings: ContextSettings
) -> TextModelEntry:
    """The draft model's settings: those of `entry`, where they do not refer to its file."""
    trained = header.context_length or settings.context_length
    return msgspec.structs.replace(
        entry,
        context_length=min(settings.context_length, trained),
        kv_cache_tokens=settings.num_cells,
        separate_caches=False,  # it must take back what was drafted in vain
        batch_size=settings.batch_size,  # it reads what the other one reads
        tensor_split=(),
        rpc_servers=(),
        lora=(),
        draft=None,
        device_sampling=False,  # its rows are needed whole
    )


def load_draft(
    name: str, entry: TextModelEntry, plan: TextPlan, model: Model, verifier: "LlamaContext"
) -> "LlamaContext | None":
    """The context of the model that drafts for `model`, whose context verifies; None if there is
    none, or one of them can't drop what was drafted in vain. Raises ModelUnavailable with the
    reason, also if their vocabularies differ."""
    if not entry.mtp and plan.draft is None:
        return None
    if not verifier.max_rollback:
        warn(name, f"{name} ({model.architecture})")
        return None
    if entry.mtp:
        from localinfra.llama.mtp import HiddenContext

        assert isinstance(verifier, HiddenContext)
        return load_mtp(name, plan, model, verifier)
    assert entry.draft is not None and plan.draft is not None
    title = f"the draft model of {name}"
    own = draft_entry(entry, plan.draft.header, plan.settings)
    context, draft = place(title, own, plan.draft)
    if context.needs_states:
        context.close()
        warn(name, f"{entry.draft.name} ({draft.architecture})")
        return None
    problem = difference(model, draft)
    if not draft.can_generate:
        problem = "it does not generate text"
    if problem:
        context.close()
        raise ModelUnavailable(
            f"{name}: {entry.draft.name} can't draft for it: {problem}. Name a model with the same "
            'vocabulary in its draft = "NAME" in models.toml, or remove that line.',
            "model",
        )
    return context


def load_mtp(name: str, plan: TextPlan, model: Model, verifier: "HiddenContext") -> "LlamaContext":
    """The context of the model's own MTP layers. Raises ModelUnavailable."""
    from localinfra.llama.mtp import MtpContext

    settings = msgspec.structs.replace(
        plan.settings,
        context_length=verifier.context_length,
        num_cells=verifier.num_cells,
        batch_size=verifier.batch_size,
        separate_caches=False,
        full_window=False,
        max_rollback=0,
        device_sampling=False,
    )
    try:
        return MtpContext(model, verifier, settings)
    except LoadFailed as error:
        raise ModelUnavailable(
            f"{name}: its MTP layers got no context: {error}. If memory is short, lower "
            "context_length or kv_cache_tokens, or remove mtp = true in models.toml.",
            "model",
        ) from None


def warn(name: str, what: str) -> None:
    logger.warning(
        "%s: no drafts from a model: the memory of %s can't go back to an earlier token", name, what
    )
