"""What weights and contexts are loaded with, as plain values: a load begins with these, while
numpy is imported."""

import msgspec

MIN_OUTPUT_ROWS = 64  # logits rows per step that scoring a prompt may ask for

# Characters per call of a tokenizer: a third of what fitted a thread's stack (8 MiB) when measured.
WINDOW = 8192


class ContextSettings(msgspec.Struct, frozen=True, kw_only=True):
    context_length: int  # tokens of one sequence
    num_cells: int  # tokens of all sequences together
    num_sequences: int
    batch_size: int  # tokens per step
    threads: int | None = None
    batch_threads: int | None = None
    flash_attention: bool | None = None  # None: where it is supported
    kv_type: str  # of KV_TYPES
    separate_caches: bool = False  # each sequence has one; `num_cells` are those of all together
    full_window: bool = False  # layers with a sliding window have a cell for each token too
    max_rollback: int = 0  # tokens that recurrent layers can take back, where llama.cpp supports it
    device_sampling: bool | None = None  # None: where the output layer is on a GPU
    mtp: bool = False  # the file's MTP layers draft, in a context of their own


class Rounding(msgspec.Struct, frozen=True):
    """See `engine.Backend`."""

    canonical_rows: int = 0
    canonical_decode_rows: int = 0
    least_rows: int = 1
