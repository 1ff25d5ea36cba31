"""What the engine drives: llama.cpp in `llama/context.py`, a scripted model in the tests.

A slot is the backend's sequence id: the name under which KV cells are kept. Only the engine's
thread calls a backend.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

# At most so many rows only fill a step up to a `canonical_size`. A backend has room for them beyond
# its `num_cells` and `max_output_rows`.
MOST_PADDING = 16


class DecodeFailed(Exception):
    """The batch could not be computed; what its slots hold is no longer known."""


class Batch:
    """The tokens of one step, as parallel lists; each token extends one slot at one position."""

    __slots__ = ("output_rows", "positions", "slots", "tokens")

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.positions: list[int] = []
        self.slots: list[int] = []
        self.output_rows: list[int] = []  # indices of the tokens whose logits are wanted

    def __len__(self) -> int:
        return len(self.tokens)

    def extend(self, slot: int, position: int, tokens: list[int], num_outputs: int) -> None:
        """Appends `tokens` of one slot from `position` on; the last `num_outputs` give logits."""
        self.tokens += tokens
        self.positions += range(position, position + len(tokens))
        self.slots += [slot] * len(tokens)
        self.output_rows += range(len(self.tokens) - num_outputs, len(self.tokens))


class Backend(Protocol):
    """A model with its KV cache.

    `can_share_prefixes` says whether a part of a slot can be copied and removed; recurrent,
    hybrid and sliding-window memories can't.
    """

    context_length: int  # tokens a single sequence may hold
    num_cells: int  # tokens that all slots together may hold
    num_sequences: int  # slots 0 to this may take part in batches; the next one saves and restores
    num_slots: int  # slots from there to this only hold cells shared with others
    batch_size: int  # tokens a batch may have
    max_output_rows: int  # logits rows a batch may ask for
    max_threads: int
    can_share_prefixes: bool
    # A step of up to this many rows gives each row the same bits, whoever is beside it, if their
    # number, and that of its output rows, is a `canonical_size`; 0 where no such thing is known.
    canonical_rows: int
    # Tokens after the prompt get the same bits in steps of their own of up to this many rows, where
    # filling steps up would be slow; 0 where they are computed as the prompt is.
    canonical_decode_rows: int
    # Both hold only of steps of one sequence, prompts in chunks of just `canonical_rows`.
    is_canonical_alone: bool
    idle_cells_slow_steps: bool  # every step looks at all cells up to the last used one

    def set_threads(self, num_threads: int) -> None:
        """How many threads, 1 to `max_threads`, compute the next steps."""

    def canonical_size(self, num_rows: int) -> int:
        """The least number of rows, from `num_rows` on, that gives each of them the bits it gets
        beside others; at most `canonical_rows` where that is so of `num_rows`."""

    def canonical_threads(self) -> int:
        """How many threads at most may compute a step of one row, for it to get the same bits."""

    def stays_ordered(self, batch: Batch, slots: set[int]) -> bool:
        """Whether the cells of each of these slots will lie in the order of its positions, once
        the batch is decoded: sums over cells in another order are rounded otherwise."""

    def rest(self) -> None:
        """Nothing is to be computed for a while: gives back threads that others could use."""

    def decode(self, batch: Batch) -> None:
        """Computes the batch; blocks without holding the interpreter until its logits are there.

        Raises DecodeFailed.
        """

    def logits(self, row: int) -> NDArray[np.float32]:
        """The logits [num_vocab] of batch index `row`: a view that may be edited, and is gone at
        the next decode."""

    def copy(self, source: int, target: int, start: int, stop: int) -> None:
        """Shares the cells of positions [start, stop) of `source` with `target`."""

    def drop(self, slot: int, start: int, stop: int | None = None) -> None:
        """Removes positions [start, stop) (to the end where None) from the slot."""

    def save(self, slot: int) -> NDArray[np.uint8]:
        """A copy of what the slot holds, for `restore`; the slot is at most `num_sequences`."""

    def restore(self, slot: int, data: NDArray[np.uint8]) -> bool:
        """Puts into an empty slot, at most `num_sequences`, what `save` gave; False if it can't."""

    def clear(self) -> None:
        """Empties every slot."""

    def is_end(self, token: int) -> bool:
        """Whether the token ends a generation."""

    def close(self) -> None: ...
