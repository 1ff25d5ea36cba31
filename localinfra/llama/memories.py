"""llama.cpp's kinds of memory, as far as its API does not tell them apart. Pure: no pointers."""

# Architectures whose windows don't slide (attention to the current chunk), or whose cache is not
# tested here.
OTHER_WINDOWS = {"llama4", "deepseek4", "dots3note"}

# Hybrids with a memory of their own kind, whose parts this server does not know how to move.
OTHER_HYBRIDS = {"deepseek4", "glm5-next", "qwen4exp"}
