"""More small projectors with random weights: those that cut pictures into tiles, and others.

Their text models are `tiny_llama` with the words that a projector puts around its tiles, or those
of `tiny_seeing`.
"""

from models.tiny_gguf import ARRAY, BOOL, EMBD, F32, I32, STRING, U32, TinyModel, Value, Weights
from models.tiny_gguf import gpt2_vocabulary as plain_words
from models.tiny_projectors import (
    PATCH,
    VISION_FFN,
    WIDTH,
    add_vision_layers,
    tiny_qwen2vl_projector,
    vision_metadata,
)

SIDE = 4  # patches
TILE = SIDE * PATCH  # pixels of a tile's side
MERGE = 2
IDEFICS_WORDS = ("<fake_token_around_image>", "<global-img>", "<row_1_col_1>", "<row_1_col_2>")


def vocabulary(*extra: str) -> dict[str, Value]:
    """Bytes, an empty line as a word, and control tokens."""
    words = plain_words()
    for key, added in (("tokens", ["ĊĊ", *extra]), ("token_type", [1, *(3 for _ in extra)])):
        items = words[f"tokenizer.ggml.{key}"].value
        assert isinstance(items, list)
        items += added
    return words


def idefics_words() -> dict[str, Value]:
    return vocabulary(*IDEFICS_WORDS)


def _start(weights: Weights, layers: int, *, num_places: int = 0, has_class: bool = False) -> None:
    weights.add("v.patch_embd.weight", PATCH, PATCH, 3, WIDTH)
    if num_places:
        weights.add("v.position_embd.weight", WIDTH, num_places)
    if has_class:
        weights.add("v.class_embd", WIDTH)
    add_vision_layers(weights, layers)


def _linear(weights: Weights, name: str, *shape: int, has_bias: bool = True) -> None:
    weights.add(f"{name}.weight", *shape)
    if has_bias:
        weights.add(f"{name}.bias", shape[-1])


def tiny_idefics3_projector(
    width: int = EMBD, layers: int = 2, seed: int = 1, longest_edge: int = 0
) -> TinyModel:
    """SmolVLM: tiles with their places as tokens, then the whole picture. With a `longest_edge` all
    pictures are enlarged or reduced to it."""
    weights = Weights(seed)
    _start(weights, layers, num_places=SIDE * SIDE)
    _linear(weights, "mm.model.fc", WIDTH * MERGE * MERGE, width, has_bias=False)
    metadata = vision_metadata("idefics3", width, TILE, layers)
    metadata["clip.vision.projector.scale_factor"] = Value(U32, MERGE)
    if longest_edge:
        metadata["clip.vision.preproc_image_size"] = Value(U32, longest_edge)
    return TinyModel(metadata, weights.tensors)


def tiny_llava_projector(
    width: int = EMBD, layers: int = 3, seed: int = 1, *, has_tiles: bool = False
) -> TinyModel:
    """LLaVA 1.5, or with tiles 1.6: a token for each patch."""
    weights = Weights(seed)
    _start(weights, layers, num_places=SIDE * SIDE + 1, has_class=True)
    _linear(weights, "v.pre_ln", WIDTH)
    _linear(weights, "mm.0", WIDTH, width)
    _linear(weights, "mm.2", width, width)
    metadata = vision_metadata("mlp", width, TILE, layers)
    if has_tiles:
        weights.add("v.image_newline", width)
        sizes = [TILE, 2 * TILE, 2 * TILE, TILE, 2 * TILE, 2 * TILE]
        metadata["clip.vision.image_grid_pinpoints"] = Value(ARRAY, sizes, I32)
        metadata["clip.vision.mm_patch_merge_type"] = Value(STRING, "spatial_unpad")
    return TinyModel(metadata, weights.tensors)


def tiny_internvl_projector(width: int = EMBD, layers: int = 2, seed: int = 1) -> TinyModel:
    """Up to twelve tiles, one after the other, then the whole picture."""
    weights = Weights(seed)
    _start(weights, layers, num_places=SIDE * SIDE + 1, has_class=True)
    _linear(weights, "mm.model.mlp.0", WIDTH * MERGE * MERGE)
    _linear(weights, "mm.model.mlp.1", WIDTH * MERGE * MERGE, VISION_FFN)
    _linear(weights, "mm.model.mlp.3", VISION_FFN, width)
    metadata = vision_metadata("internvl", width, TILE, layers)
    metadata["clip.vision.projector.scale_factor"] = Value(U32, MERGE)
    return TinyModel(metadata, weights.tensors)


def tiny_pixtral_projector(width: int = EMBD, layers: int = 2, seed: int = 1) -> TinyModel:
    """Mistral Small 3.1: pictures of any size, rows end with a row that means that."""
    weights = Weights(seed)
    weights.add("v.patch_embd.weight", PATCH, PATCH, 3, WIDTH)
    add_vision_layers(weights, layers, has_biases=False)
    weights.add("v.pre_ln.weight", WIDTH)
    for layer in range(layers):
        weights.add(f"v.blk.{layer}.ffn_gate.weight", WIDTH, VISION_FFN)
    weights.add("v.token_embd.img_break", width)
    weights.add("mm.input_norm.weight", WIDTH)
    weights.add("mm.patch_merger.weight", WIDTH * MERGE * MERGE, WIDTH)
    _linear(weights, "mm.1", WIDTH, width, has_bias=False)
    _linear(weights, "mm.2", width, width, has_bias=False)
    metadata = vision_metadata("pixtral", width, 20 * PATCH, layers)
    metadata["clip.vision.spatial_merge_size"] = Value(U32, MERGE)
    del metadata["clip.use_gelu"]
    metadata["clip.use_silu"] = Value(BOOL, True)
    return TinyModel(metadata, weights.tensors)


def tiny_llama4_projector(width: int = EMBD, layers: int = 2, seed: int = 1) -> TinyModel:
    """Tiles and the whole picture, of which patches are read by a matrix."""
    weights = Weights(seed)
    weights.add("v.patch_embd.weight", PATCH * PATCH * 3, WIDTH)
    weights.add("v.position_embd.weight", WIDTH, SIDE * SIDE + 1)
    weights.add("v.class_embd", WIDTH)
    add_vision_layers(weights, layers)
    for name, size in (("mm.model.mlp.1", WIDTH * MERGE * MERGE), ("mm.model.mlp.2", VISION_FFN)):
        _linear(weights, name, size, VISION_FFN, has_bias=False)
    _linear(weights, "mm.model.fc", VISION_FFN, width, has_bias=False)
    metadata = vision_metadata("llama4", width, TILE, layers)
    metadata["clip.vision.projector.scale_factor"] = Value(U32, MERGE)
    return TinyModel(metadata, weights.tensors)


def tiny_qwen25vl_projector(width: int = EMBD, layers: int = 2, seed: int = 1) -> TinyModel:
    """Most layers look at windows of a picture, every second one at all of it."""
    made = tiny_qwen2vl_projector(width, layers, seed)
    # Its norms have no bias, and its layers a gate.
    dropped = tuple(f"v.blk.{at}.ln{one}.bias" for at in range(layers) for one in (1, 2))
    made.tensors = [
        tensor for tensor in made.tensors if tensor.name not in (*dropped, "v.post_ln.bias")
    ]
    gates = Weights(seed + 1)
    for layer in range(layers):
        _linear(gates, f"v.blk.{layer}.ffn_gate", WIDTH, VISION_FFN)
    made.tensors += gates.tensors
    made.metadata |= {
        "clip.projector_type": Value(STRING, "qwen2.5vl_merger"),
        "clip.vision.n_wa_pattern": Value(U32, 2),
        "clip.vision.window_size": Value(U32, 4 * PATCH),
        "clip.use_silu": Value(BOOL, True),
    }
    del made.metadata["clip.use_gelu"]
    return made


def tiny_qwen3vl_projector(
    width: int = EMBD, layers: int = 3, seed: int = 1, num_deep: int = 2
) -> TinyModel:
    """Rows with parts for the first layers of the text model (deepstack)."""
    weights = Weights(seed)
    weights.add("v.patch_embd.weight", PATCH, PATCH, 3, WIDTH)
    weights.add("v.patch_embd.weight.1", PATCH, PATCH, 3, WIDTH)
    weights.add("v.patch_embd.bias", WIDTH)
    weights.add("v.position_embd.weight", WIDTH, SIDE * SIDE)
    for layer in range(layers):
        prefix = f"v.blk.{layer}"
        _linear(weights, f"{prefix}.attn_qkv", WIDTH, 3 * WIDTH)
        _linear(weights, f"{prefix}.attn_out", WIDTH, WIDTH)
        _linear(weights, f"{prefix}.ln1", WIDTH)
        _linear(weights, f"{prefix}.ln2", WIDTH)
        _linear(weights, f"{prefix}.ffn_up", WIDTH, VISION_FFN)
        _linear(weights, f"{prefix}.ffn_down", VISION_FFN, WIDTH)
    _linear(weights, "v.post_ln", WIDTH)
    for layer in range(num_deep):
        _linear(weights, f"v.deepstack.{layer}.norm", 4 * WIDTH)
        _linear(weights, f"v.deepstack.{layer}.fc1", 4 * WIDTH, 4 * WIDTH)
        _linear(weights, f"v.deepstack.{layer}.fc2", 4 * WIDTH, width)
    _linear(weights, "mm.0", 4 * WIDTH, 4 * WIDTH)
    _linear(weights, "mm.2", 4 * WIDTH, width)
    metadata = vision_metadata("qwen3vl_merger", width, TILE, layers)
    metadata["clip.vision.attention.layer_norm_epsilon"] = Value(F32, 1e-6)
    metadata["clip.vision.spatial_merge_size"] = Value(U32, 2)
    return TinyModel(metadata, weights.tensors)
