"""Whether a file's layers for multi-token prediction can draft: where they are not as it expects,
llama.cpp ends the process. And what is loaded of a file without them. Opens no file."""

import msgspec

from localinfra.models.gguf.header import GgufHeader

# Those tried with this llama.cpp. Others of its graphs run such layers in other ways: one head per
# guess, or with a cache of another kind.
ARCHITECTURES = ("glm4moe", "qwen35", "qwen35moe")
NEEDED = ("nextn.eh_proj.weight", "nextn.enorm.weight", "nextn.hnorm.weight")
NEEDED_BY_EXPERTS = ("ffn_gate_inp.weight",)


def mtp_problem(header: GgufHeader) -> str | None:
    """Why they can't draft, in a sentence; None if they can."""
    why = _why_not(header)
    return why and f"{header.path} can't draft for itself (mtp = true): {why}"


def without_mtp(header: GgufHeader) -> GgufHeader:
    """The file without the weights of those layers, which llama.cpp skips unless `mtp` is set."""
    last = header.block_count - header.number("nextn_predict_layers")
    kept = (tensor for tensor in header.tensors if tensor.layer is None or tensor.layer < last)
    return msgspec.structs.replace(header, tensors=tuple(kept))


def _why_not(header: GgufHeader) -> str | None:
    count = header.number("nextn_predict_layers")
    if not count:
        return "it has no layers for multi-token prediction"
    if header.architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        return f"its architecture is {header.architecture}, and only these can do it: {known}"
    if count > 1:
        return f"it has {count} layers for multi-token prediction, and only one can be used"
    names = {tensor.name for tensor in header.tensors}
    needed = NEEDED + (NEEDED_BY_EXPERTS if header.number("expert_count") else ())
    prefix = f"blk.{header.block_count - 1}."
    missing = [prefix + name for name in needed if prefix + name not in names]
    return f"it lacks {', '.join(missing)}" if missing else None
