"""What llama.cpp asserts, or takes for granted, of architectures whose attention looks at the keys
that an indexer finds, some of which stand for several tokens. See `checks.py`.
"""

from collections.abc import Iterator

from localinfra.models.gguf.header import GgufHeader

# Keys of the indexer are multiplied by a Hadamard matrix, the smallest of which has 64 rows.
ROTATED = {"deepseek32", "deepseek4", "dots3note", "glm-dsa"}
ROW_MULTIPLE = 64

# A layer without an indexer looks at what the last one before it has chosen.
SHARED = {"dots3note", "glm-dsa", "glm5-next"}

MOST_POOLED = 64  # tokens of a block of Qwen 4
STREAMS = 4  # of hyper-connections
MOST_ITERATIONS = 32  # of Sinkhorn's for them; the known models have 20, and each is in the graph


def indexer_problems(header: GgufHeader) -> Iterator[str]:
    architecture, number = header.architecture, header.number
    if architecture in ROTATED:
        length = number("attention.indexer.key_length")
        if length <= 0 or length % ROW_MULTIPLE:
            yield f"has an indexer's keys of {length} numbers, no multiple of {ROW_MULTIPLE}"
    if architecture in SHARED:
        yield from _shared(header)
    if architecture == "deepseek4" and header.key_length != header.value_length:
        yield f"has keys of {header.key_length} numbers and values of {header.value_length}"
    iterations = number("hyper_connection.sinkhorn_iterations")
    if not 0 < iterations <= MOST_ITERATIONS and architecture in ("deepseek4", "glm5-next"):
        yield f"mixes residual streams in {iterations} iterations, not 1 to {MOST_ITERATIONS}"
    if architecture == "glm5-next":
        pooled, best = number("attention.indexer.kpool"), number("attention.indexer.top_k")
        if pooled <= 1 or best % pooled:
            yield f"chooses {best} keys in pools of {pooled}"
        if number("hyper_connection.count") != STREAMS:
            yield f"has {number('hyper_connection.count')} residual streams, not {STREAMS}"
    if architecture == "qwen4exp":
        most = max(header.per_layer("attention.compress_ratios"), default=0)
        if most > MOST_POOLED:
            yield f"has blocks of {most} tokens, more than {MOST_POOLED}"
        heads = (number("ple.ngram_size") - 1) * number("ple.heads_per_ngram")
        width = number("embedding_length_per_layer_input")
        has_tables = "qwen4exp.ple.layers" in header.metadata
        if has_tables and heads * width != header.embedding_length:
            yield f"looks n-grams up in {heads} tables of {width} numbers each"
    if architecture == "minimax-m3" and number("attention.indexer.block_size") <= 0:
        yield f"has blocks of {number('attention.indexer.block_size')} tokens"
    if architecture == "plamo2" and number("ssm.group_count"):
        yield f"has {number('ssm.group_count')} groups of recurrent states, not 0"


def _shared(header: GgufHeader) -> Iterator[str]:
    windows = header.per_layer("attention.sliding_window_pattern")
    types = header.per_layer("attention.indexer.types", 1)
    layers = zip(header.head_counts_kv, windows, strict=False)
    full = [at for at, (heads, has_window) in enumerate(layers) if heads and not has_window]
    if not full:
        yield "has no layer that looks at all keys"
    elif not any(types[full[0] : full[0] + 1]):
        yield f"has no indexer in layer {full[0]}, the first one that needs it"
