"""Damaged GGUF files: every way we thought of to break a tiny model, each with a name.

Used by test_gguf_fuzz.py; `mutations` yields thousands for one model, in a fixed order.
"""

import copy
import random
import struct
from collections.abc import Callable, Iterator
from functools import partial

from models.tiny_gguf import ARRAY, BOOL, F32, I32, STRING, U32, U64, TinyModel, Value

Mutation = tuple[str, Callable[[], bytes]]  # name, and a function that makes the file's bytes

NUMBERS = (0, 1, 2, 3, 5, 7, 16, 100, 1 << 10, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)
FLOATS = (0.0, -1.0, 1e-38, 1e38, float("nan"), float("inf"), -float("inf"))
WORDS = (
    *("", "x", "a\0b", b"\xff\xfe", "none", "linear", "yarn", "longrope", "llama", "gpt2", "bert"),
    *("t5", "rwkv", "plamo2", "test", "no_vocab", "gemma4", "hybriddna", "whitespace", "llama-bpe"),
    *("mamba2", "qwen2", "gemma2", "falcon", "adapter", "phi3", "deepseek-llm", "kimi-k2", "clip"),
)
EXTRA_KEYS = (
    *("expert_count", "expert_used_count", "expert_group_count", "expert_group_used_count"),
    *("nextn_predict_layers", "attention.sliding_window", "attention.sliding_window_pattern"),
    *("attention.key_length", "attention.value_length", "attention.key_length_swa", "vocab_size"),
    *("attention.value_length_swa", "rope.dimension_count", "rope.dimension_count_swa"),
    *(
        "rope.scaling.original_context_length",
        "attention.causal",
        "pooling_type",
        "ssm.group_count",
    ),
    *("expert_feed_forward_length", "embedding_length_out", "leading_dense_block_count"),
    *("expert_gating_func", "rope.dimension_sections", "attention.head_count_kv"),
)
EXTRA_FLOATS = (
    *("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon", "rope.scaling.factor"),
    *("rope.freq_base", "rope.freq_base_swa", "rope.scaling.attn_factor", "attention.scale"),
    *("attention.clamp_kqv", "attention.max_alibi_bias", "final_logit_softcapping", "logit_scale"),
    *("rope.scaling.yarn_log_multiplier", "rope.scaling.yarn_ext_factor", "expert_weights_scale"),
    *("rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow", "embedding_scale"),
)


def mutations(make: Callable[[], TinyModel], seed: int = 0, flips: int = 500) -> Iterator[Mutation]:
    """Every mutation of the model that `make` builds. `make` is called once; copies are changed."""
    model = make()
    yield "as it was", model.to_bytes
    for changes in (_cuts, _borders, _metadata, _vocabulary, _tensors, _alignments, _names):
        yield from changes(model)
    yield from _flips(model, seed, flips)


def projector_mutations(
    make: Callable[[], TinyModel], seed: int = 0, flips: int = 500
) -> Iterator[Mutation]:
    """Those that a file without a vocabulary can have."""
    model = make()
    yield "as it was", model.to_bytes
    for changes in (_cuts, _borders, _metadata, _tensors, _alignments):
        yield from changes(model)
    yield from _flips(model, seed, flips)


def _changed(
    model: TinyModel, change: Callable[..., None], *arguments: object
) -> Callable[[], bytes]:
    """A function that returns the bytes of a changed copy of the model."""

    def made() -> bytes:
        copied = copy.deepcopy(model)
        change(copied, *arguments)
        return copied.to_bytes()

    return made


def _set_key(model: TinyModel, key: str, value: Value) -> None:
    model.metadata[key] = value


def _drop_key(model: TinyModel, key: str) -> None:
    del model.metadata[key]


def _set_item(model: TinyModel, array: str, place: int, item: object) -> None:
    _items(model, array)[place] = item


def _set_items(model: TinyModel, array: str, items: list[object]) -> None:
    _items(model, array)[:] = items


def _items(model: TinyModel, array: str) -> list[object]:
    items = model.metadata[f"tokenizer.ggml.{array}"].value
    assert isinstance(items, list)
    return items


def _set_fields(model: TinyModel, place: int, fields: dict[str, object]) -> None:
    for name, value in fields.items():
        setattr(model.tensors[place], name, value)


def _order_tensors(model: TinyModel, places: list[int]) -> None:
    model.tensors = [model.tensors[place] for place in places]


def _cut(whole: bytes, at: int) -> bytes:
    return whole[:at]


def _patched(whole: bytes, at: int, new: bytes) -> bytes:
    return whole[:at] + new + whole[at + len(new) :]


def _cuts(model: TinyModel) -> Iterator[Mutation]:
    whole = model.to_bytes()
    for border in model.borders:
        for cut in {border, max(border - 1, 0)}:
            yield f"cut at {cut}", partial(_cut, whole, cut)
    yield "a byte more", partial(_patched, whole, len(whole), b"\0")


def _borders(model: TinyModel) -> Iterator[Mutation]:
    """Lengths, counts, types and offsets replaced where a field begins."""
    whole = model.to_bytes()
    for border in model.borders[:-1]:
        for code, values in (("I", NUMBERS), ("Q", (*NUMBERS, 1 << 62, 1 << 63, (1 << 64) - 1))):
            for value in values:
                raw = struct.pack("<" + code, value)
                yield f"{code} {value} at {border}", partial(_patched, whole, border, raw)


def _flips(model: TinyModel, seed: int, count: int) -> Iterator[Mutation]:
    whole, chance = model.to_bytes(), random.Random(seed)
    header_bytes = next(b for b in model.borders if b % 32 == 0 and b > len(whole) // 20)
    for number in range(count):
        broken = bytearray(whole)
        places = [
            chance.randrange(max(header_bytes, 64)) for _ in range(chance.choice((1, 1, 2, 8)))
        ]
        for place in places:
            broken[place] ^= 1 << chance.randrange(8)
        yield f"flip {number} at {places}", partial(bytes, broken)


def _metadata(model: TinyModel) -> Iterator[Mutation]:
    architecture = str(model.metadata["general.architecture"].value)
    extra = {f"{architecture}.{key}": U32 for key in EXTRA_KEYS}
    extra |= {f"{architecture}.{key}": F32 for key in EXTRA_FLOATS}
    extra |= {
        f"{architecture}.rope.scaling.type": STRING,
        "split.count": U32,
        "general.type": STRING,
    }
    extra |= {"tokenizer.ggml.add_eos_token": BOOL, "tokenizer.ggml.add_space_prefix": BOOL}
    extra |= {"tokenizer.ggml.eot_token_id": U32, "tokenizer.ggml.seperator_token_id": U32}
    for key in [*model.metadata, *(key for key in extra if key not in model.metadata)]:
        old = model.metadata.get(key)
        if old is not None:
            yield f"no {key}", _changed(model, _drop_key, key)
        for value in _values(old.type if old else extra[key], old is None or old.of is None):
            yield (
                f"{key} = {value}"[:120],
                _changed(model, _set_key, key, value),
            )


def _values(kind: int, scalar: bool) -> Iterator[Value]:
    """Values for a key of this type, then of other types."""
    if kind == U32:
        yield from (Value(U32, number) for number in NUMBERS)
        yield from (Value(ARRAY, [n] * length, U32) for n in (0, 1, 4) for length in (0, 1, 2, 3))
        yield Value(ARRAY, [0, 4], U32)
        yield Value(ARRAY, [4, 0], I32)
        yield Value(I32, -1)
        yield Value(U64, 1 << 40)
    if kind == F32:
        yield from (Value(F32, number) for number in FLOATS)
    if kind == BOOL:
        yield from (Value(BOOL, flag) for flag in (True, False))
    if kind == STRING:
        yield from (Value(STRING, word) for word in WORDS)
    yield Value(STRING, "four")
    yield Value(F32, 4.0)
    yield Value(ARRAY, [], ARRAY)
    if not scalar:
        yield from (
            Value(ARRAY, [1] * length, of) for of in (U32, I32, F32) for length in (0, 1, 999)
        )
        yield Value(ARRAY, ["a"] * 3, STRING)


STRANGE_TOKENS = (
    *("", "\0", "a\0b", b"\xff", b"\xe2\x96", "[EMPTY_4]", "a" * 100_000, " ", "<0x", "\\x4"),
)
STRANGE_MERGES = ("", " ", "  ", "a", "a ", " a", "a b c", "\0 \0", b"\xff \xfe", "t h", "zz yy")


def _vocabulary(model: TinyModel) -> Iterator[Mutation]:
    """Tokens and merges that are doubled, empty, not UTF-8, huge or out of order."""
    words = _items(model, "tokens")
    for place in (0, 3, 20, 100, len(words) - 1):
        for word in STRANGE_TOKENS:
            yield f"token {place} = {word!r:.20}", _changed(model, _set_item, "tokens", place, word)
        yield f"token {place} doubled", _changed(model, _set_item, "tokens", place, words[5])
        others = words[:place] + words[place + 1 :]
        yield f"no token {place}", _changed(model, _set_items, "tokens", others)
    for place in range(0, len(words), 3):
        yield f"token {place} renamed", _changed(model, _set_item, "tokens", place, "renamed")
    yield "reversed tokens", _changed(model, _set_items, "tokens", words[::-1])
    yield "one token", _changed(model, _set_items, "tokens", words[:1])
    yield "a token more", _changed(model, _set_items, "tokens", [*words, "more"])
    if "tokenizer.ggml.merges" in model.metadata:
        for merge in STRANGE_MERGES:
            for place in (0, len(_items(model, "merges")) - 1):
                yield (
                    f"merge {place} = {merge!r}",
                    _changed(model, _set_item, "merges", place, merge),
                )
    for kind in range(-1, 9):
        for place in (0, 1, 30, len(words) - 1):
            yield (
                f"token {place} of kind {kind}",
                _changed(model, _set_item, "token_type", place, kind),
            )
    if "tokenizer.ggml.scores" in model.metadata:
        for score in FLOATS:
            yield f"score {score}", _changed(model, _set_item, "scores", 300, score)


# ggml_type → weights and bytes of a block, enough of them to cover every family of kernels.
TYPES = {
    **{0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 8: (32, 34), 9: (32, 36)},
    **{14: (256, 210), 15: (256, 292), 20: (32, 18), 24: (1, 1), 25: (1, 2), 26: (1, 4)},
    **{27: (1, 8), 28: (1, 8), 30: (1, 2), 39: (32, 17), 40: (64, 36), 41: (128, 18), 42: (64, 18)},
}


def _tensors(model: TinyModel) -> Iterator[Mutation]:
    chance = random.Random(1)
    for place, tensor in enumerate(model.tensors):
        name = tensor.name

        def having(place: int = place, **fields: object) -> Callable[[], bytes]:
            return _changed(model, _set_fields, place, fields)

        every = range(len(model.tensors))
        others = [other for other in every if other != place]
        yield f"no {name}", _changed(model, _order_tensors, others)
        yield f"{name} last", _changed(model, _order_tensors, [*others, place])
        yield f"{name} doubled", _changed(model, _order_tensors, [*every, place])
        for other in ("", "x" * 63, "x" * 64, "blk.9.attn_q.weight", "blk.-1.x", "output.weight"):
            yield f"{name} named {other}", having(name=other)
        for shape in ((), (0,), (1,), (*tensor.shape, 1), tensor.shape[::-1], (*tensor.shape, 0)):
            yield f"{name} of shape {shape}", having(shape=shape)
        yield f"{name} of a huge shape", having(shape=(1 << 40, 1 << 30))
        yield f"{name} of five dimensions", having(shape=(1,) * 5)
        for byte in (b"\0", b"\xff", b"\x7f"):
            yield f"{name} of {byte!r}", having(data=byte * len(tensor.data))
        for offset in (1, 32, 1 << 40, (1 << 64) - 32):
            yield f"{name} at {offset}", having(offset=offset)
        weights = len(tensor.data) // 4
        for kind, (block, size) in TYPES.items():
            data = chance.randbytes(max(weights // block, 1) * size)
            yield f"{name} of type {kind}", having(type=kind, data=data)
        for kind in (4, 31, 36, 43, 255, (1 << 32) - 1):
            yield f"{name} of no type {kind}", having(type=kind)
    for kind, (block, size) in TYPES.items():

        def all_of(m: TinyModel, kind: int = kind, block: int = block, size: int = size) -> None:
            for tensor in m.tensors:
                if len(tensor.shape) > 1 and tensor.shape[0] % block == 0:
                    tensor.data = random.Random(kind).randbytes(
                        len(tensor.data) // 4 // block * size
                    )
                    tensor.type = kind

        yield f"all of type {kind}", _changed(model, all_of)


def _alignments(model: TinyModel) -> Iterator[Mutation]:
    for alignment in (1, 2, 4, 8, 16, 64, 1 << 16):

        def aligned(m: TinyModel, alignment: int = alignment) -> None:
            m.alignment = alignment
            m.metadata["general.alignment"] = Value(U32, alignment)

        yield f"aligned to {alignment}", _changed(model, aligned)
    for value in (
        Value(U32, 0),
        Value(U32, 48),
        Value(U64, 32),
        Value(I32, -32),
        Value(U32, 1 << 31),
    ):
        yield (
            f"alignment {value}",
            _changed(model, _set_key, "general.alignment", value),
        )


def _names(model: TinyModel) -> Iterator[Mutation]:
    """The same tensors under other architectures' names: graphs that expect something else."""
    for other in ARCHITECTURES:

        def renamed(m: TinyModel, other: str = other) -> None:
            old = str(m.metadata["general.architecture"].value)
            m.metadata = {
                other + key[len(old) :] if key.startswith(old + ".") else key: value
                for key, value in m.metadata.items()
            }
            m.metadata["general.architecture"] = Value(STRING, other)
            m.metadata[f"{other}.attention.layer_norm_epsilon"] = Value(F32, 1e-5)

        yield f"as {other}", _changed(model, renamed)


ARCHITECTURES = """
llama llama4 deci falcon grok gpt2 gptneox mpt baichuan starcoder refact bert bloom stablelm qwen
qwen2 qwen2moe qwen3 qwen3moe phi2 phi3 plamo internlm2 minicpm gemma gemma2 gemma3 gemma4
starcoder2 mamba mamba2 jamba xverse command-r cohere2 dbrx olmo olmo2 olmoe openelm arctic
deepseek deepseek2 chatglm glm4 bitnet t5 jais nemotron exaone exaone4 rwkv6 rwkv7 granite
granitemoe granitehybrid chameleon plm bailingmoe dots1 arcee ernie4_5 hunyuan-moe hunyuan-dense
smollm3 gpt-oss lfm2 dream smallthinker llada seed_oss apertus hrm_text minimax-m2 cogvlm mistral3
mistral4 maincoder talkie mellum nanbeige llama-embed gemma-embedding
""".split()
