"""How many tokens steps may have: by device and memory, on headers of real shapes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from models.tiny_gguf import tiny_llama

from localinfra.footprint import CPU, GIB, MIB
from localinfra.llama.context import LlamaContext
from localinfra.llama.model import LoadFailed, Model
from localinfra.llama.settings import ContextSettings
from localinfra.models.entries import TextModelEntry
from localinfra.models.gguf.header import Array, GgufHeader, Tensor
from localinfra.models.gguf.reader import read_header
from localinfra.models.memory import (
    DEVICE_RESERVE_BYTES,
    compute_bytes,
    layer_sizes,
    layers_per_device,
)
from localinfra.models.sources import PathSource
from localinfra.text import placing
from localinfra.text.identity import identity
from localinfra.text.placing import TextPlan, place, plan_text
from localinfra.text.sizing import (
    batch_in_words,
    cache_shape,
    context_settings,
    device_reserve,
    with_batch,
)


def header(
    layers: int, width: int, inner: int, heads: int, heads_kv: int, words: int, **more: int
) -> GgufHeader:
    """Of a model whose matrices have 5 bits per weight. `more`: of experts."""
    experts = more.get("expert_count", 1)
    layer = 2 * width * width + 3 * experts * width * more.get("expert_feed_forward_length", inner)
    sizes = {f"blk.{at}.x": layer * 5 // 8 for at in range(layers)}
    sizes |= {"token_embd.weight": words * width, "output.weight": words * width}
    numbers = {
        "block_count": layers, "embedding_length": width, "feed_forward_length": inner,
        "attention.head_count": heads, "attention.head_count_kv": heads_kv,
        "attention.key_length": 128, "attention.value_length": 128, **more,
    }  # fmt: skip
    metadata: dict[str, Any] = {f"llama.{key}": number for key, number in numbers.items()}
    metadata["general.architecture"] = "llama"
    metadata["tokenizer.ggml.tokens"] = Array(8, words, ())
    tensors = [
        Tensor(name=name, shape=(size,), type=24, offset=0, size_bytes=size)
        for name, size in sizes.items()
    ]
    return GgufHeader(
        path="m.gguf",
        version=3,
        metadata=metadata,
        tensors=(*tensors,),
        data_offset=0,
        size_bytes=0,
    )


LLAMA_8B = header(32, 4096, 14336, 32, 8, 128_256)
LLAMA_70B = header(80, 8192, 28672, 64, 8, 128_256)
EXPERTS = {"expert_count": 128, "expert_used_count": 8, "expert_feed_forward_length": 768}
QWEN_30B_A3B = header(48, 2048, 6144, 32, 4, 151_936, **EXPERTS)
MODELS = {"8B": LLAMA_8B, "70B": LLAMA_70B, "30B-A3B": QWEN_30B_A3B}


def entry(**changes: Any) -> TextModelEntry:
    return TextModelEntry(source=PathSource(Path("m.gguf")), context_length=8192, **changes)


def chosen(gpus: Mapping[str, int], model: GgufHeader = LLAMA_8B, **changes: Any) -> int:
    own = entry(**changes)
    return with_batch(own, model, context_settings(own, 8192), gpus).batch_size


@pytest.mark.parametrize(
    ("gpus", "size"),
    [
        ([], 512),
        (["cuda:0"], 2048),
        (["cuda:0", "cuda:1"], 2048),
        (["mps"], 512),
        (["vulkan:0"], 512),
        (["rpc:host:50052/0", "cuda:0"], 512),
    ],
)
def test_steps_are_larger_where_that_is_known_to_read_prompts_sooner(
    gpus: list[str], size: int
) -> None:
    assert chosen(dict.fromkeys(gpus, 40 * GIB)) == size


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({"batch_size": 512}, 512),
        ({"batch_size": 4096}, 4096),
        ({"flash_attention": False}, 512),
        ({"gpu_layers": 20}, 2048),
        ({"gpu_layers": 999}, 2048),
    ],
)
def test_settings_decide(changes: dict[str, Any], size: int) -> None:
    assert chosen({"cuda:0": 40 * GIB}, **changes) == size


@pytest.mark.parametrize("name", MODELS)
def test_larger_steps_take_only_memory_that_is_left(name: str) -> None:
    model, own = MODELS[name], entry()
    usual = context_settings(own, 8192)
    num_layers = model.block_count + 1
    all_bytes = sum(layer_sizes(model, cache_shape(usual)))
    found = []
    for free in range(0, all_bytes + 6 * GIB, 97 * MIB):
        settings = with_batch(own, model, usual, {"cuda:0": free})
        reserve = device_reserve(model, settings)
        [plain] = layers_per_device(model, [free], cache_shape(usual))
        [left] = layers_per_device(model, [free], cache_shape(settings), reserve)
        found.append((plain, settings.batch_size))
        if settings.batch_size > 512 and plain == num_layers:
            spare = free - DEVICE_RESERVE_BYTES - all_bytes
            assert left == num_layers and 2 * (reserve - DEVICE_RESERVE_BYTES) <= spare
        assert left >= plain - (0 < plain < num_layers)
        assert settings.batch_size == 512 or left > 0
    sizes_with_all = [size for plain, size in found if plain == num_layers]
    assert sizes_with_all[0] == 512 and sizes_with_all[-1] == 2048
    assert sizes_with_all == sorted(sizes_with_all)
    assert found[0] == (0, 512)
    partial = [size for plain, size in found if 1 < plain < num_layers]
    assert all(size > 512 for size in partial)  # one of these layers is as large as the difference


def test_a_fixed_number_of_layers_is_kept() -> None:
    own = entry(gpu_layers=20)
    for free in range(0, 8 * GIB, 97 * MIB):
        size = chosen({"cuda:0": free}, gpu_layers=20)
        larger = msgspec.structs.replace(context_settings(own, 8192), batch_size=size)
        reserve = device_reserve(LLAMA_8B, larger)
        [left] = layers_per_device(LLAMA_8B, [free], cache_shape(larger), reserve)
        assert size == 512 or left >= 20
    assert size == 2048


# MiB of llama.cpp's compute buffers for 8,192 cells, without allocating: scripts/bench_buffers.
MEASURED = {
    "8B": {512: 124, 1024: 249, 2048: 497, 4096: 994},
    "70B": {512: 240, 1024: 481, 2048: 962, 4096: 1924},
    "30B-A3B": {512: 96, 1024: 192, 2048: 385, 4096: 770},
}


@pytest.mark.parametrize("size", [512, 1024, 2048, 4096])
@pytest.mark.parametrize("name", MEASURED)
def test_buffers_are_expected_about_as_large_as_they_are(name: str, size: int) -> None:
    settings = msgspec.structs.replace(context_settings(entry(), 8192), batch_size=size)
    expected = compute_bytes(MODELS[name], cache_shape(settings), 80) / MIB
    assert MEASURED[name][size] <= expected <= MEASURED[name][size] + 120


def test_a_plan_has_room_for_its_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placing, "free_memory", lambda: {"cuda:0": 0})
    path = tiny_llama(layers=4).write(tmp_path / "tiny.gguf")
    own = TextModelEntry(source=PathSource(path))

    def planned(entry: TextModelEntry) -> TextPlan:
        return plan_text("tiny", entry, path, read_header(path), {CPU: GIB, "cuda:0": 8 * GIB})

    large, small = planned(own), planned(msgspec.structs.replace(own, batch_size=512))
    assert (large.settings.batch_size, small.settings.batch_size) == (2048, 512)
    assert large.gpu_layers == small.gpu_layers == 5 and large.gpus == ["cuda:0"]
    assert large.expected.bytes_on["cuda:0"] > small.expected.bytes_on["cuda:0"]
    on_cpu = planned(msgspec.structs.replace(own, gpu_layers=0))
    assert on_cpu.settings.batch_size == 512 and on_cpu.gpus == []


def test_a_load_that_runs_out_of_memory_is_tried_with_usual_steps_before_fewer_layers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tiny_llama().write(tmp_path / "tiny.gguf")
    own = TextModelEntry(source=PathSource(path), context_length=256)
    monkeypatch.setattr(placing, "free_memory", lambda: {"cuda:0": 8 * GIB})
    tried: list[tuple[int, int]] = []
    real = placing.load_with_layers

    def load(
        entry: TextModelEntry, plan: TextPlan, settings: ContextSettings, layers: int
    ) -> tuple[LlamaContext, Model]:
        tried.append((settings.batch_size, layers))
        if settings.batch_size > 512 or layers > 2:
            raise LoadFailed("out of memory")
        return real(entry, plan, settings, layers)

    monkeypatch.setattr(placing, "load_with_layers", load)
    context, model = place("tiny", own, plan_text("tiny", own, path, read_header(path), {}))
    context.close()
    model.close()
    assert tried == [(2048, 3), (512, 3), (512, 2)]
    assert "trying steps of 512" in caplog.text and context.batch_size == 512


def test_prefixes_outlive_another_choice_on_a_gpu(tmp_path: Path) -> None:
    path = tiny_llama().write(tmp_path / "tiny.gguf")

    def known_by(size: int, *, is_offloaded: bool, **changes: Any) -> list[str]:
        own = TextModelEntry(source=PathSource(path), **changes)
        settings = msgspec.structs.replace(context_settings(own, 256), batch_size=size)
        return identity(own, read_header(path), settings, is_offloaded=is_offloaded)

    assert known_by(512, is_offloaded=True) == known_by(2048, is_offloaded=True)
    assert known_by(512, is_offloaded=False) != known_by(2048, is_offloaded=False)
    fixed = [known_by(size, is_offloaded=True, batch_size=size) for size in (512, 2048)]
    assert fixed[0] != fixed[1]


@pytest.mark.parametrize(
    ("changes", "size", "gpu", "words"),
    [
        ({}, 512, "", "512 tokens"),
        ({}, 512, "mps", "512 tokens"),
        ({"flash_attention": False}, 512, "cuda:0", "512 tokens"),
        ({"batch_size": 64}, 64, "cuda:0", "64 tokens, as batch_size says"),
        ({}, 2048, "cuda:0", "2,048 tokens: a GPU computes, and has memory for them"),
        ({}, 512, "cuda:0", "512 tokens: for larger ones, which are faster on this GPU, "
         "it has no memory"),
    ],
)  # fmt: skip
def test_it_is_said_how_large_steps_are_and_why(
    changes: dict[str, Any], size: int, gpu: str, words: str
) -> None:
    settings = msgspec.structs.replace(context_settings(entry(), 8192), batch_size=size)
    said = batch_in_words(entry(**changes), settings, [gpu] if gpu else [])
    assert said == f"steps of up to {words}"
