"""Checks llama.cpp's assertions on a GGUF's content beforehand: where one fails, it calls abort().

Owns the list of them for the pinned revision, found in its source and by mutating headers
(tests/models/test_gguf_fuzz.py). Leaves to llama.cpp the mistakes that it reports as errors (a
missing tensor, a wrong shape, an unknown architecture or pre-tokenizer). Opens no file.
"""

import math
from collections.abc import Iterator

from localinfra.models.gguf.header import Array, GgufHeader, GgufVocabulary
from localinfra.models.gguf.indexers import indexer_problems

MAX_LAYERS = 512  # LLAMA_MAX_LAYERS
MAX_EXPERTS = 1024  # LLAMA_MAX_EXPERTS
MAX_WINDOW = 1 << 23  # with 256 sequences it fits llama_kv_cache_iswa's 32-bit size
MAX_TOKEN_BYTES = 4096  # for tokenizers that recurse into a token, or try all its suffixes
MAX_HEAD_LENGTH = 1 << 14  # numbers in one head; the longest known are 576

AGAIN = "convert the model again, or fetch another copy"

# general.type of files that are only part of a model.
PARTS = {
    "adapter": "a LoRA adapter",
    "mmproj": "a vision projector",
    "imatrix": "an importance matrix",
}

# Architectures that fail an assertion in an ordinary llama_decode, or don't generate text by it.
NO_GENERATORS = {
    **dict.fromkeys(("clip", "wavtokenizer-dec", "qwen3tts", "pockettts"), "is not a text model"),
    **dict.fromkeys(("eagle3", "dflash", "gemma4-assistant"), "only drafts for another model"),
    **dict.fromkeys(("dream", "llada", "llada-moe", "rnd1"), "generates by diffusion"),
    **dict.fromkeys(("t5", "t5encoder"), "needs an encoder pass before each answer"),
}
EMBEDDERS = frozenset(
    """bert modern-bert nomic-bert nomic-bert-moe neo-bert jina-bert-v2 jina-bert-v3 eurobert
    gemma-embedding llama-embed""".split()
)

# Others (t5, hybriddna, ...) throw on some texts, uncaught in C.
TOKENIZERS = ("llama", "gpt2", "gemma4", "rwkv", "plamo2")
BERT_MARKS = {"bos": 101, "unknown": 100, "seperator": 102}  # llama.cpp's defaults, its spelling
# Bytes found in UTF-8: a tokenizer that falls back to bytes must have a token for each.
UTF8_BYTES = (*range(0xC0), *range(0xC2, 0xF5))

ROPE_SCALINGS = ("none", "linear", "yarn", "longrope")

# Numbers that the graphs divide by, or that size a tensor: 0 is a SIGFPE or a failed assertion.
POSITIVE = (
    *("context_length", "embedding_length", "block_count", "vocab_size", "token_shift_count"),
    *("attention.key_length", "attention.value_length", "attention.key_length_swa"),
    *("attention.value_length_swa", "attention.group_norm_groups", "rope.dimension_count_swa"),
    *("attention.output_group_count", "attention.temperature_length", "full_attention_interval"),
    *("ssm.conv_kernel", "ssm.inner_size", "ssm.state_size", "ssm.time_step_rank", "num_loops"),
    *("ssm.group_count", "wkv.head_size", "kda.head_dim", "shortconv.l_cache", "experts_per_group"),
)

# Architectures whose graph asserts equal lengths of a head's key and value, ...
EQUAL_HEADS = frozenset(
    """afmoe apertus arcee arctic baichuan bailingmoe2 bitnet bloom chameleon chatglm codeshell
    cogvlm cohere2 cohere2moe command-r dbrx deci deepseek dots1 ernie4_5 ernie4_5-moe
    exaone exaone-moe exaone4 falcon glm4 glm4moe gpt2 gptneox granite granite_swa
    granitehybrid graniteswitch grok grovemoe hunyuan-dense hunyuan-moe hunyuan_vl hy_v3
    internlm2 jais jais2 laguna llama llama4 maincoder maple mellum minimax-01 minimax-m2
    minimax-m3 mistral3 mpt muse-glimmer nanbeige nemotron nemotron_h nemotron_h_moe olmo
    olmo2 olmoe openelm orion paddleocr pangu-embedded phi2 phi3 plamo qwen qwen2 qwen2moe
    qwen2vl qwen3 qwen35 qwen35moe qwen3moe qwen3next qwen3vl qwen3vlmoe refact seed_oss
    smallthinker smollm3 spark2_5 stablelm starcoder starcoder2 talkie xverse""".split()
)
# ... and those of them that don't also assert that rope rotates the whole head.
PARTIAL_ROPE = frozenset(
    """afmoe bailingmoe2 bitnet bloom chatglm cohere2 command-r glm4 glm4moe gpt2 gptneox
    granitehybrid jais laguna maple minimax-01 minimax-m2 minimax-m3 mpt muse-glimmer
    nanbeige nemotron nemotron_h nemotron_h_moe openelm phi2 phi3 qwen qwen35 qwen35moe
    qwen3next refact spark2_5 stablelm starcoder""".split()
)

RECURRENT = ("mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7")  # no attention at all
SOME_LAYERS_ATTEND = ("deci", "nemotron_h", "nemotron_h_moe", "granitehybrid")
MAY_NOT_TURN = (
    *("granitehybrid", "jamba", "nemotron_h", "nemotron_h_moe", "bloom", "gpt2", "mpt", "refact"),
    *("jais", "kimi-linear", "kimi-k3", "glm5-next"),
)
EXPERTS_ONLY = ("bailingmoe2", "grovemoe", "lfm2moe", "smallthinker")  # asserted by their graphs

# Where the file must say how experts are scored, or llama.cpp aborts at the first token.
SCORED = frozenset(
    """bailingmoe2 bailingmoe3 deepseek32 deepseek4 dots1 dots3note exaone-moe hy_v4 kimi-k3
    kimi-linear lfm2moe minimax-m2 minimax-m3 smallthinker""".split()
)
SCORINGS = range(1, 5)  # enum llama_expert_gating_func_type; 0 is left to the architecture

# Positions have parts for height and width (M-RoPE); of others, GLM 4, where the file says so.
GRID = ("qwen2vl", "qwen3vl", "qwen3vlmoe", "qwen35", "qwen35moe", "qwen4exp", "paddleocr")
# Keys are a latent vector and what is rotated of them, which cells hold as one.
LATENT = ("deepseek2", "deepseek32", "dots3note", "glm-dsa", "glm5-next", "mistral4")

F32 = 0
F32_PARTS = ("_norm.", ".ssm_a", ".ssm_conv1d", ".shortconv.conv")  # of names
STORED_ONLY_BY_ACCIDENT = {9: "q8_1", 15: "q8_K", 24: "i8", 25: "i16", 28: "f64"}  # no kernels
INTEGERS = {26: "i32", 27: "i64"}


def problems(header: GgufHeader, tokenizer: GgufVocabulary, *, embeds: bool) -> Iterator[str]:
    """Yields phrases that follow the file's name. Each check relies on those before it.

    `embeds`: the model is to make vectors instead of text.
    """
    yield from _kind(header)
    if not embeds:
        yield from _generates(header)
    yield from _numbers(header)
    yield from _layers(header)
    yield from _experts(header)
    yield from _heads(header)
    yield from (f"{problem}; {AGAIN}" for problem in _positions(header))
    yield from (f"{problem}; {AGAIN}" for problem in indexer_problems(header))
    yield from tensor_problems(header)
    if embeds and header.metadata.get("tokenizer.ggml.model") == "bert":
        yield from _bert_tokenizer(header, tokenizer)
    else:
        yield from _tokenizer(header, tokenizer)


def _kind(header: GgufHeader) -> Iterator[str]:
    if not isinstance(header.metadata.get("general.architecture"), str) or not header.architecture:
        yield f"does not say which architecture it is (general.architecture); {AGAIN}"
    kind = header.metadata.get("general.type", "model")
    if kind in PARTS:
        yield f"is {PARTS[str(kind)]}, not a whole model; give the model's own file"
    if header.architecture in NO_GENERATORS:
        why = NO_GENERATORS[header.architecture]
        yield f"holds a model of architecture {header.architecture}, which {why}; choose another"


def _generates(header: GgufHeader) -> Iterator[str]:
    if header.architecture in EMBEDDERS:
        yield (
            f"holds a model of architecture {header.architecture}, which makes embeddings, not "
            'text; give it kind = "embedding" in models.toml'
        )
    if header.metadata.get(f"{header.architecture}.attention.causal") is False:
        yield "has bidirectional attention, so it can't generate text; choose another model"


def _numbers(header: GgufHeader) -> Iterator[str]:
    """Integers within 31 bits, floats finite: C casts and asserts, NaN spreads to every logit."""
    prefix = header.architecture + "."
    for key, value in header.metadata.items():
        if not key.startswith(prefix):
            continue
        values = (value.values or ()) if isinstance(value, Array) else (value,)
        for item in values:
            if isinstance(item, float) and (
                not math.isfinite(item) or ("epsilon" in key and item < 0)
            ):
                yield f"has {key} = {item}; {AGAIN}"
            if isinstance(item, int) and not -1 <= item < 1 << 31:
                yield f"has {key} = {item}, which is out of range; {AGAIN}"
    for name in POSITIVE:
        value = header.metadata.get(prefix + name, 1)
        may_be_zero = name == "ssm.group_count" and header.architecture == "plamo2"
        if isinstance(value, int) and value <= 0 and not (may_be_zero and value == 0):
            yield f"has {prefix}{name} = {value}; {AGAIN}"
    for name in ("rope.freq_base", "rope.freq_base_swa"):
        base = header.metadata.get(prefix + name, 1.0)
        if isinstance(base, float) and base <= 0:
            yield f"has {prefix}{name} = {base}; {AGAIN}"
    scaling = header.metadata.get(prefix + "rope.scaling.type", "none")
    if scaling not in ROPE_SCALINGS:
        yield f"has {prefix}rope.scaling.type = {scaling!r}, unknown to this llama.cpp; {AGAIN}"
    if header.number("attention.sliding_window") > MAX_WINDOW:
        yield f"has a sliding window of {header.number('attention.sliding_window')} tokens; {AGAIN}"


def _layers(header: GgufHeader) -> Iterator[str]:
    for name in ("block_count", "context_length", "embedding_length"):
        key = f"{header.architecture}.{name}"
        if type(header.metadata.get(key)) is not int:
            yield f"does not say its {key}; {AGAIN}"
    if header.block_count > MAX_LAYERS:
        yield f"claims {header.block_count} layers, more than llama.cpp's {MAX_LAYERS}; {AGAIN}"
    layers = {tensor.layer for tensor in header.tensors if tensor.layer is not None}
    if max(layers, default=-1) + 1 != header.block_count:
        yield f"claims {header.block_count} layers but holds {max(layers, default=-1) + 1}; {AGAIN}"
    if header.number("nextn_predict_layers") >= header.block_count:
        yield f"claims {header.number('nextn_predict_layers')} prediction layers; {AGAIN}"
    elif header.number("nextn_predict_layers") and 0 not in layers:
        yield "has only layers that draft for another model; fetch the whole model"


def _experts(header: GgufHeader) -> Iterator[str]:
    """The assertions of llama_model_base::load_hparams."""
    experts, used = header.number("expert_count"), header.number("expert_used_count")
    groups, groups_used = (
        header.number("expert_group_count"),
        header.number("expert_group_used_count"),
    )
    if experts <= 1 and header.architecture in ("hunyuan_vl", "hunyuan-dense"):
        experts = used = 0
    bad = experts > MAX_EXPERTS or used > experts or (experts > 0 and used <= 0) or used < 0
    bad = bad or (groups >= experts if experts else groups != 0)
    bad = bad or (experts == 0 and header.architecture in EXPERTS_ONLY)
    if groups > 1 and not bad:
        bad = experts % groups != 0 or not 0 < groups_used < groups
    if bad:
        yield (
            f"claims {experts} experts of which {used} are used, in {groups} groups of which "
            f"{groups_used} are used; {AGAIN}"
        )
    scoring = header.number("expert_gating_func", 1)
    if experts and scoring not in SCORINGS and (scoring or header.architecture in SCORED):
        yield f"scores experts by a function {scoring} that llama.cpp doesn't have; {AGAIN}"
    names = {tensor.name for tensor in header.tensors}
    for layer, used in enumerate(header.per_layer("expert_used_count")):
        if experts and used == 0 and f"blk.{layer}.ffn_gate_inp.weight" in names:
            yield f"uses none of the experts in layer {layer}; {AGAIN}"


def _heads(header: GgufHeader) -> Iterator[str]:
    heads, heads_kv = header.head_counts, header.head_counts_kv
    if len(heads) != header.block_count or len(heads_kv) != header.block_count:
        yield f"has attention heads for {len(heads)} of {header.block_count} layers; {AGAIN}"
    for q, kv in zip(heads, heads_kv, strict=True):
        if q < 0 or kv < 0 or (kv and q % kv):
            yield f"has {q} attention heads, not a multiple of its {kv} for keys; {AGAIN}"
    attends = header.architecture not in RECURRENT
    everywhere = (
        header.architecture in EQUAL_HEADS and header.architecture not in SOME_LAYERS_ATTEND
    )
    if attends and (not any(heads) or (everywhere and not all(heads))):
        yield f"has layers without attention heads; {AGAIN}"
    key, value = header.key_length, header.value_length
    if max(key, value) > MAX_HEAD_LENGTH:
        yield f"has attention heads of {key} and {value} numbers; {AGAIN}"
    rope = header.number("rope.dimension_count", key)
    key_swa = header.number("attention.key_length_swa", key)
    rope_swa = header.number("rope.dimension_count_swa", rope)
    for turned, length in ((rope, key), (rope_swa, key_swa)):
        none = turned == 0 and header.architecture not in MAY_NOT_TURN
        if heads[0] and (turned > length or turned % 2 or turned < 0 or none):
            yield f"rotates {turned} of a head's {length} numbers (rope.dimension_count); {AGAIN}"
    pattern = header.metadata.get(f"{header.architecture}.attention.sliding_window_pattern", 0)
    if header.number("attention.sliding_window") > 0 and (
        pattern == 1 or (isinstance(pattern, Array) and not any(pattern.values or ()))
    ):
        yield f"has a sliding window, but no layer that uses it; {AGAIN}"
    if heads[0] and not any("_mla" in k or "_swa" in k for k in header.metadata):
        if header.architecture in EQUAL_HEADS and key != value:
            yield f"has keys of {key} numbers and values of {value}; {AGAIN}"
        if header.architecture in EQUAL_HEADS - PARTIAL_ROPE and rope != key:
            yield f"rotates {rope} of a head's {key} numbers (rope.dimension_count); {AGAIN}"


def _positions(header: GgufHeader) -> Iterator[str]:
    """Of the parts of a head that are rotated, each by another number."""
    architecture, number = header.architecture, header.number
    array = header.metadata.get(f"{architecture}.rope.dimension_sections")
    values = array.values if isinstance(array, Array) else None
    parts = [part for part in values or () if isinstance(part, int)]
    is_empty = architecture in GRID and not any(parts[:3])
    if array is not None and (
        is_empty or min(parts, default=0) < 0 or sum(parts) > header.key_length
    ):
        yield f"rotates parts {parts} of a head's {header.key_length} numbers"
    turned = number("rope.dimension_count")
    for suffix in ("", "_swa"):
        rank, length = (
            number(f"attention.{name}{suffix}") for name in ("kv_lora_rank", "key_length")
        )
        if architecture in LATENT and number(f"attention.key_length_mla{suffix}"):
            if rank + turned != length:
                yield f"has keys of {length} numbers, not {rank} and {turned}"


def tensor_problems(header: GgufHeader) -> Iterator[str]:
    """Types that the CPU kernels abort on. llama.cpp itself checks the shapes."""
    for tensor in header.tensors:
        if tensor.type in STORED_ONLY_BY_ACCIDENT:
            kind = STORED_ONLY_BY_ACCIDENT[tensor.type]
            yield f"stores tensor {tensor.name} as {kind}, which has no kernels; {AGAIN}"
        plain = len(tensor.shape) == 1 or tensor.name.endswith(".ssm_d")
        plain = plain or any(part in tensor.name for part in F32_PARTS)
        if tensor.type in INTEGERS:
            if "tid2eid" not in tensor.name:  # deepseek4's table of experts
                yield f"stores tensor {tensor.name} as {INTEGERS[tensor.type]}; {AGAIN}"
        elif plain and tensor.type != F32:
            yield f"stores tensor {tensor.name} in a type other than f32; {AGAIN}"


def _tokenizer(header: GgufHeader, tokenizer: GgufVocabulary) -> Iterator[str]:
    model = header.metadata.get("tokenizer.ggml.model")
    if model not in TOKENIZERS:
        yield (
            f"has the tokenizer {model!r}; only {', '.join(TOKENIZERS)} are known to accept every "
            "text; choose another model"
        )
    if header.metadata.get("tokenizer.ggml.pre") == "whitespace":
        yield "has the pre-tokenizer 'whitespace', which aborts on some texts; choose another model"
    tokens = _as_c_reads_them(tokenizer.tokens)
    if not tokens:
        yield f"has no vocabulary (tokenizer.ggml.tokens); {AGAIN}"
    longest = max(map(len, tokens))
    if model in ("rwkv", "plamo2") and longest > MAX_TOKEN_BYTES:
        yield f"has a token of {longest:,} bytes; {AGAIN}"
    known = set(tokens)
    if len(known) != len(tokens):
        seen: set[bytes] = set()
        twice = next(token for token in tokens if token in seen or seen.add(token))  # type: ignore[func-returns-value]
        yield f"has the token {twice.decode(errors='replace')!r} twice in its vocabulary; {AGAIN}"
    for name, array in (("scores", tokenizer.scores), ("token_type", tokenizer.token_types)):
        if array is not None and len(array) < len(tokens):
            yield f"has {len(array)} {name} for {len(tokens)} tokens; {AGAIN}"
    if tokenizer.scores is not None and bool((tokenizer.scores != tokenizer.scores).any()):
        yield f"has scores of tokens that are not numbers; {AGAIN}"
    yield from _bytes(str(model), known)
    for name in ("bos", "eos"):
        if _adds(header, name) and not 0 <= _special(header, name, len(tokens)) < len(tokens):
            yield f"adds a {name} token to every prompt, but has none; {AGAIN}"


def _bert_tokenizer(header: GgufHeader, tokenizer: GgufVocabulary) -> Iterator[str]:
    """It writes [UNK] for unknown text, and looks up only three special tokens by id."""
    tokens = _as_c_reads_them(tokenizer.tokens)
    if len(set(tokens)) != len(tokens):
        yield f"has a token twice in its vocabulary; {AGAIN}"
    if tokenizer.token_types is not None and len(tokenizer.token_types) < len(tokens):
        yield f"has {len(tokenizer.token_types)} token_type for {len(tokens)} tokens; {AGAIN}"
    for name, default in BERT_MARKS.items():
        stored = header.metadata.get(f"tokenizer.ggml.{name}_token_id", default)
        if not isinstance(stored, int) or not 0 <= stored < len(tokens):
            yield f"has no {name} token; {AGAIN}"


def _as_c_reads_them(tokens: list[bytes]) -> list[bytes]:
    """C strings end at NUL, and llama.cpp names empty tokens by their index."""
    if b"" not in tokens and b"\0" not in b"".join(tokens):
        return tokens
    cut = [token.partition(b"\0")[0] for token in tokens]
    return [token or b"[EMPTY_%d]" % place for place, token in enumerate(cut)]


def _bytes(model: str, known: set[bytes]) -> Iterator[str]:
    """A byte without a token throws through C (SentencePiece) or loops forever (RWKV)."""
    for byte in UTF8_BYTES:
        if model == "gpt2" or model == "gemma4":
            return
        if model == "rwkv":
            escapes = {9: b"\\t", 10: b"\\n", 13: b"\\r", 92: b"\\\\"}
            spellings = {b"\\x%02x" % byte, escapes.get(byte, b""), bytes([byte])}
            spellings.discard(b"\\")
        else:
            spellings = {b"<0x%02X>" % byte, bytes([byte])}
        if not spellings & known:
            yield f"has no token for the byte 0x{byte:02X}, so some texts would fail; {AGAIN}"
            return


def _adds(header: GgufHeader, name: str) -> bool:
    """Whether tokenizing adds bos or eos; the defaults are those of llama_vocab::impl::load."""
    model, pre = (header.metadata.get(f"tokenizer.ggml.{key}") for key in ("model", "pre"))
    key = f"tokenizer.ggml.add_{name}_token"
    if name == "bos" and (model == "gemma4" or pre in ("gemma4", "granite-embed-multi-311m")):
        return True  # regardless of the file
    llama3 = (
        "llama3",
        "llama-v3",
        "llama-bpe",
        "falcon3",
        "falcon-h1",
        "pixtral",
        "midm-2.0",
        "lfm2",
    )
    default = name == "bos" and (model == "llama" or (model == "gpt2" and pre in llama3))
    return bool(header.metadata.get(key, default))


def _special(header: GgufHeader, name: str, vocab_size: int) -> int:
    """The id of bos or eos; one out of range falls back to the default, as in llama_vocab."""
    defaults = {"llama": (1, 2), "gpt2": (11, 11), "plamo2": (1, 2)}
    default = defaults.get(str(header.metadata.get("tokenizer.ggml.model")), (-1, -1))[
        name == "eos"
    ]
    stored = header.metadata.get(f"tokenizer.ggml.{name}_token_id", default)
    return stored if isinstance(stored, int) and 0 <= stored < vocab_size else default
