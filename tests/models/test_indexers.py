"""Headers of models with other memories that would end the process are refused, and only those."""

from collections.abc import Callable
from pathlib import Path

import pytest
from models.tiny_gguf import ARRAY, U32, TinyModel, Value
from models.tiny_latent import tiny_deepseek2
from models.tiny_others import (
    OTHERS,
    tiny_deepseek4,
    tiny_deepseek32,
    tiny_dots3note,
    tiny_glm5_next,
    tiny_minimax_m3,
    tiny_plamo2,
    tiny_qwen4exp,
)

from localinfra.engine.backend import Batch
from localinfra.llama.context import LlamaContext
from localinfra.llama.model import Model, ModelSettings
from localinfra.llama.settings import ContextSettings
from localinfra.models.gguf.indexers import MOST_ITERATIONS
from localinfra.models.gguf.reader import BadGguf, read_header


@pytest.mark.parametrize("make", [*OTHERS, tiny_plamo2])
def test_the_real_ones_are_read(tmp_path: Path, make: Callable[[], TinyModel]) -> None:
    read_header(make().write(tmp_path / "tiny.gguf"))


@pytest.mark.parametrize(
    ("make", "key", "value", "words"),
    [
        (tiny_deepseek32, "attention.indexer.key_length", 32, "no multiple of 64"),
        (tiny_deepseek4, "attention.indexer.key_length", 1, "no multiple of 64"),
        (tiny_dots3note, "attention.indexer.types", [0, 1], "no indexer in layer 0"),
        (tiny_dots3note, "attention.sliding_window_pattern", [1, 0], "no indexer in layer 1"),
        (tiny_dots3note, "attention.sliding_window_pattern", [1, 1], "no layer that looks at all"),
        (tiny_glm5_next, "attention.indexer.types", [0, 1], "no indexer in layer 0"),
        (tiny_glm5_next, "attention.indexer.kpool", 1, "in pools of 1"),
        (tiny_glm5_next, "attention.indexer.kpool", 3, "in pools of 3"),
        (tiny_glm5_next, "hyper_connection.count", 5, "5 residual streams"),
        (tiny_qwen4exp, "attention.compress_ratios", [65, 65], "blocks of 65 tokens"),
        (tiny_qwen4exp, "ple.ngram_size", 2, "2 tables of 8 numbers"),
        (tiny_minimax_m3, "attention.indexer.block_size", 0, "blocks of 0 tokens"),
        (tiny_plamo2, "ssm.group_count", 1, "not 0"),
        (tiny_deepseek4, "attention.value_length", 16, "keys of 32 numbers and values of 16"),
        (tiny_deepseek4, "expert_gating_func", 0, "scores experts by a function 0"),
        (tiny_dots3note, "expert_gating_func", 5, "scores experts by a function 5"),
        (tiny_qwen4exp, "expert_gating_func", 77, "scores experts by a function 77"),
        (tiny_dots3note, "attention.key_length", 32, "keys of 32 numbers, not 32 and 16"),
        (tiny_dots3note, "attention.key_length_swa", 56, "keys of 56 numbers, not 32 and 16"),
        (tiny_glm5_next, "attention.key_length", 48, "keys of 48 numbers, not 32 and 0"),
        (tiny_glm5_next, "hyper_connection.sinkhorn_iterations", 33, "in 33 iterations"),
        (tiny_deepseek4, "hyper_connection.sinkhorn_iterations", 0, "in 0 iterations"),
        (tiny_deepseek4, "hyper_connection.sinkhorn_iterations", 999, "in 999 iterations"),
        (tiny_deepseek2, "attention.kv_lora_rank", 8, "keys of .* numbers, not 8 and"),
        (tiny_qwen4exp, "rope.dimension_sections", [0, 0, 0, 4], "rotates parts"),
        (tiny_qwen4exp, "rope.dimension_sections", [8, 4, 4, 99], "rotates parts"),
    ],
)
def test_what_llama_cpp_asserts_is_checked_before(
    tmp_path: Path,
    make: Callable[[], TinyModel],
    key: str,
    value: int | list[int],
    words: str,
) -> None:
    tiny = make()
    changed = Value(ARRAY, value, U32) if isinstance(value, list) else Value(U32, value)
    name = f"{tiny.metadata['general.architecture'].value}.{key}"
    tiny.metadata[name] = changed
    with pytest.raises(BadGguf, match=words):
        read_header(tiny.write(tmp_path / "tiny.gguf"))


@pytest.mark.parametrize("make", [tiny_deepseek4, tiny_glm5_next])
def test_as_many_iterations_as_are_accepted_fit_the_graph(
    tmp_path: Path, make: Callable[[], TinyModel]
) -> None:
    tiny = make()
    architecture = tiny.metadata["general.architecture"].value
    name = f"{architecture}.hyper_connection.sinkhorn_iterations"
    tiny.metadata[name] = Value(U32, MOST_ITERATIONS)
    path = tiny.write(tmp_path / "tiny.gguf")
    read_header(path)
    settings = ContextSettings(
        context_length=64, num_cells=256, num_sequences=1, batch_size=64, threads=1, kv_type="f16"
    )
    context = LlamaContext(Model(path, ModelSettings()), settings)
    batch = Batch()
    batch.extend(0, 0, [*range(40, 90)], 1)
    context.decode(batch)
    context.close()
