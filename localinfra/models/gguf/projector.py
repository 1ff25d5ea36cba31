"""Whether an mmproj file can be a text model's eyes, and its ears (`hearing.py`), as far as its
header tells. Opens no file.

What depends on a projector's type beyond that is found out by using it in a process of its own
(`llama/projector_trial.py`): a hundred assertions of clip.cpp end the process that they fail in.
"""

import math
from collections.abc import Iterator, Mapping

from localinfra.models.gguf.checks import AGAIN, MAX_LAYERS, tensor_problems
from localinfra.models.gguf.header import Array, GgufHeader
from localinfra.models.gguf.hearing import KNOWN as KNOWN_EARS
from localinfra.models.gguf.hearing import (
    NUMBERS,
    hears,
    kind_of_ears,
    problems_of_ears,
    rows_width_of_ears,
    working_bytes_of_ears,
)

# Those of clip-impl.h with a vision encoder in the pinned revision.
KINDS = frozenset(
    """mlp ldp ldpv2 resampler adapter qwen2vl_merger qwen2.5vl_merger qwen3vl_merger ling3vl
    step3vl gemma3 gemma3nv gemma4v gemma4uv phi4 idefics3 pixtral internvl llama4 qwen2.5o lfm2
    kimivl paddleocr lightonocr cogvlm janus_pro dots_ocr dots3note_v deepseekocr deepseekocr2
    glm4v glm5v youtuvl yasa2 kimik25 nemotron_v2_vl exaone4_5 minicpmv4_6 mimovl minimax_m3
    granite4_vision muse-glimmer""".split()
)
# Their rows depend on more than the picture: on where in the prompt it stands, or how many precede.
PLACED_KINDS = frozenset(("deepseek4v", "hunyuanvl"))
# The most tokens of pictures whose rows see each other, so that one step must hold all of them.
# Gemma 3's follow from its square.
MOST_AT_ONCE = {"gemma4v": 1120, "gemma4uv": 1120}

# Encoders whose tensors are all known, with their shapes: of these, C checks none.
KNOWN = ("gemma3", "idefics3", "qwen2vl_merger", "qwen2.5vl_merger")

# Those that cut pictures in tiles and read the whole picture after them; and whether each of these
# has words of its own around it, or only all of them together.
WITH_WHOLE_LAST = {"idefics3": True, "internvl": False, "llama4": False, "mlp": False}

COUNTS = ("embedding_length", "feed_forward_length", "block_count", "attention.head_count")
SIDES = {"image_size": 8192, "patch_size": 1024}  # pixels; clip.cpp's limits, or less
# gguf.cpp asserts these types, by their number in the file, where clip.cpp reads a value.
U32, F32, BOOL, STRING, ARRAY = 4, 6, 7, 8, 9
TYPES = {
    **dict.fromkeys(("clip.has_vision_encoder", "clip.has_audio_encoder", "clip.use_gelu"), BOOL),
    **dict.fromkeys(("clip.use_silu", "clip.has_gen_audio_encoder"), BOOL),
    **dict.fromkeys(("clip.projector_type", "clip.vision.projector_type"), STRING),
    **dict.fromkeys(("clip.audio.projector_type", "clip.gen.audio.projector_type"), STRING),
    **{f"clip.audio.{name}": U32 for name in (*NUMBERS, "projector.stack_factor")},
    **{f"clip.vision.{name}": U32 for name in (*COUNTS, *SIDES, "projection_dim")},
    **dict.fromkeys(("clip.vision.attention.head_count_kv", "clip.vision.n_wa_pattern"), U32),
    **dict.fromkeys(("clip.vision.projector.scale_factor", "clip.vision.window_size"), U32),
    **dict.fromkeys(("clip.vision.spatial_merge_size", "clip.vision.image_min_pixels"), U32),
    **dict.fromkeys(("clip.vision.image_max_pixels", "clip.vision.preproc_image_size"), U32),
    **dict.fromkeys(("clip.vision.attention.layer_norm_epsilon",), F32),
    **dict.fromkeys(("clip.vision.preproc_min_tiles", "clip.vision.preproc_max_tiles"), U32),
    **dict.fromkeys(("clip.vision.image_grid_pinpoints", "clip.vision.feature_layer"), ARRAY),
    **dict.fromkeys(("clip.audio.attention.layer_norm_epsilon",), F32),
    **dict.fromkeys(("clip.vision.image_mean", "clip.vision.image_std"), ARRAY),
}
# In older files, or for pictures of any size.
MAY_BE_ZERO = ("image_size", "feed_forward_length", "projection_dim")
MAX_WIDTH = 1 << 16  # of an encoder's layers
MAX_TILED = 1 << 14  # pixels of a side, of all tiles together
MAX_TILES = 256  # of a picture
PATCH_COLORS = 3
F32_TENSOR = 0  # ggml_type
BYTES_PER_PATCH = 4 * 6  # of activations, for each number of an encoder's widest layer
USUAL_PATCHES = 4096  # of a picture in any size: what llama.cpp reserves buffers for at least


def sees(header: GgufHeader) -> bool:
    return header.metadata.get("clip.has_vision_encoder") is True


def kind_of_projector(header: GgufHeader) -> str:
    """That of its eyes, as in clip-impl.h; "" if it does not say."""
    for key in ("clip.projector_type", "clip.vision.projector_type"):
        if isinstance(kind := header.metadata.get(key), str) and kind:
            return kind
    return ""


def projector_problem(header: GgufHeader, model: GgufHeader) -> str | None:
    """Why it can't be used with the model, in words that follow the file's name."""
    return next(_problems(header, model), None)


def most_at_once(header: GgufHeader) -> int:
    """The rows of its largest picture that one step must hold; 0 if steps may be smaller."""
    kind = kind_of_projector(header) if sees(header) else ""
    if kind != "gemma3":
        return MOST_AT_ONCE.get(kind, 0)
    merged = header.number("vision.patch_size") * header.number("vision.projector.scale_factor", 4)
    return max(1, header.number("vision.image_size") // merged) ** 2


def working_bytes(header: GgufHeader) -> int:
    """The buffers that it computes pictures of ordinary sizes and sounds in: estimated."""
    of_ears = working_bytes_of_ears(header) if hears(header) else 0
    if not sees(header):
        return of_ears
    patch = header.number("vision.patch_size")
    patches = max((header.number("vision.image_size") // patch) ** 2, USUAL_PATCHES)
    width = max(
        header.number("vision.embedding_length"), header.number("vision.feed_forward_length")
    )
    return BYTES_PER_PATCH * patches * width + of_ears


def _problems(header: GgufHeader, model: GgufHeader) -> Iterator[str]:
    if header.architecture != "clip":
        yield "is not a projector (mmproj) but a model; give the mmproj file of the same model"
    if header.num_parts > 1:
        yield "is split into parts; fetch it in one file"
    if not sees(header) and not kind_of_ears(header):
        yield f"has no encoder; {AGAIN}"
    for key in ("general.name", "general.description"):
        if not isinstance(header.metadata.get(key, ""), str):
            yield f"has {key} in another type than llama.cpp reads; {AGAIN}"
    for key, stored in header.types.items():
        if TYPES.get(key, stored) != stored:
            yield f"has {key} in another type than llama.cpp reads; {AGAIN}"
    yield from _values(header)
    if sees(header):
        yield from _problems_of_eyes(header)
    if kind_of_ears(header):
        yield from _ears(header)
    yield from _width(header, model)
    yield from tensor_problems(header)


def _problems_of_eyes(header: GgufHeader) -> Iterator[str]:
    kind = kind_of_projector(header)
    if kind in PLACED_KINDS:
        yield f"is of type {kind}, whose pictures this server can't read yet; choose another model"
    if kind not in KINDS:
        yield f"is of type {kind!r}, unknown to this llama.cpp; fetch a copy for current versions"
    yield from _numbers(header)
    yield from _layers(header)
    yield from _patches(header)
    yield from _tiles(header)


def _ears(header: GgufHeader) -> Iterator[str]:
    """Those of a type that this server doesn't know are left alone beside eyes."""
    if hears(header):
        yield from problems_of_ears(header)
    elif not sees(header):
        kind = kind_of_ears(header)
        yield f"hears by the type {kind!r}, which this server can't use; choose another model"


def _values(header: GgufHeader) -> Iterator[str]:
    for key, value in header.metadata.items():
        if not key.startswith("clip."):
            continue
        for item in (value.values or ()) if isinstance(value, Array) else (value,):
            is_finite = not isinstance(item, float) or math.isfinite(item)
            if not is_finite or (isinstance(item, int) and not -1 <= item < 1 << 31):
                yield f"has {key} = {item}; {AGAIN}"


def _numbers(header: GgufHeader) -> Iterator[str]:
    for name in (*COUNTS, "projection_dim", *SIDES):
        key = f"clip.vision.{name}"
        number = header.metadata.get(key)
        limit = SIDES.get(name, MAX_LAYERS if name == "block_count" else MAX_WIDTH)
        least = 0 if name in MAY_BE_ZERO else 1
        if type(number) is not int or not least <= number <= limit:
            yield f"has {key} = {number}; {AGAIN}"
    for name in ("image_mean", "image_std"):
        colors = header.metadata.get(f"clip.vision.{name}")
        if (
            not isinstance(colors, Array)
            or colors.type != F32
            or len(colors.values or ()) < PATCH_COLORS
        ):
            yield f"does not say how colors are scaled (clip.vision.{name}); {AGAIN}"
        elif name == "image_std" and 0.0 in (colors.values or ()):
            yield f"scales colors by zero (clip.vision.{name}); {AGAIN}"
    epsilon = header.metadata.get("clip.vision.attention.layer_norm_epsilon")
    if not isinstance(epsilon, float) or epsilon < 0:
        yield f"has clip.vision.attention.layer_norm_epsilon = {epsilon}; {AGAIN}"


def _layers(header: GgufHeader) -> Iterator[str]:
    names = {tensor.name for tensor in header.tensors}
    kind, count = kind_of_projector(header), header.number("vision.block_count")
    for layer in range(count) if kind != "gemma3nv" else ():  # which has blocks of convolutions
        if f"v.blk.{layer}.attn_out.weight" not in names:
            yield f"claims {count} layers but lacks layer {layer}; {AGAIN}"
    if kind not in KNOWN:
        return
    width, heads = (header.number(f"vision.{name}") for name in (COUNTS[0], COUNTS[3]))
    if width % heads:
        yield f"has {heads} attention heads for {width} numbers; {AGAIN}"
    if "qwen" in kind and width // heads % 4:
        yield f"turns heads of {width // heads} numbers, which is no multiple of 4; {AGAIN}"
    yield from _shapes(header)


def _shapes(header: GgufHeader) -> Iterator[str]:
    found = {tensor.name: tensor.shape for tensor in header.tensors}
    for name, shape in expected_shapes(header, found).items():
        if found.get(f"{name}.weight") != shape:
            yield f"has {name}.weight in shape {found.get(f'{name}.weight')}, not {shape}; {AGAIN}"
        bias = found.get(f"{name}.bias")
        needs_bias = "qwen" in kind_of_projector(header) and (".attn_" in name or "mm." in name)
        if bias is None and needs_bias and "attn_out" not in name:
            yield f"lacks {name}.bias; {AGAIN}"
        if bias is not None and bias != shape[-1:]:
            yield f"has {name}.bias in shape {bias}, not {shape[-1:]}; {AGAIN}"
    others = ("v.patch_embd.bias", "v.class_embd") if "qwen" in kind_of_projector(header) else ()
    for name in others:
        if name in found:
            yield f"has {name}, which its type has no place for; {AGAIN}"


def rows_width(header: GgufHeader) -> int:
    """Numbers in a row that a projector of a KNOWN type makes; 0 if it lacks the last weights
    (clip_n_mmproj_embd)."""
    name, at = {
        "gemma3": ("mm.input_projection.weight", 0),
        "idefics3": ("mm.model.fc.weight", -1),
    }.get(kind_of_projector(header), ("mm.2.weight", -1))
    return next((tensor.shape[at] for tensor in header.tensors if tensor.name == name), 0)


def expected_shapes(
    header: GgufHeader, found: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """Of the weights that a projector of a KNOWN type needs, by name without an end. `found`: the
    shapes of all, by whole names."""
    width, _, layers, _ = (header.number(f"vision.{name}") for name in COUNTS)
    patch, makes = header.number("vision.patch_size"), rows_width(header)
    merge = header.number("vision.projector.scale_factor", 1)
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(layers):
        for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
            shapes[f"v.blk.{layer}.{name}"] = (width, width)
        shapes[f"v.blk.{layer}.ln1"] = shapes[f"v.blk.{layer}.ln2"] = (width,)
        # Older files have the names of these two swapped.
        up = found.get(f"v.blk.{layer}.ffn_up.weight", (width, width))
        ffn = up[0] if up[0] != width else up[-1]
        pair = ((width, ffn), (ffn, width))
        shapes[f"v.blk.{layer}.ffn_up"], shapes[f"v.blk.{layer}.ffn_down"] = (
            pair if up[0] == width else pair[::-1]
        )
    shapes["v.patch_embd"] = (patch, patch, PATCH_COLORS, width)
    match kind_of_projector(header):
        case "gemma3":
            return shapes | {"mm.input_projection": (makes, width), "mm.soft_emb_norm": (width,)}
        case "idefics3":
            return shapes | {"mm.model.fc": (width * merge * merge, makes)}
    return shapes | {"mm.0": (4 * width, 4 * width), "mm.2": (4 * width, makes)}


def _patches(header: GgufHeader) -> Iterator[str]:
    """Positions in a square of patches, and what is merged of them."""
    patch, width = (header.number(f"vision.{name}") for name in ("patch_size", "embedding_length"))
    shapes = {tensor.name: tensor.shape for tensor in header.tensors}
    kind, side = kind_of_projector(header), header.number("vision.image_size") // patch
    merged = header.number("vision.projector.scale_factor", 4)
    if kind == "gemma3" and not 0 < merged <= side:
        yield f"merges {merged} of {side} patches; {AGAIN}"
    places = shapes.get("v.position_embd.weight")
    types = {tensor.name: tensor.type for tensor in header.tensors}
    if kind in KNOWN and types.get("v.position_embd.weight", F32_TENSOR) != F32_TENSOR:
        yield f"stores v.position_embd.weight in a type other than f32; {AGAIN}"
    if kind in ("gemma3", "idefics3") and places != (width, side * side):
        yield f"has positions for {places}, not for {side} x {side} patches; {AGAIN}"
    if "qwen" in kind and kind in KNOWN:
        second = shapes.get("v.patch_embd.weight.1")
        if second != shapes.get("v.patch_embd.weight"):
            yield f"has patches of shape {second} for a second frame; {AGAIN}"
        if header.number("vision.spatial_merge_size", 2) != 2:
            yield f"merges {header.number('vision.spatial_merge_size')} patches; {AGAIN}"


def _tiles(header: GgufHeader) -> Iterator[str]:
    """The sizes that a picture is cut in tiles of: asserted for each picture, by its own size."""
    least, most = (header.number(f"vision.preproc_{end}_tiles", 1) for end in ("min", "max"))
    if not (0 <= least <= MAX_TILES and 0 <= most <= MAX_TILES):
        yield f"cuts pictures into {least} to {most} tiles; {AGAIN}"
    key, side = "clip.vision.image_grid_pinpoints", header.number("vision.image_size")
    sizes = header.metadata.get(key)
    if sizes is None:
        return
    values = sizes.values or () if isinstance(sizes, Array) else ()
    whole = [value for value in values if isinstance(value, int) and side and value % side == 0]
    is_sound = len(whole) == len(values) and all(side <= value <= MAX_TILED for value in whole)
    if not values or len(values) % 2 or not is_sound:
        yield f"has {key} of other sizes than whole tiles of {side} pixels; {AGAIN}"


def _width(header: GgufHeader, model: GgufHeader) -> Iterator[str]:
    """The commonest mistake: the projector of another size of the same model. llama.cpp itself
    refuses what is not known here."""
    makes = [rows_width(header)] if sees(header) and kind_of_projector(header) in KNOWN else []
    makes += [rows_width_of_ears(header)] if kind_of_ears(header) in KNOWN_EARS else []
    if wrong := [width for width in makes if width != model.embedding_length]:
        yield (
            f"makes rows of {wrong[0]} numbers, but {model.path} reads {model.embedding_length}: "
            "it belongs to another model; fetch the mmproj file from the model's own repository"
        )
