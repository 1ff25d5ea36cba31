"""Small projectors (mmproj files) with random weights, and the text models that they see for."""

from models.tiny_gguf import (
    ARRAY,
    BOOL,
    EMBD,
    F32,
    STRING,
    U32,
    TinyModel,
    Value,
    Weights,
)

WIDTH, VISION_FFN, VISION_HEADS = 32, 64, 2  # of the encoder's layers
PATCH = 14
GEMMA_SIDE, GEMMA_MERGE = 4 * PATCH, 2  # pixels of a picture's side; 2 x 2 tokens


def vision_metadata(kind: str, width: int, image_size: int, layers: int) -> dict[str, Value]:
    """`width`: numbers of a row that it makes."""
    return {
        "general.architecture": Value(STRING, "clip"),
        "general.type": Value(STRING, "mmproj"),
        "general.name": Value(STRING, f"tiny {kind}"),
        "clip.has_vision_encoder": Value(BOOL, True),
        "clip.projector_type": Value(STRING, kind),
        "clip.use_gelu": Value(BOOL, True),
        "clip.vision.image_size": Value(U32, image_size),
        "clip.vision.patch_size": Value(U32, PATCH),
        "clip.vision.embedding_length": Value(U32, WIDTH),
        "clip.vision.feed_forward_length": Value(U32, VISION_FFN),
        "clip.vision.block_count": Value(U32, layers),
        "clip.vision.projection_dim": Value(U32, width),
        "clip.vision.attention.head_count": Value(U32, VISION_HEADS),
        "clip.vision.attention.layer_norm_epsilon": Value(F32, 1e-6),
        "clip.vision.image_mean": Value(ARRAY, [0.5, 0.5, 0.5], F32),
        "clip.vision.image_std": Value(ARRAY, [0.5, 0.5, 0.5], F32),
    }


def add_vision_layers(weights: Weights, layers: int, *, has_biases: bool = True) -> None:
    def add(name: str, *shape: int) -> None:
        weights.add(f"{name}.weight", *shape)
        if has_biases:
            weights.add(f"{name}.bias", shape[-1])

    for layer in range(layers):
        for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
            add(f"v.blk.{layer}.{name}", WIDTH, WIDTH)
        add(f"v.blk.{layer}.ln1", WIDTH)
        add(f"v.blk.{layer}.ln2", WIDTH)
        add(f"v.blk.{layer}.ffn_up", WIDTH, VISION_FFN)
        add(f"v.blk.{layer}.ffn_down", VISION_FFN, WIDTH)
    add("v.post_ln", WIDTH)


def tiny_gemma3_projector(width: int = EMBD, layers: int = 2, seed: int = 1) -> TinyModel:
    """SigLIP: every picture becomes a square of four tokens, which see each other."""
    weights = Weights(seed)
    weights.add("v.patch_embd.weight", PATCH, PATCH, 3, WIDTH)
    weights.add("v.patch_embd.bias", WIDTH)
    weights.add("v.position_embd.weight", WIDTH, (GEMMA_SIDE // PATCH) ** 2)
    add_vision_layers(weights, layers)
    weights.add("mm.input_projection.weight", width, WIDTH)
    weights.add("mm.soft_emb_norm.weight", WIDTH)
    metadata = vision_metadata("gemma3", width, GEMMA_SIDE, layers)
    metadata["clip.vision.projector.scale_factor"] = Value(U32, GEMMA_MERGE)
    return TinyModel(metadata, weights.tensors)


def tiny_qwen2vl_projector(width: int = EMBD, layers: int = 2, seed: int = 1) -> TinyModel:
    """Pictures of any size: a token for each 28 x 28 pixels, eight at least."""
    weights = Weights(seed)
    weights.add("v.patch_embd.weight", PATCH, PATCH, 3, WIDTH)
    weights.add("v.patch_embd.weight.1", PATCH, PATCH, 3, WIDTH)
    add_vision_layers(weights, layers)
    for name, size in (("mm.0", 4 * WIDTH), ("mm.2", width)):
        weights.add(f"{name}.weight", 4 * WIDTH, size)
        weights.add(f"{name}.bias", size)
    return TinyModel(vision_metadata("qwen2vl_merger", width, 560, layers), weights.tensors)
