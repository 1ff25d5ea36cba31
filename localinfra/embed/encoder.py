"""What the worker drives: token ids in, rows of numbers out. Plain values, no library.

An embedder's row is a text's vector, a cross-encoder's the scores of a pair of texts.
"""

from collections.abc import Sequence
from typing import Literal, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]  # [num_texts, width]
Kind = Literal["embedding", "rerank"]


class Tokens(msgspec.Struct, frozen=True):
    """A text, or a pair of texts, as the model reads it: special tokens included."""

    ids: list[int]
    types: list[int] | None = None  # which of a pair each token is of, for models that want it
    num_prompt: int = 0  # leading tokens that some models leave out of the vector

    def __len__(self) -> int:
        return len(self.ids)


class Encoder(Protocol):
    """`encode` may be called by as many threads at once as there are lanes."""

    name: str  # of the way it computes, for logs
    width: int  # of a row
    batch_tokens: int  # padded tokens that are computed fastest in one batch
    num_lanes: int  # batches that are computed fastest at the same time

    def encode(self, batch: Sequence[Tokens], *, is_alone: bool) -> Rows:
        """The rows in the order of the batch, as the model gives them. `is_alone`: no other batch
        is being computed, so that it may use all threads."""

    def close(self) -> None: ...


class Description(msgspec.Struct, frozen=True):
    """What an encoder's files say of it."""

    kind: Kind
    width: int  # of a row
    max_tokens: int  # of a text, special tokens included
    pad_id: int
    takes_types: bool  # token types, which tell a pair's texts apart
    is_left_padded: bool = False
    prompts: dict[str, str] = {}  # what texts begin with, by name
    default_prompt: str = ""  # for those of which nothing is said
    needs_prompt_length: bool = False  # its vectors leave the prompt's tokens out


def arrays_of(batch: Sequence[Tokens], described: Description) -> dict[str, NDArray[np.int64]]:
    """The inputs of a network, each [num_texts, longest]: ids, the mask of those that are text,
    and token types where it takes them."""
    longest = max(map(len, batch))
    ids = np.full((len(batch), longest), described.pad_id, np.int64)
    mask, types = np.zeros_like(ids), np.zeros_like(ids)
    for row, tokens in enumerate(batch):
        size = len(tokens)
        at = slice(longest - size, None) if described.is_left_padded else slice(0, size)
        ids[row, at] = tokens.ids
        mask[row, at] = 1
        if tokens.types:
            types[row, at] = tokens.types
    arrays = {"input_ids": ids, "attention_mask": mask}
    return {**arrays, "token_type_ids": types} if described.takes_types else arrays


def unit_length(rows: Rows) -> Rows:
    """A row of zeros stays as it is."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled: Rows = rows / np.maximum(norms, np.finfo(np.float32).tiny)
    return scaled
