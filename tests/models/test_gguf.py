"""The content of a header, and the message for each way a file can be wrong."""

import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from models.tiny_gguf import (
    ARRAY,
    BOOL,
    F32,
    I32,
    STRING,
    U16,
    U32,
    TinyModel,
    Value,
    spm_vocabulary,
    tiny_gemma3,
    tiny_llama,
    tiny_mamba,
    write_parts,
)
from models.tiny_hybrids import tiny_lfm2

from localinfra.models.gguf.reader import Array, BadGguf, read_header


def problem(path: Path) -> str:
    with pytest.raises(BadGguf) as caught:
        read_header(path)
    assert str(caught.value).startswith(str(path))
    return caught.value.problem


def refusal(
    tmp_path: Path, change: Callable[[TinyModel], object], model: TinyModel | None = None
) -> str:
    """Why a tiny model is refused after `change`."""
    model = model or tiny_llama()
    change(model)
    return problem(model.write(tmp_path / "model.gguf"))


def test_a_header_tells_what_the_model_is(tmp_path: Path) -> None:
    model = tiny_llama()
    header = read_header(model.write(tmp_path / "model.gguf"))
    assert header.architecture == "llama"
    assert (header.block_count, header.context_length, header.embedding_length) == (2, 512, 32)
    assert (header.head_counts, header.head_counts_kv) == ((4, 4), (2, 2))
    assert (header.key_length, header.value_length, header.vocab_size) == (8, 8, 269)
    assert header.metadata["general.name"] == "tiny llama"
    assert header.metadata["tokenizer.ggml.tokens"] == Array(STRING, 269, None)
    assert header.tensor_bytes == sum(len(tensor.data) for tensor in model.tensors)
    assert sum(header.layer_bytes) + header.other_bytes == header.tensor_bytes
    assert header.other_bytes == 4 * 32 * (269 + 1)
    assert header.size_bytes == (tmp_path / "model.gguf").stat().st_size


@pytest.mark.parametrize("make", [tiny_llama, tiny_gemma3, tiny_mamba, tiny_lfm2])
def test_tensors_lie_where_the_header_says(make: Callable[[], TinyModel], tmp_path: Path) -> None:
    model = make()
    header = read_header(model.write(tmp_path / "model.gguf"))
    raw = (tmp_path / "model.gguf").read_bytes()
    for tensor, written in zip(header.tensors, model.tensors, strict=True):
        start = header.data_offset + tensor.offset
        assert raw[start : start + tensor.size_bytes] == written.data
        assert (tensor.name, tensor.shape) == (written.name, written.shape)


def test_a_number_may_be_given_for_each_layer(tmp_path: Path) -> None:
    model = tiny_llama()
    model.metadata["llama.attention.head_count_kv"] = Value(ARRAY, [2, 1], I32)
    header = read_header(model.write(tmp_path / "model.gguf"))
    assert header.head_counts_kv == (2, 1)
    assert header.number("attention.head_count_kv") == 2


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>", "is a web page"),
        (b"\n  <html>", "is a web page"),
        (b'{"error": "gated"}', "is JSON"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:", "git lfs pull"),
        (struct.pack("<Q", 99) + b'{"__metadata__"', "is a safetensors file"),
        (b"PK\x03\x04rest", "zip archive"),
        (b"\x80\x02}q", "pickle"),
        (bytes(64), "begins with zeros"),
        (b"GGUF", "is truncated"),
        (b"GGUF" + struct.pack(">IQQ", 3, 1, 1), "big-endian"),
        (b"GGUF" + struct.pack("<IQQ", 1, 1, 1), "version 1"),
        (b"GGUF" + struct.pack("<IQQ", 4, 1, 1), "version 4"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1), "is truncated"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 1 << 40), "metadata keys"),
        (b"what", "is not a GGUF file"),
    ],
)
def test_other_file_types_are_recognized(tmp_path: Path, start: bytes, words: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(start)
    assert words in problem(path)


def test_a_path_without_a_file_is_reported(tmp_path: Path) -> None:
    assert "No such file" in problem(tmp_path / "absent.gguf")
    assert "is not a file" in problem(tmp_path)


def test_a_file_truncated_anywhere_is_reported(tmp_path: Path) -> None:
    whole = tiny_llama().to_bytes()
    path = tmp_path / "model.gguf"
    for size in [*range(24, 400), *range(400, len(whole), 997), len(whole) - 1]:
        path.write_bytes(whole[:size])
        assert "is truncated" in problem(path)
        assert f"the file has {size:,}" in problem(path)


def test_a_truncated_tensor_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(tiny_llama().to_bytes()[:-1])
    assert problem(path).startswith("is truncated: tensor blk.1.ffn_down.weight ends at byte")


def set_key(key: str, value: Value) -> Callable[[TinyModel], object]:
    return lambda model: model.metadata.update({key: value})


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("general.alignment", Value(U32, 0), "general.alignment"),
        ("general.alignment", Value(U32, 48), "general.alignment"),
        ("general.architecture", Value(U32, 1), "which architecture"),
        ("general.architecture", Value(STRING, "bert"), "makes embeddings"),
        ("general.architecture", Value(STRING, "t5"), "encoder"),
        ("general.architecture", Value(STRING, b"\xff"), "not UTF-8"),
        ("general.type", Value(STRING, "adapter"), "LoRA adapter"),
        ("split.count", Value(U32, 3), "name must end in -00001-of-00003.gguf"),
        ("split.count", Value(U32, 0), "one of 0 parts"),
        ("split.no", Value(U32, 0), "part number"),
        ("split.no", Value(U16, 1), "one of 1 parts"),
        ("llama.block_count", Value(U32, 0), "block_count = 0"),
        ("llama.block_count", Value(U32, 3), "claims 3 layers but holds 2"),
        ("llama.context_length", Value(U32, 0), "context_length = 0"),
        ("llama.embedding_length", Value(U32, 0), "embedding_length = 0"),
        ("llama.attention.head_count", Value(U32, 0), "attention heads"),
        ("llama.attention.head_count_kv", Value(U32, 3), "not a multiple of its 3"),
        ("llama.attention.value_length", Value(U32, 4), "values of 4"),
        ("llama.rope.dimension_count", Value(U32, 7), "rope.dimension_count"),
        ("llama.rope.scaling.type", Value(STRING, "spiral"), "rope.scaling.type"),
        ("llama.rope.freq_base", Value(F32, float("nan")), "freq_base = nan"),
        ("llama.attention.layer_norm_rms_epsilon", Value(F32, -1.0), "epsilon = -1.0"),
        ("llama.expert_count", Value(U32, 4), "4 experts of which 0"),
        ("llama.expert_used_count", Value(U32, 4), "0 experts of which 4"),
        ("llama.nextn_predict_layers", Value(U32, 2), "prediction layers"),
        ("tokenizer.ggml.model", Value(STRING, "none"), "tokenizer 'none'"),
        ("tokenizer.ggml.model", Value(STRING, "rwkv"), "no token for the byte 0x00"),
        ("tokenizer.ggml.tokens", Value(ARRAY, [], STRING), "no vocabulary"),
        ("tokenizer.ggml.tokens", Value(ARRAY, ["a", "b", "a"], STRING), "'a' twice"),
        ("tokenizer.ggml.token_type", Value(ARRAY, [1], I32), "1 token_type for 269"),
        ("tokenizer.chat_template", Value(STRING, "a\0b"), "NUL"),
        ("x", Value(ARRAY, [], ARRAY), "unknown type 9"),
    ],
)
def test_values_that_would_abort_llama_cpp_are_refused(
    tmp_path: Path, key: str, value: Value, words: str
) -> None:
    assert words in refusal(tmp_path, set_key(key, value))


def test_a_prompt_can_only_begin_with_a_token_that_exists(tmp_path: Path) -> None:
    def without_eos(model: TinyModel) -> None:
        model.metadata["tokenizer.ggml.add_bos_token"] = Value(BOOL, True)
        model.metadata["tokenizer.ggml.tokens"] = Value(ARRAY, ["<0x0A>"], STRING)

    assert "no token for the byte" in refusal(tmp_path, without_eos, tiny_llama(spm_vocabulary))
    few = Value(ARRAY, ["a", "b"], STRING)

    def two_tokens(model: TinyModel) -> None:
        model.metadata["tokenizer.ggml.tokens"] = few
        model.metadata["tokenizer.ggml.bos_token_id"] = Value(U32, 7)

    assert "adds a bos token" in refusal(tmp_path, two_tokens)


def test_tokens_are_compared_as_c_reads_them(tmp_path: Path) -> None:
    def same_before_nul(model: TinyModel) -> None:
        words: list[str] = model.metadata["tokenizer.ggml.tokens"].value  # type: ignore[assignment]
        words[3:5] = ["same\0one", "same\0two"]

    assert "'same' twice" in refusal(tmp_path, same_before_nul)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": "output_norm.weight"}, "two tensors named"),
        ({"name": "x" * 64}, "64 bytes long"),
        ({"shape": ()}, "0 dimensions"),
        ({"shape": (32, 0)}, "the shape (32, 0)"),
        ({"shape": (1 << 40, 1 << 40)}, "the shape"),
        ({"type": 2, "shape": (31, 2)}, "the shape"),
        ({"type": 4}, "ggml type 4"),
        ({"offset": 32}, "expected 0"),
        ({"type": 28, "shape": (16, 269)}, "stores tensor token_embd.weight as f64"),
    ],
)
def test_tensors_that_would_abort_llama_cpp_are_refused(
    tmp_path: Path, fields: dict[str, object], words: str
) -> None:
    def change(model: TinyModel) -> None:
        for name, value in fields.items():
            setattr(model.tensors[0], name, value)

    assert words in refusal(tmp_path, change)


def test_a_norm_in_half_precision_is_refused(tmp_path: Path) -> None:
    def halve(model: TinyModel) -> None:
        model.tensors[1].type, model.tensors[1].data = 1, bytes(64)

    assert "in a type other than f32" in refusal(tmp_path, halve)


def test_a_large_vocabulary_is_read_quickly(tmp_path: Path) -> None:
    """262,144 tokens took 0.1 s alone on two EPYC cores; the bound allows for a busy machine."""
    model = tiny_llama()
    words = [f"token {number}" for number in range(262_144)]
    model.metadata["tokenizer.ggml.tokens"] = Value(ARRAY, words, STRING)
    model.metadata.pop("tokenizer.ggml.token_type")
    path = model.write(tmp_path / "model.gguf")
    started = time.thread_time()
    assert read_header(path).vocab_size == 262_144
    assert time.thread_time() - started < 2


def test_a_header_longer_than_the_first_read_is_read_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_llama().write(tmp_path / "model.gguf")
    whole = read_header(path)
    for size in (8, 30, 1000, 5000):
        monkeypatch.setattr("localinfra.models.gguf.reader.FIRST_READ_BYTES", size)
        assert read_header(path) == whole


def test_a_model_in_parts_is_read_as_one(tmp_path: Path) -> None:
    model = tiny_llama()
    whole = read_header(model.write(tmp_path / "model.gguf"))
    num_tensors = len(model.tensors)
    for sizes in ([0, num_tensors], [2, 3, num_tensors - 5]):
        first, *others = write_parts(model, tmp_path, sizes)
        header = read_header(first)
        assert [tensor.name for tensor in header.tensors] == [one.name for one in whole.tensors]
        assert header.layer_bytes == whole.layer_bytes and header.num_parts == len(sizes)
        assert header.size_bytes == sum(path.stat().st_size for path in (first, *others))


def test_a_model_in_parts_needs_all_of_them(tmp_path: Path) -> None:
    model = tiny_llama()
    first, second, third = write_parts(model, tmp_path, [2, 3, len(model.tensors) - 5])
    assert "give the first one, …-00001-of-00003.gguf" in problem(second)
    data = third.read_bytes()
    wrong: dict[bytes, str] = {
        b"": "is empty",
        data[:-1]: "is truncated",
        second.read_bytes(): "is not part 3 of 3",
        data.replace(b"split.no", b"split.on"): "is not part 3 of 3",
    }
    for content, words in wrong.items():
        third.write_bytes(content)
        with pytest.raises(BadGguf, match=words) as caught:
            read_header(first)
        assert str(caught.value).startswith(str(third))
    third.unlink()
    with pytest.raises(BadGguf, match="can't be read"):
        read_header(first)
    write_parts(model, tmp_path, [2, 3, len(model.tensors) - 4])  # announces one more
    assert "tensors" in problem(first)
