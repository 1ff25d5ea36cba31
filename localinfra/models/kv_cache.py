"""The bytes of a model's cache, block by block, from its header: keys and values of attention, and
recurrent states. Pure arithmetic, as llama.cpp allocates it (llama-kv-cache-iswa.cpp,
llama-memory-recurrent.cpp, llama-hparams.cpp).
"""

import msgspec

from localinfra.models.gguf.header import GgufHeader
from localinfra.models.gguf.reader import BLOCKS

CELL_PADDING = 256  # llama.cpp rounds the number of cells up to it

# Architecture → every n-th block has full attention and the others a window (llama.cpp's
# src/models), unless the file says which. Of others, all blocks count as full, which is never less.
FULL_EVERY = {
    "afmoe": 4, "cohere2": 4, "cohere2moe": 4, "exaone-moe": 4, "exaone4": 4, "gemma-embedding": 6,
    "gemma2": 2, "gemma3": 6, "gemma3n": 5, "gpt-oss": 2, "laguna": 4, "llama4": 4, "mellum": 4,
    "muse-glimmer": 4, "olmo2": 4, "plamo3": 8, "smallthinker": 4,
}  # fmt: skip
FULL_FIRST = {"cohere2moe", "laguna", "smallthinker"}  # the first of n blocks, not the last one
# Tokens of the window: where the file need not say it, and whatever else it says.
WINDOWS = {"exaone4": 4096, "gemma2": 4096, "llama4": 8192}
FIXED_WINDOWS = {"llama4": 8192, "smallthinker": 4096}
FIRST_SHARED = {"gemma3n": 20}  # from this block on, they use the cache of earlier ones

# Every n-th block of these has attention and the others a recurrent state, unless the file says it.
ATTENTION_EVERY = {"qwen3next": 4, "qwen35": 4, "qwen35moe": 4}
BOTH = {"falcon-h1"}  # attention and a recurrent state in every block
ROLLS_BACK = {
    "bailingmoe3", "kimi-k3", "lfm2", "lfm2moe", "nemotron_h", "nemotron_h_moe", "qwen35",
    "qwen35moe",
}  # fmt: skip
STATE_NUMBER_BYTES = 4  # recurrent states are float32


class CacheShape(msgspec.Struct, frozen=True, kw_only=True):
    num_cells: int  # tokens of all sequences together
    num_sequences: int  # that keep a state or a window at the same time
    batch_size: int  # tokens of a step
    num_caches: int = 1  # each has its part of the cells; more than one: a sequence each
    kv_type: str
    num_extra_states: int = 0  # of models that also have attention
    max_rollback: int = 0  # tokens that states can be taken back: each has so many earlier ones
    full_window: bool = False  # layers with a sliding window have as many cells as others
    mtp: bool = False  # layers for multi-token prediction have a cache too

    @property
    def cells_of_each(self) -> int:
        """Of each cache, as llama.cpp rounds them."""
        return padded(-(-self.num_cells // self.num_caches))


def cache_bytes(header: GgufHeader, shape: CacheShape) -> list[int]:
    """Bytes of each block's part of the cache."""
    [number_bytes] = [
        size / count for name, count, size in BLOCKS.values() if name == shape.kv_type
    ]
    full_cells = shape.cells_of_each
    windows_of_each = window_length(header) * shape.num_sequences // shape.num_caches
    window_cells = padded(min(full_cells, windows_of_each + shape.batch_size))
    if shape.full_window:
        window_cells = full_cells
    full_head = header.key_length + header.value_length
    if header.number("attention.key_length_mla"):  # values are made of the same vectors as keys
        full_head = header.key_length + header.number("attention.indexer.key_length")
    window_head = header.number("attention.key_length_swa", header.key_length) + header.number(
        "attention.value_length_swa", header.value_length
    )
    has_window = windows(header)
    has_state = recurrent_blocks(header)
    num_states = shape.num_sequences + (shape.num_extra_states if has_cells(header) else 0)
    state = state_bytes(header) * num_states * (1 + shape.max_rollback)
    last = header.block_count - header.number("attention.shared_kv_layers")
    last = min(last, FIRST_SHARED.get(header.architecture, last))
    if not shape.mtp:
        last = min(last, num_trunk_blocks(header))
    sizes = []
    for block, heads in enumerate(header.head_counts_kv):
        size = state if has_state[block] else 0
        if block < last and (not has_state[block] or header.architecture in BOTH):
            cells = window_cells if has_window[block] else full_cells
            head = window_head if has_window[block] else full_head
            size += -int(-heads * head * number_bytes // 1) * cells * shape.num_caches
        sizes.append(size)
    return sizes


def windows(header: GgufHeader) -> list[bool]:
    """Whether each block's attention is limited to a sliding window."""
    key = "attention.sliding_window_pattern"
    if not window_length(header):
        return [False] * header.block_count
    pattern = header.per_layer(key)
    if len(set(pattern)) > 1:
        return [bool(has_window) for has_window in pattern]
    every = header.number(key) or FULL_EVERY.get(header.architecture, 1)
    full = 0 if header.architecture in FULL_FIRST else every - 1
    return [block % every != full for block in range(header.block_count)]


def window_length(header: GgufHeader) -> int:
    """Tokens that some blocks look back at; 0 if all look at everything, as with Phi-3 and smaller
    EXAONE 4, whatever the file says."""
    is_unused = header.architecture == "exaone4" and header.block_count != 64
    if header.architecture == "phi3" or is_unused:
        return 0
    given = header.number("attention.sliding_window", WINDOWS.get(header.architecture, 0))
    return FIXED_WINDOWS.get(header.architecture, given) if given else 0


def recurrent_blocks(header: GgufHeader) -> list[bool]:
    """Whether each block keeps a recurrent state."""
    if header.architecture in BOTH:
        return [True] * header.block_count
    every = header.number("full_attention_interval", ATTENTION_EVERY.get(header.architecture, 0))
    if every:
        trunk = num_trunk_blocks(header)
        return [(at + 1) % every != 0 and at < trunk for at in range(header.block_count)]
    return [heads == 0 for heads in header.head_counts_kv]


def has_cells(header: GgufHeader) -> bool:
    """Whether some block has attention."""
    return header.architecture in BOTH or not all(recurrent_blocks(header))


def num_trunk_blocks(header: GgufHeader) -> int:
    """Those before the layers for multi-token prediction."""
    return header.block_count - header.number("nextn_predict_layers")


def state_bytes(header: GgufHeader) -> int:
    """The state of one sequence in one block."""
    number, width = header.number, header.embedding_length
    if head := number("wkv.head_size"):  # RWKV
        numbers = width * (number("token_shift_count", 2) + head)
    elif taps := number("shortconv.l_cache"):  # LFM2
        numbers = width * (taps - 1)
    elif head := number("kda.head_dim"):  # Kimi
        heads = max(header.head_counts, default=0)
        numbers = heads * head * (3 * max(number("ssm.conv_kernel") - 1, 3) + head)
    else:
        inner, state = number("ssm.inner_size"), number("ssm.state_size")
        rows = max(number("ssm.conv_kernel") - 1, 0)
        numbers = rows * (inner + 2 * number("ssm.group_count") * state) + state * inner
    return STATE_NUMBER_BYTES * numbers


def saved_state_bytes(header: GgufHeader, kv_type: str) -> int:
    """What a copy of a sequence's state takes: of its recurrent layers, or of its windows."""
    shape = CacheShape(
        num_cells=CELL_PADDING, num_sequences=1, batch_size=1, kv_type=kv_type, full_window=True
    )
    blocks = zip(cache_bytes(header, shape), windows(header), strict=True)
    row = sum(size for size, has_window in blocks if has_window) // CELL_PADDING
    return window_length(header) * row + state_bytes(header) * sum(recurrent_blocks(header))


def padded(num_cells: int) -> int:
    return -(-num_cells // CELL_PADDING) * CELL_PADDING
