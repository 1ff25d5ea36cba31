"""Models of real ones' exact shapes with random weights, written where they are used: as fast as
the real ones, which are too large to carry. They write noise.

Their words are SmolLM2's, from its package or from a file with nothing but these. The rows of end
tokens are zeros, so that no answer ends early.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

SHARPNESS = 4.0  # of the output: as sure of its tokens as a trained model
Q8_0, Q4_1 = gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.Q4_1


@dataclass(frozen=True)
class Shape:
    """Of a decoder. `num_words`: 0 for as many as there are."""

    architecture: str
    layers: int
    width: int
    inner: int
    heads: int
    heads_kv: int
    head: int
    num_words: int = 0
    context: int = 8192
    rope_base: float = 100_000.0
    window: int = 0


SMOLLM2 = Shape("llama", 30, 576, 1536, 9, 3, 64)
GEMMA3 = Shape("gemma3", 18, 640, 2048, 4, 1, 256, 262_144, 32_768, 1e6, 512)
SMALL_SMOLLM2 = Shape("llama", 2, 64, 128, 4, 2, 16)
SMALL_GEMMA3 = Shape("gemma3", 7, 64, 128, 4, 1, 16, 60_000, 8192, 1e6, 64)


def write(path: Path, shape: Shape, vocabulary: Path, layer_type: Any = Q4_1) -> Path:
    """`vocabulary`: any GGUF file with SmolLM2's words. Matrices are in `layer_type`, the embedding
    is Q8_0."""
    writer = gguf.GGUFWriter(path, shape.architecture)
    num_words = copy_words(vocabulary, writer, shape.num_words)
    add_metadata(writer, shape, num_words)
    random = np.random.default_rng(0)
    table = raw_q8(random, num_words, shape.width, SHARPNESS * shape.width**-0.5)
    table[:3] = 0  # bos, eos and unk, of which one is the end
    writer.add_tensor("token_embd.weight", table, raw_dtype=Q8_0)
    writer.add_tensor("output_norm.weight", np.ones(shape.width, np.float32))
    raw: Any = {Q4_1: raw_q4, Q8_0: raw_q8, gguf.GGMLQuantizationType.F16: raw_f16}[layer_type]
    for layer in range(shape.layers):
        for name, size in norms(shape).items():
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.ones(size, np.float32))
        for name, (rows, columns) in matrices(shape).items():
            data = raw(random, rows, columns, columns**-0.5)
            of_type = None if data.dtype == np.float16 else layer_type
            writer.add_tensor(f"blk.{layer}.{name}.weight", data, raw_dtype=of_type)
    finish(writer)
    return path


def finish(writer: Any) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_metadata(writer: Any, shape: Shape, num_words: int) -> None:
    writer.add_name(f"random {shape.architecture}")
    writer.add_block_count(shape.layers)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_feed_forward_length(shape.inner)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.heads_kv)
    writer.add_key_length(shape.head)
    writer.add_value_length(shape.head)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_rope_dimension_count(shape.head)
    writer.add_vocab_size(num_words)
    if shape.window:
        writer.add_sliding_window(shape.window)


def norms(shape: Shape) -> dict[str, int]:
    found = {"attn_norm": shape.width, "ffn_norm": shape.width}
    if shape.architecture == "gemma3":
        found |= {"attn_q_norm": shape.head, "attn_k_norm": shape.head}
        found |= {"post_attention_norm": shape.width, "post_ffw_norm": shape.width}
    return found


def matrices(shape: Shape) -> dict[str, tuple[int, int]]:
    """Rows and columns: a row is multiplied with what comes in."""
    q, kv = shape.heads * shape.head, shape.heads_kv * shape.head
    return {
        "attn_q": (q, shape.width),
        "attn_k": (kv, shape.width),
        "attn_v": (kv, shape.width),
        "attn_output": (shape.width, q),
        "ffn_gate": (shape.inner, shape.width),
        "ffn_up": (shape.inner, shape.width),
        "ffn_down": (shape.width, shape.inner),
    }


def copy_words(vocabulary: Path, writer: Any, num_words: int) -> int:
    """Copies all about words and the template; adds words that no text has up to `num_words`.
    Returns how many there are."""
    for key, field in gguf.GGUFReader(vocabulary).fields.items():
        if not key.startswith("tokenizer."):
            continue
        of = field.types[1] if len(field.types) > 1 else None
        contents = field.contents()
        if key == "tokenizer.ggml.tokens":
            given = len(contents)
            contents += [f"<unused{number}>" for number in range(given, num_words)]
        if key == "tokenizer.ggml.token_type":
            contents += [int(gguf.TokenType.UNUSED)] * (num_words - given)
        writer.add_key_value(key, contents, field.types[0], of)
    return max(given, num_words)


def write_words(source: Path, target: Path) -> None:
    """A file with nothing but a model's words, small enough to carry."""
    writer = gguf.GGUFWriter(target, "llama")
    copy_words(source, writer, 0)
    finish(writer)


# --- Random weights, in the form they have in the file: quantizing real ones takes minutes --------


def raw_q8(
    random: np.random.Generator, rows: int, columns: int, deviation: float
) -> npt.NDArray[np.uint8]:
    """Blocks of a float16 scale and 32 signed bytes."""
    blocks = np.empty((rows, columns // 32, 34), np.uint8)
    blocks[..., :2] = np.frombuffer(np.float16(deviation / 73.3).tobytes(), np.uint8)
    blocks[..., 2:] = random.integers(-127, 128, blocks[..., 2:].shape, np.int8).view(np.uint8)
    return blocks.reshape(rows, -1)


def raw_q4(
    random: np.random.Generator, rows: int, columns: int, deviation: float
) -> npt.NDArray[np.uint8]:
    """Blocks of a float16 scale, a float16 minimum and 32 numbers of four bits."""
    scale = deviation / 4.61  # the deviation of 0 to 15
    head = np.array([scale, -7.5 * scale], np.float16)
    blocks = np.empty((rows, columns // 32, 20), np.uint8)
    blocks[..., :4] = np.frombuffer(head.tobytes(), np.uint8)
    blocks[..., 4:] = random.integers(0, 256, blocks[..., 4:].shape, np.uint8)
    return blocks.reshape(rows, -1)


def raw_f16(
    random: np.random.Generator, rows: int, columns: int, deviation: float
) -> npt.NDArray[np.float16]:
    return random.normal(0, deviation, (rows, columns)).astype(np.float16)


# --- An embedder --------------------------------------------------------------------------------


@dataclass(frozen=True)
class EmbedderShape:
    layers: int
    width: int
    inner: int
    heads: int
    num_words: int
    context: int = 512


MINILM = EmbedderShape(6, 384, 1536, 12, 30_522)
SMALL_MINILM = EmbedderShape(2, 64, 128, 4, 2000)


def write_embedder(path: Path, shape: EmbedderShape, words: list[str]) -> Path:
    """A BERT, whose vocabulary has these words."""
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_name("random embedder")
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_feed_forward_length(shape.inner)
    writer.add_block_count(shape.layers)
    writer.add_head_count(shape.heads)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_vocab_size(shape.num_words)
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens = [*marks, *(f"\u2581{word}" for word in words)]
    tokens += [f"\u2581zz{number}" for number in range(len(tokens), shape.num_words)]
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_tokenizer_model("bert")
    writer.add_token_list(tokens)
    writer.add_token_types([control if token in marks else normal for token in tokens])
    writer.add_token_type_count(2)
    writer.add_pad_token_id(0)
    writer.add_unk_token_id(1)
    writer.add_bos_token_id(2)
    writer.add_sep_token_id(3)
    writer.add_eos_token_id(3)
    writer.add_mask_token_id(4)
    random = np.random.default_rng(0)

    def matrix(name: str, rows: int, columns: int, kind: type = np.float16) -> None:
        data: Any = random.normal(0, columns**-0.5, (rows, columns)).astype(kind)
        writer.add_tensor(f"{name}.weight", data)

    def norm(name: str) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(shape.width, np.float32))
        writer.add_tensor(f"{name}.bias", np.zeros(shape.width, np.float32))

    matrix("token_embd", shape.num_words, shape.width, np.float32)
    matrix("position_embd", shape.context, shape.width, np.float32)
    matrix("token_types", 2, shape.width, np.float32)
    norm("token_embd_norm")
    for layer in range(shape.layers):
        at = f"blk.{layer}"
        sizes = {"ffn_up": (shape.inner, shape.width), "ffn_down": (shape.width, shape.inner)}
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            sizes[name] = (shape.width, shape.width)
        for name, (rows, columns) in sizes.items():
            matrix(f"{at}.{name}", rows, columns)
            writer.add_tensor(f"{at}.{name}.bias", np.zeros(rows, np.float32))
        norm(f"{at}.attn_output_norm")
        norm(f"{at}.layer_output_norm")
    finish(writer)
    return path
