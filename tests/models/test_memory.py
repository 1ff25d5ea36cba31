"""What fits where: arithmetic over every size that is cheap to enumerate."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from localinfra.models.gguf.header import Array, GgufHeader, Tensor
from localinfra.models.kv_cache import CacheShape, cache_bytes, padded, window_length, windows
from localinfra.models.memory import (
    DEVICE_RESERVE_BYTES,
    fewer_layers,
    layers_per_device,
)


def header(layer_bytes: list[int], output_bytes: int = 50, heads_kv: object = 2) -> GgufHeader:
    """Layers of these sizes; a head holds 8 numbers, so a token takes 64 bytes a layer in f16."""
    sizes = {f"blk.{i}.x": size for i, size in enumerate(layer_bytes)} | {
        "output.weight": output_bytes
    }
    sizes["token_embd.weight"] = 1000
    metadata: dict[str, object] = {
        "general.architecture": "llama",
        "llama.block_count": len(layer_bytes),
        "llama.embedding_length": 32,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": heads_kv,
    }
    tensors = tuple(
        Tensor(name=name, shape=(size,), type=24, offset=0, size_bytes=size)
        for name, size in sizes.items()
    )
    return GgufHeader(
        path="model.gguf",
        version=3,
        metadata=metadata,  # type: ignore[arg-type]  # tests pass any object as heads_kv
        tensors=tensors,
        data_offset=0,
        size_bytes=0,
    )


def fitting(
    model: GgufHeader, free: list[int], n_ctx: int, reserve_bytes: int = DEVICE_RESERVE_BYTES
) -> int:
    return sum(layers_per_device(model, free, shape(n_ctx), reserve_bytes))


def shape(num_cells: int, kv_type: str = "f16", num_sequences: int = 1) -> CacheShape:
    return CacheShape(
        num_cells=num_cells, num_sequences=num_sequences, batch_size=512, kv_type=kv_type
    )


def per_token(model: GgufHeader, kv_type: str = "f16") -> list[float]:
    """Bytes of a token in each layer's cache."""
    return [size / 1024 for size in cache_bytes(model, shape(1024, kv_type))]


def test_grouped_queries_count_key_and_value_heads_only() -> None:
    assert per_token(header([10, 10])) == [64, 64]
    assert per_token(header([10, 10]), "q8_0") == [34, 34]


def test_heads_may_differ_by_layer() -> None:
    model = header([10] * 3, heads_kv=Array(5, 3, (4, 0, 1)))
    assert per_token(model) == [128, 0, 32]


@pytest.mark.parametrize(
    ("architecture", "given", "length", "full_blocks"),
    [
        ("gemma3", 512, 512, {5, 11}),
        ("gemma2", None, 4096, {1, 3, 5, 7, 9, 11}),
        ("mellum", 512, 512, {3, 7, 11}),
        ("laguna", 512, 512, {0, 4, 8}),
        ("smallthinker", 512, 4096, {0, 4, 8}),
        ("llama4", None, 8192, {3, 7, 11}),
        ("exaone4", 512, 0, set(range(12))),
        ("phi3", 512, 0, set(range(12))),
        ("gemma3", None, 0, set(range(12))),
    ],
)
def test_windows_are_where_llama_cpp_has_them(
    architecture: str, given: int | None, length: int, full_blocks: set[int]
) -> None:
    """As its log shows (`is_swa`, `n_swa`), where the file does not say which blocks have one."""
    plain = header([100] * 12)
    metadata = {key.replace("llama.", f"{architecture}."): v for key, v in plain.metadata.items()}
    metadata["general.architecture"] = architecture
    if given is not None:
        metadata[f"{architecture}.attention.sliding_window"] = given
    found = msgspec.structs.replace(plain, metadata=metadata)
    assert window_length(found) == length
    assert {at for at, has_window in enumerate(windows(found)) if not has_window} == full_blocks


def test_every_amount_of_memory_is_used_and_never_exceeded() -> None:
    sizes = [100, 120, 80, 100]
    for n_ctx, step in ((0, 1), (256, 37)):
        weighted = [*(size + 64 * n_ctx for size in sizes), 50]
        for free in range(0, 1100 + 4 * 64 * n_ctx, step):
            count = fitting(header(sizes), [free], n_ctx, reserve_bytes=0)
            assert sum(weighted[len(weighted) - count :]) <= free
            assert count == 5 or sum(weighted[4 - count :]) > free  # one more would not fit


def test_more_memory_never_means_fewer_layers_on_two_devices() -> None:
    model = header([100, 30, 170, 60])
    grid = range(0, 600, 20)
    fits = {(a, b): fitting(model, [a, b], 0, reserve_bytes=0) for a in grid for b in grid}
    for (a, b), count in fits.items():
        assert count <= fits.get((a + 20, b), 5)
        assert count <= fits.get((a, b + 20), 5)


@given(
    st.lists(st.integers(1, 500), min_size=1, max_size=12),
    st.lists(st.integers(0, 60_000), max_size=4),
    st.integers(0, 40),
    st.integers(0, 500),
)
def test_no_device_gets_more_than_it_has(
    sizes: list[int], free: list[int], n_ctx: int, reserve: int
) -> None:
    model = header(sizes)
    counts = layers_per_device(model, free, shape(n_ctx), reserve)
    weighted = [*(size + 64 * padded(n_ctx) for size in sizes), 50]
    place = len(weighted) - sum(counts)
    assert sum(counts) == fitting(model, free, n_ctx, reserve_bytes=reserve)
    for room, count in zip(free, counts, strict=True):
        assert count == 0 or sum(weighted[place : place + count]) + reserve <= room
        place += count


def test_all_layers_fit_when_there_is_plenty() -> None:
    assert fitting(header([100] * 30), [1 << 40], 4096) == 31
    assert layers_per_device(header([100] * 30), [0, 1 << 40], shape(4096)) == [0, 31]


@pytest.mark.parametrize("free", [[], [0], [DEVICE_RESERVE_BYTES], [1000, 1000]])
def test_nothing_fits_into_less_than_the_reserve(free: list[int]) -> None:
    assert fitting(header([100] * 30), free, 1) == 0


def test_retries_end_at_no_layers() -> None:
    for n in range(1, 1000):
        assert 0 <= fewer_layers(n) < n
    steps = [33]
    while steps[-1]:
        steps.append(fewer_layers(steps[-1]))
    assert steps == [33, 24, 18, 13, 9, 6, 4, 3, 2, 1, 0]
