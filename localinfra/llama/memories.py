"""llama.cpp's kinds of memory, as far as its API does not tell them apart. Pure: no pointers."""

# Layers that look back to the last multiple of so many tokens, in the place of a sliding window.
CHUNKED = {"llama4"}

# Keys that stand for several tokens together, which sequences can't share in part.
POOLED = {"deepseek4", "glm5-next", "qwen4exp"}
# What sums are rounded like depends on more than the order of cells there: on a cache for each
# sequence, and on which other sequences there are.
ROUNDED_OTHERWISE = {"deepseek4", "qwen4exp"}

# llama.cpp confuses sequences that have several tokens each in a step.
ONE_SEQUENCE = {"plamo2"}
# In one cache with others, a sequence is computed otherwise than alone, and not by rounding: logits
# are off by a tenth of their size (llama_memory_hybrid_idx::set_input_qsa groups cells).
ALWAYS_SEPARATE = {"qwen4exp"}


def is_saved_whole(architecture: str, *, is_hybrid: bool, has_window: bool) -> bool:
    """Whether nothing less than all of a sequence can be saved and restored: its state has all its
    cells."""
    return architecture in POOLED or (is_hybrid and has_window)


def has_unused_window(architecture: str, num_layers: int) -> bool:
    """Whether all layers look at everything, whatever the file says."""
    return architecture == "exaone4" and num_layers != 64
