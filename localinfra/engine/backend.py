"""What the engine drives: llama.cpp in `llama/context.py`, a scripted model in the tests.

A slot is the backend's sequence id, under which it keeps KV cells. Only the engine's thread calls
a backend.
"""

from typing import TYPE_CHECKING, Protocol

from localinfra.devices import DeviceLost

if TYPE_CHECKING:  # plans of models need none of it
    import numpy as np
    from numpy.typing import NDArray

    from localinfra.engine.candidates import Candidates
    from localinfra.engine.pictures import PictureRows

# Most rows that pad a step to a `canonical_size`. A backend has room for them in addition to
# `num_cells` and `max_output_rows`.
MOST_PADDING = 16

# Where each slot takes the memory of a state, there are so many besides those that are decoded: a
# few for idle prefixes, and one to move states with. Other idle prefixes go to host memory.
EXTRA_STATES = 4


class DecodeFailed(Exception):
    """The batch could not be computed; the contents of its slots are unknown."""


class DeviceFailed(DecodeFailed, DeviceLost):
    """The batch could not be computed, and no other will be by this device."""


class Batch:
    """The tokens of one step as parallel lists; each token extends one slot by one position.

    Positions count tokens, those of pictures too. A model may have others of its own.
    """

    __slots__ = ("origins", "output_rows", "picture", "positions", "slots", "tokens")

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.positions: list[int] = []
        self.slots: list[int] = []
        self.output_rows: list[int] = []  # indices of the tokens whose logits are wanted
        # For a drafter, by slot: the slot of the same text in the model that verifies, and how many
        # more tokens that has before.
        self.origins: dict[int, tuple[int, int]] = {}
        # Read in place of the first tokens, all of one slot; others only fill the step up.
        self.picture: PictureRows | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def extend(self, slot: int, position: int, tokens: list[int], num_outputs: int) -> None:
        """Appends `tokens` of one slot from `position` on; the last `num_outputs` get logits."""
        self.tokens += tokens
        self.positions += range(position, position + len(tokens))
        self.slots += [slot] * len(tokens)
        self.output_rows += range(len(self.tokens) - num_outputs, len(self.tokens))


class Backend(Protocol):
    """A model with its KV cache."""

    context_length: int  # tokens a single sequence may hold
    num_cells: int  # tokens that all slots together may hold
    num_sequences: int  # slots below this take part in batches; this one saves and restores
    num_vocab: int  # logits of a row
    row_width: int  # numbers of a picture's row
    has_grid_positions: bool  # a picture's rows have positions by its grid (M-RoPE)
    num_slots: int  # slots above that only hold cells shared with others
    batch_size: int  # tokens a batch may have, and rows of a picture that see each other
    max_output_rows: int  # logits rows a batch may ask for
    max_threads: int
    max_saved: int  # positions of a slot that `save` can hold at once
    needs_states: bool  # a slot goes on from its last position, or from a saved state
    shares_cells: bool  # slots hold the same cells after `copy`, else each has those of its state
    max_rollback: int  # tokens that can be dropped from a slot's end after they were computed
    # A step of up to this many rows gives each row the same bits whatever the other rows are, if
    # its numbers of rows and of output rows are canonical sizes. 0 if no such limit is known.
    canonical_rows: int
    # Tokens after the prompt get the same bits in separate steps of up to this many rows, where
    # padding steps would be slow. 0 if they are computed as the prompt is.
    canonical_decode_rows: int
    # Both hold only for steps of a single sequence, and its prompt in chunks of `canonical_rows`.
    is_canonical_alone: bool
    # A GPU computes all of it: `decode` may return before the step is done, threads matter little,
    # and steps that are alike are faster.
    is_on_device: bool
    idle_cells_slow_steps: bool  # every step reads all cells up to the last used one

    def set_threads(self, num_threads: int) -> None:
        """Sets how many threads, 1 to `max_threads`, compute the next steps."""

    def canonical_size(self, num_rows: int) -> int:
        """The smallest canonical number of rows that is at least `num_rows`; at most
        `canonical_rows` if `num_rows` is."""

    def canonical_threads(self) -> int:
        """The most threads that may compute a step of one row for it to get the same bits."""

    def stays_ordered(self, batch: Batch, slots: set[int]) -> bool:
        """Whether each of these slots will have its cells in the order of positions once the batch
        is decoded: sums over cells in another order round differently."""

    def rest(self) -> None:
        """Releases idle compute threads; call when nothing is to be computed for a while. Before
        the first step it may read the weights, which takes as long as one."""

    def decode(self, batch: Batch) -> None:
        """Computes the batch without holding the interpreter's lock, or begins to.

        Raises DecodeFailed.
        """

    def wait(self) -> None:
        """Waits for the batch that was decoded last, likewise; before `logits` and `candidates`."""

    def logits(self, row: int) -> "NDArray[np.float32]":
        """The logits [num_vocab] of batch index `row`: a view that may be edited, valid until the
        next decode. Where there are candidates, they come from the device only now."""

    def candidates(self, row: int) -> "Candidates | None":
        """The best tokens of batch index `row`, valid until the next decode; None if the device
        doesn't choose them. `logits` has all."""

    def copy(self, source: int, target: int, start: int, stop: int) -> None:
        """Shares the cells of positions [start, stop) of `source` with `target`."""

    def drop(self, slot: int, start: int, stop: int | None = None) -> None:
        """Removes positions [start, stop) from the slot; up to its end if `stop` is None."""

    def save(self, slot: int) -> "NDArray[np.uint8]":
        """A copy of the slot's contents, for `restore`; the slot is at most `num_sequences`."""

    def restore(self, slot: int, data: "NDArray[np.uint8]") -> bool:
        """Restores a copy made by `save` to an empty slot, at most `num_sequences`. Returns False
        if there is no room."""

    def save_state(self, slot: int) -> "NDArray[np.uint8]":
        """A copy of what the slot needs to go on besides cells, which `copy` leaves as it is.
        Raises MemoryError."""

    def restore_state(self, slot: int, data: "NDArray[np.uint8]", position: int) -> bool:
        """Lets a slot with the cells of all tokens before `position` go on from there. Returns
        False if it can't."""

    def accepts(self, data: "NDArray[np.uint8]", start: int, stop: int) -> bool:
        """Whether data from elsewhere is safe to `restore`: formed as `save` forms the contents of
        a slot with the positions [start, stop). If these are equal: to `restore_state`."""

    def clear(self) -> None:
        """Empties every slot."""

    def is_end(self, token: int) -> bool:
        """Whether the token ends a generation."""

    def close(self) -> None: ...


class DraftBackend(Backend, Protocol):
    """A backend that drafts for another one, perhaps with hidden states of that one.

    `rereads_guesses`: guesses are computed again as tokens, more exactly.
    """

    rereads_guesses: bool

    def first_readable(self, slot: int) -> int | None:
        """From which position on it can read the tokens in a slot of the model that verifies, and
        the one after them; None if it can read none now."""
