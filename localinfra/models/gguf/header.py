"""The content of a GGUF header, as plain values.

Opens no file and checks nothing; only `reader.py` creates a `GgufHeader`.
"""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:  # a known header needs no numpy
    import numpy as np
    import numpy.typing as npt


class BadGguf(Exception):
    """The file can't be used. The message names the file, what is wrong and what to do."""

    def __init__(self, path: str | os.PathLike[str], problem: str):
        super().__init__(f"{os.fspath(path)} {problem}")
        self.problem = problem


class Array(msgspec.Struct, frozen=True):
    """An array of the metadata. `values` is None if there are too many to keep."""

    type: int  # of its elements, as in gguf.md
    length: int
    values: tuple[int | float | str, ...] | None


Metadatum = int | float | bool | str | Array


class Tensor(msgspec.Struct, frozen=True):
    name: str
    shape: tuple[int, ...]  # one to four numbers, the fastest dimension first
    type: int  # ggml_type
    offset: int  # in bytes, from the data_offset of its file
    size_bytes: int

    @property
    def layer(self) -> int | None:
        """7 for `blk.7.ffn_up.weight`; None outside of the blocks."""
        block, _, rest = self.name.partition(".")
        number = rest.partition(".")[0]
        return int(number) if block == "blk" and number.isascii() and number.isdigit() else None


class GgufVocabulary(msgspec.Struct):
    """The long arrays of a vocabulary, needed for the checks and dropped afterwards."""

    tokens: list[bytes] = []
    scores: "npt.NDArray[np.float32] | None" = None
    token_types: "npt.NDArray[np.int32] | None" = None


class GgufHeader(msgspec.Struct, frozen=True):
    """A header llama.cpp can load without crashing, as far as the checks know.

    The properties are llama.cpp's defaults if a key is absent (llama_model_base::load_hparams).
    """

    path: str
    version: int
    metadata: Mapping[str, Metadatum]
    tensors: tuple[Tensor, ...]
    data_offset: int  # where the first tensor begins, in bytes
    size_bytes: int  # of the whole file, or all parts together
    num_parts: int = 1  # files
    types: Mapping[str, int] = {}  # of a projector's values, as in gguf.md: C asserts them

    def number(self, key: str, default: int = 0) -> int:
        """The integer under `<architecture>.<key>`; the largest of an array."""
        value = self.metadata.get(f"{self.architecture}.{key}", default)
        if isinstance(value, Array):
            value = max((int(v) for v in value.values or () if not isinstance(v, str)), default=0)
        return int(value) if isinstance(value, int) else default

    def per_layer(self, key: str, default: int = 0) -> tuple[int, ...]:
        """`<architecture>.<key>` for each block; a file may give one number for all."""
        value = self.metadata.get(f"{self.architecture}.{key}", default)
        if isinstance(value, Array):
            return tuple(int(v) for v in value.values or () if not isinstance(v, str))
        return (value if isinstance(value, int) else default,) * self.block_count

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture", ""))

    @property
    def block_count(self) -> int:
        value = self.metadata.get(f"{self.architecture}.block_count", 0)
        return value if isinstance(value, int) else 0

    @property
    def context_length(self) -> int:
        """Tokens the model was trained for."""
        return self.number("context_length")

    @property
    def embedding_length(self) -> int:
        return self.number("embedding_length")

    @property
    def head_counts(self) -> tuple[int, ...]:
        """Query heads of each block."""
        return self.per_layer("attention.head_count")

    @property
    def head_counts_kv(self) -> tuple[int, ...]:
        """Key and value heads of each block; 0 if a block keeps a recurrent state instead."""
        if f"{self.architecture}.attention.head_count_kv" not in self.metadata:
            return self.head_counts
        return self.per_layer("attention.head_count_kv")

    @property
    def key_length(self) -> int:
        """Numbers in one head's key."""
        return self.number("attention.key_length", self._head_length)

    @property
    def value_length(self) -> int:
        return self.number("attention.value_length", self._head_length)

    @property
    def _head_length(self) -> int:
        heads = self.head_counts[0] if self.head_counts else 0
        return self.embedding_length // heads if heads else 0

    @property
    def vocab_size(self) -> int:
        tokens = self.metadata.get("tokenizer.ggml.tokens")
        return tokens.length if isinstance(tokens, Array) else 0

    @property
    def chat_template(self) -> str | None:
        """Jinja, unchecked text from a stranger."""
        return self._text("tokenizer.chat_template")

    @property
    def tool_use_template(self) -> str | None:
        """Another, for requests with tools. (gguf-py names it after its purpose.)"""
        return self._text("tokenizer.chat_template.tool_use")

    def _text(self, key: str) -> str | None:
        value = self.metadata.get(key)
        return value if isinstance(value, str) else None

    @property
    def tensor_bytes(self) -> int:
        return sum(tensor.size_bytes for tensor in self.tensors)

    @property
    def layer_bytes(self) -> tuple[int, ...]:
        """Weights of each block, in bytes."""
        sizes = [0] * self.block_count
        for tensor in self.tensors:
            if tensor.layer is not None:
                sizes[tensor.layer] += tensor.size_bytes
        return tuple(sizes)

    @property
    def other_bytes(self) -> int:
        """Weights outside of the blocks: embeddings, output, final norm."""
        return sum(tensor.size_bytes for tensor in self.tensors if tensor.layer is None)
