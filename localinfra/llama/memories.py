"""llama.cpp's kinds of memory, as far as its API does not tell them apart. Pure: no pointers."""

# Layers that look back to the last multiple of so many tokens, in the place of a sliding window.
CHUNKED = {"llama4"}

# Keys that stand for several tokens together, which sequences can't share in part.
POOLED = {"deepseek4", "glm5-next", "qwen4exp"}
CACHE_PER_SEQUENCE = {"deepseek4"}


def is_saved_whole(architecture: str, *, is_hybrid: bool, has_window: bool) -> bool:
    """Whether nothing less than all of a sequence can be saved and restored: its state has all its
    cells."""
    return architecture in POOLED or (is_hybrid and has_window)


def has_unused_window(architecture: str, num_layers: int) -> bool:
    """Whether all layers look at everything, whatever the file says."""
    return architecture == "exaone4" and num_layers != 64
