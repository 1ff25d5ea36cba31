"""The encoders that the worker runs: token ids in, rows of numbers out. Plain values, no library.

A row is a text's vector (embedder), or the scores of a pair of texts (cross-encoder).
"""

from collections.abc import Sequence
from typing import Literal, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]  # [num_texts, width]
Kind = Literal["embedding", "rerank"]


class Tokens(msgspec.Struct, frozen=True):
    """A text or a pair of texts as model input, special tokens included."""

    ids: list[int]
    types: list[int] | None = None  # which of a pair each token belongs to, if the model takes it
    num_prompt: int = 0  # leading tokens that some models exclude from pooling

    def __len__(self) -> int:
        return len(self.ids)


class Encoder(Protocol):
    """`encode` may be called by up to `num_lanes` threads at once."""

    name: str  # of library and precision, for logs
    width: int  # of a row
    batch_tokens: int  # padded tokens per batch for the best speed
    num_lanes: int  # concurrent batches for the best speed

    def encode(self, batch: Sequence[Tokens], *, is_alone: bool) -> Rows:
        """Returns the model's rows in the order of the batch. `is_alone`: no other batch is being
        computed, so it may use all threads."""

    def close(self) -> None: ...


class Description(msgspec.Struct, frozen=True):
    """An encoder's properties, from its files."""

    kind: Kind
    width: int  # of a row
    max_tokens: int  # of a text, special tokens included
    pad_id: int
    takes_types: bool  # token types, which distinguish the texts of a pair
    is_left_padded: bool = False
    prompts: dict[str, str] = {}  # prefixes of texts, by name
    default_prompt: str = ""  # if a request names none
    needs_prompt_length: bool = False  # pooling excludes the prompt's tokens


def arrays_of(batch: Sequence[Tokens], described: Description) -> dict[str, NDArray[np.int64]]:
    """A network's inputs, each [num_texts, longest]: ids, attention mask, and token types if it
    takes them."""
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
    """Scales rows to length 1; a row of zeros stays as it is."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled: Rows = rows / np.maximum(norms, np.finfo(np.float32).tiny)
    return scaled
