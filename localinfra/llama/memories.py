"""llama.cpp's kinds of memory, as far as its API does not tell them apart. Pure: no pointers."""

# Architectures whose windows don't slide (attention to the current chunk), or whose cache is not
# tested here.
OTHER_WINDOWS = {"llama4", "deepseek4", "dots3note"}

# Hybrids with a memory of their own kind, whose parts this server does not know how to move.
OTHER_HYBRIDS = {"deepseek4", "glm5-next", "qwen4exp"}

# Beside the cache of these is one of keys alone, by which they choose what to look at.
WITH_INDEX = {"minimax-m3"}


def caches_with_values(architecture: str, *, has_latents: bool) -> tuple[bool, ...]:
    """Of a memory's caches in turn, and over again: whether it has values beside keys. With MLA
    (`has_latents`) both are made of one latent vector, which is kept as a key."""
    return (True, False) if architecture in WITH_INDEX else (not has_latents,)
