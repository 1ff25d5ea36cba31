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


MEL, PLACES, STACKED = 8, 1500, 100  # 15 rows for each 30 seconds
HIDDEN = 48


def tiny_ultravox(width: int = EMBD, layers: int = 2, seed: int = 1) -> TinyModel:
    """Whisper's encoder: hears, and sees nothing."""
    weights = Weights(seed)
    add_whisper(weights, layers)
    weights.add("mm.a.norm_pre.weight", WIDTH * STACKED)
    weights.add("mm.a.mlp.1.weight", WIDTH * STACKED, HIDDEN)
    weights.add("mm.a.norm_mid.weight", HIDDEN // 2)
    weights.add("mm.a.mlp.2.weight", HIDDEN // 2, width)
    return TinyModel(hearing_metadata("ultravox", width, layers), weights.tensors)


def tiny_qwen2audio(width: int = EMBD, layers: int = 1, seed: int = 1) -> TinyModel:
    """750 rows for each 30 seconds, between marks of the text model."""
    weights = Weights(seed)
    add_whisper(weights, layers)
    weights.add("mm.a.fc.weight", WIDTH, width)
    weights.add("mm.a.fc.bias", width)
    return TinyModel(hearing_metadata("qwen2a", width, layers), weights.tensors)


def tiny_omni(width: int = EMBD, layers: int = 2) -> TinyModel:
    """Sees like Gemma 3, and hears like Ultravox."""
    eyes, ears = tiny_gemma3_projector(width, layers), tiny_ultravox(width, layers)
    metadata = {**eyes.metadata, **ears.metadata, "clip.has_vision_encoder": Value(BOOL, True)}
    del metadata["clip.projector_type"]
    metadata["clip.vision.projector_type"] = Value(STRING, "gemma3")
    metadata["clip.audio.projector_type"] = Value(STRING, "ultravox")
    return TinyModel(metadata, [*eyes.tensors, *ears.tensors])


def hearing_metadata(kind: str, width: int, layers: int) -> dict[str, Value]:
    return {
        "general.architecture": Value(STRING, "clip"),
        "general.type": Value(STRING, "mmproj"),
        "general.name": Value(STRING, f"tiny {kind}"),
        "clip.has_audio_encoder": Value(BOOL, True),
        "clip.projector_type": Value(STRING, kind),
        "clip.use_gelu": Value(BOOL, True),
        "clip.audio.embedding_length": Value(U32, WIDTH),
        "clip.audio.feed_forward_length": Value(U32, VISION_FFN),
        "clip.audio.block_count": Value(U32, layers),
        "clip.audio.projection_dim": Value(U32, width),
        "clip.audio.attention.head_count": Value(U32, VISION_HEADS),
        "clip.audio.attention.layer_norm_epsilon": Value(F32, 1e-5),
        "clip.audio.num_mel_bins": Value(U32, MEL),
        "clip.audio.projector.stack_factor": Value(U32, STACKED),
    }


def add_whisper(weights: Weights, layers: int) -> None:
    weights.add("a.conv1d.1.weight", 3, MEL, WIDTH)
    weights.add("a.conv1d.2.weight", 3, WIDTH, WIDTH)
    weights.add("a.conv1d.1.bias", 1, WIDTH)
    weights.add("a.conv1d.2.bias", 1, WIDTH)
    weights.add("a.position_embd.weight", WIDTH, PLACES)
    for layer in range(layers):
        for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
            weights.add(f"a.blk.{layer}.{name}.weight", WIDTH, WIDTH)
            if name != "attn_k":
                weights.add(f"a.blk.{layer}.{name}.bias", WIDTH)
        for name in ("ln1", "ln2"):
            weights.add(f"a.blk.{layer}.{name}.weight", WIDTH)
            weights.add(f"a.blk.{layer}.{name}.bias", WIDTH)
        weights.add(f"a.blk.{layer}.ffn_up.weight", WIDTH, VISION_FFN)
        weights.add(f"a.blk.{layer}.ffn_up.bias", VISION_FFN)
        weights.add(f"a.blk.{layer}.ffn_down.weight", VISION_FFN, WIDTH)
        weights.add(f"a.blk.{layer}.ffn_down.bias", WIDTH)
    weights.add("a.post_ln.weight", WIDTH)
    weights.add("a.post_ln.bias", WIDTH)
