"""Writes small GGUF files with random weights: real models to llama.cpp, noise to a reader.

Knows the file format and the fewest tensors llama.cpp demands of five architectures; knows nothing
of localinfra. `TinyModel` is plain data: change its `metadata` or `tensors`, then write it.
"""

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
FORMATS = dict(enumerate(["B", "b", "H", "h", "I", "i", "f", "?", "", "", "Q", "q", "d"]))

ALIGNMENT = 32
EMBD = 32
HEADS, HEADS_KV = 4, 2
FFN = 64
F32_TENSOR = 0


@dataclass
class Value:
    """A metadata value: `of` is the element type of an array, None for a scalar."""

    type: int
    value: object
    of: int | None = None


@dataclass
class TinyTensor:
    """`shape` in GGUF's order: the fastest dimension first."""

    name: str
    shape: tuple[int, ...]
    data: bytes
    type: int = F32_TENSOR
    offset: int | None = None  # None: as the format requires


@dataclass
class TinyModel:
    metadata: dict[str, Value]
    tensors: list[TinyTensor]
    version: int = 3
    alignment: int = ALIGNMENT
    borders: list[int] = field(default_factory=list)  # byte offsets of every field, after to_bytes

    def to_bytes(self) -> bytes:
        out = bytearray(b"GGUF")
        out += struct.pack("<IQQ", self.version, len(self.tensors), len(self.metadata))
        self.borders = [0, 4, 8, 16, 24]
        for key, value in self.metadata.items():
            for part in (_string(key), *_value(value)):
                out += part
                self.borders.append(len(out))
        at = 0
        for tensor in self.tensors:
            for part in (
                _string(tensor.name),
                struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape),
                struct.pack("<I", tensor.type),
                struct.pack("<Q", at if tensor.offset is None else tensor.offset),
            ):
                out += part
                self.borders.append(len(out))
            at += _padded(len(tensor.data), self.alignment)
        out += bytes(_padded(len(out), self.alignment) - len(out))
        for tensor in self.tensors:
            self.borders.append(len(out))
            out += tensor.data.ljust(_padded(len(tensor.data), self.alignment), b"\0")
        return bytes(out)

    def write(self, path: Path) -> Path:
        path.write_bytes(self.to_bytes())
        return path


def write_parts(model: TinyModel, folder: Path, sizes: Sequence[int]) -> list[Path]:
    """The model split into files, `sizes`: how many tensors each has. Only the first has metadata
    beyond that of a part."""
    paths, at = [], 0
    for number, size in enumerate(sizes):
        part = {
            "split.no": Value(U16, number),
            "split.count": Value(U16, len(sizes)),
            "split.tensors.count": Value(I32, sum(sizes)),
        }
        metadata = {**(model.metadata if not number else {}), **part}
        name = f"tiny-{number + 1:05}-of-{len(sizes):05}.gguf"
        piece = TinyModel(metadata, model.tensors[at : at + size], model.version, model.alignment)
        paths.append(piece.write(folder / name))
        at += size
    return paths


def _padded(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


def _string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def _value(value: Value) -> tuple[bytes, ...]:
    if value.of is None:
        return struct.pack("<I", value.type), _scalar(value.type, value.value)
    items = list(value.value)  # type: ignore[call-overload]  # an array's value is a sequence
    head = struct.pack("<IIQ", value.type, value.of, len(items))
    return head, b"".join(_scalar(value.of, item) for item in items)


def _scalar(kind: int, value: object) -> bytes:
    if kind == STRING:
        return _string(value)  # type: ignore[arg-type]  # str or bytes
    return struct.pack("<" + FORMATS[kind], value)


def _array(of: int, items: object) -> Value:
    return Value(ARRAY, items, of)


# --- vocabularies ---------------------------------------------------------------------------------


def byte_characters() -> list[str]:
    """GPT-2's printable stand-in for each of the 256 bytes (Radford et al. 2019, encoder.py)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spare = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(spare)) for byte in range(256)]


def gpt2_vocabulary(chat_template: str | None = None) -> dict[str, Value]:
    """Bytes, a few merges and three special tokens: `<s>` 0, `</s>` 1, `<pad>` 2."""
    merges = ["t h", "th e", "i n", "a n", "Ġ t", "Ġ a", "e r", "l l", "h e", "o u"]
    words = ["<s>", "</s>", "<pad>", *byte_characters(), *(m.replace(" ", "") for m in merges)]
    metadata = {
        "tokenizer.ggml.model": Value(STRING, "gpt2"),
        "tokenizer.ggml.pre": Value(STRING, "gpt-2"),
        "tokenizer.ggml.tokens": _array(STRING, words),
        "tokenizer.ggml.token_type": _array(I32, [3, 3, 3] + [1] * (len(words) - 3)),
        "tokenizer.ggml.merges": _array(STRING, merges),
        "tokenizer.ggml.bos_token_id": Value(U32, 0),
        "tokenizer.ggml.eos_token_id": Value(U32, 1),
        "tokenizer.ggml.padding_token_id": Value(U32, 2),
        "tokenizer.ggml.add_bos_token": Value(BOOL, True),
    }
    if chat_template is not None:
        metadata["tokenizer.chat_template"] = Value(STRING, chat_template)
    return metadata


def spm_vocabulary(chat_template: str | None = None) -> dict[str, Value]:
    """SentencePiece: `<unk>` 0, `<s>` 1, `</s>` 2, 256 byte tokens, then letters and some pairs."""
    letters = [chr(c) for c in range(33, 127)] + ["▁"]
    pairs = ["▁t", "▁a", "th", "the", "in", "he", "er", "ll"]
    words = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *letters, *pairs]
    kinds = [2, 3, 3] + [6] * 256 + [1] * (len(letters) + len(pairs))
    scores = [0.0] * 259 + [-float(i) for i in range(len(letters) + len(pairs))]
    metadata = {
        "tokenizer.ggml.model": Value(STRING, "llama"),
        "tokenizer.ggml.tokens": _array(STRING, words),
        "tokenizer.ggml.scores": _array(F32, scores),
        "tokenizer.ggml.token_type": _array(I32, kinds),
        "tokenizer.ggml.bos_token_id": Value(U32, 1),
        "tokenizer.ggml.eos_token_id": Value(U32, 2),
        "tokenizer.ggml.unknown_token_id": Value(U32, 0),
        "tokenizer.ggml.add_bos_token": Value(BOOL, True),
    }
    if chat_template is not None:
        metadata["tokenizer.chat_template"] = Value(STRING, chat_template)
    return metadata


# --- models ---------------------------------------------------------------------------------------


class Weights:
    """Adds float32 tensors, seeded: 1-D ones are 1 (norms), others small and random."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.tensors: list[TinyTensor] = []

    def add(self, name: str, *shape: int) -> None:
        values: npt.NDArray[np.float64] = (
            np.ones(shape) if len(shape) == 1 else self.random.normal(0, 0.2, shape)
        )
        if name.endswith("ssm_a"):
            values = -np.abs(values)  # a state that decays; growing ones end in NaN
        self.tensors.append(TinyTensor(name, shape, values.astype("<f4").tobytes()))


def common_metadata(architecture: str, layers: int, context_length: int) -> dict[str, Value]:
    return {
        "general.architecture": Value(STRING, architecture),
        "general.name": Value(STRING, f"tiny {architecture}"),
        f"{architecture}.block_count": Value(U32, layers),
        f"{architecture}.context_length": Value(U32, context_length),
        f"{architecture}.embedding_length": Value(U32, EMBD),
        f"{architecture}.attention.layer_norm_rms_epsilon": Value(F32, 1e-5),
    }


def add_attention(weights: Weights, layer: int, heads: int, heads_kv: int, head: int) -> None:
    weights.add(f"blk.{layer}.attn_norm.weight", EMBD)
    weights.add(f"blk.{layer}.attn_q.weight", EMBD, heads * head)
    weights.add(f"blk.{layer}.attn_k.weight", EMBD, heads_kv * head)
    weights.add(f"blk.{layer}.attn_v.weight", EMBD, heads_kv * head)
    weights.add(f"blk.{layer}.attn_output.weight", heads * head, EMBD)


def add_feed_forward(weights: Weights, layer: int) -> None:
    weights.add(f"blk.{layer}.ffn_norm.weight", EMBD)
    weights.add(f"blk.{layer}.ffn_gate.weight", EMBD, FFN)
    weights.add(f"blk.{layer}.ffn_up.weight", EMBD, FFN)
    weights.add(f"blk.{layer}.ffn_down.weight", FFN, EMBD)


def start_weights(vocabulary: Mapping[str, Value], seed: int) -> Weights:
    weights = Weights(seed)
    tokens: list[str] = vocabulary["tokenizer.ggml.tokens"].value  # type: ignore[assignment]
    weights.add("token_embd.weight", EMBD, len(tokens))
    weights.add("output_norm.weight", EMBD)
    return weights


def tiny_llama(
    vocabulary: Callable[[], dict[str, Value]] = gpt2_vocabulary,
    layers: int = 2,
    context_length: int = 512,
    experts: int = 0,
    seed: int = 0,
) -> TinyModel:
    """Plain attention: every sequence can be copied and cut anywhere."""
    words = vocabulary()
    weights = start_weights(words, seed)
    metadata = common_metadata("llama", layers, context_length) | {
        "llama.feed_forward_length": Value(U32, FFN),
        "llama.attention.head_count": Value(U32, HEADS),
        "llama.attention.head_count_kv": Value(U32, HEADS_KV),
        "llama.rope.dimension_count": Value(U32, EMBD // HEADS),
        "llama.rope.freq_base": Value(F32, 10000.0),
    }
    for layer in range(layers):
        add_attention(weights, layer, HEADS, HEADS_KV, EMBD // HEADS)
        if not experts:
            add_feed_forward(weights, layer)
            continue
        weights.add(f"blk.{layer}.ffn_norm.weight", EMBD)
        weights.add(f"blk.{layer}.ffn_gate_inp.weight", EMBD, experts)
        weights.add(f"blk.{layer}.ffn_gate_exps.weight", EMBD, FFN, experts)
        weights.add(f"blk.{layer}.ffn_up_exps.weight", EMBD, FFN, experts)
        weights.add(f"blk.{layer}.ffn_down_exps.weight", FFN, EMBD, experts)
    if experts:
        metadata["llama.expert_count"] = Value(U32, experts)
        metadata["llama.expert_used_count"] = Value(U32, max(1, experts // 2))
    return TinyModel(metadata | words, weights.tensors)


def tiny_gemma3(
    vocabulary: Callable[[], dict[str, Value]] = spm_vocabulary,
    layers: int = 2,
    context_length: int = 512,
    sliding_window: int = 16,
    seed: int = 0,
) -> TinyModel:
    """Sliding-window attention in the first layers: positions older than the window are gone."""
    head = 16
    words = vocabulary()
    weights = start_weights(words, seed)
    metadata = common_metadata("gemma3", layers, context_length) | {
        "gemma3.feed_forward_length": Value(U32, FFN),
        "gemma3.attention.head_count": Value(U32, HEADS),
        "gemma3.attention.head_count_kv": Value(U32, 1),
        "gemma3.attention.key_length": Value(U32, head),
        "gemma3.attention.value_length": Value(U32, head),
        "gemma3.attention.sliding_window": Value(U32, sliding_window),
        "gemma3.rope.freq_base": Value(F32, 1000000.0),
    }
    for layer in range(layers):
        add_attention(weights, layer, HEADS, 1, head)
        weights.add(f"blk.{layer}.attn_q_norm.weight", head)
        weights.add(f"blk.{layer}.attn_k_norm.weight", head)
        weights.add(f"blk.{layer}.post_attention_norm.weight", EMBD)
        add_feed_forward(weights, layer)
        weights.add(f"blk.{layer}.post_ffw_norm.weight", EMBD)
    return TinyModel(metadata | words, weights.tensors)


def tiny_mamba(
    vocabulary: Callable[[], dict[str, Value]] = gpt2_vocabulary,
    layers: int = 2,
    context_length: int = 512,
    seed: int = 0,
) -> TinyModel:
    """A recurrent state: a sequence can be copied whole, never cut back."""
    inner, state, rank, conv = 2 * EMBD, 16, 2, 4
    words = vocabulary()
    weights = start_weights(words, seed)
    metadata = common_metadata("mamba", layers, context_length) | {
        "mamba.feed_forward_length": Value(U32, 0),
        "mamba.attention.head_count": Value(U32, 0),
        "mamba.ssm.conv_kernel": Value(U32, conv),
        "mamba.ssm.inner_size": Value(U32, inner),
        "mamba.ssm.state_size": Value(U32, state),
        "mamba.ssm.time_step_rank": Value(U32, rank),
    }
    for layer in range(layers):
        weights.add(f"blk.{layer}.attn_norm.weight", EMBD)
        weights.add(f"blk.{layer}.ssm_in.weight", EMBD, 2 * inner)
        weights.add(f"blk.{layer}.ssm_conv1d.weight", conv, inner)
        weights.add(f"blk.{layer}.ssm_conv1d.bias", inner)
        weights.add(f"blk.{layer}.ssm_x.weight", inner, rank + 2 * state)
        weights.add(f"blk.{layer}.ssm_dt.weight", rank, inner)
        weights.add(f"blk.{layer}.ssm_dt.bias", inner)
        weights.add(f"blk.{layer}.ssm_a", state, inner)
        weights.add(f"blk.{layer}.ssm_d", inner)
        weights.add(f"blk.{layer}.ssm_out.weight", inner, EMBD)
    return TinyModel(metadata | words, weights.tensors)
