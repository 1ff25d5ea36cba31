"""Pictures in a prompt: rows that a model reads in the place of tokens. To the engine, a piece of a
sound is a picture too. Pure: what makes them is in `llama/`, and `runs.py` knows how they stand in
lists of tokens.
"""

import functools
import hashlib
import struct
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from localinfra.engine.runs import FIRST
from localinfra.errors import EngineFailed


class Picture(msgspec.Struct, frozen=True, eq=False, dict=True):
    """Rows of one picture or sound, as a projector gives them.

    Raises EngineFailed if they are not numbers that a model can read: the projector's fault.
    """

    digest: bytes  # of its pixels, its projector and settings: equal digests are equal rows
    rows: NDArray[np.float32]  # [num_tokens, width], contiguous
    grid: tuple[int, int] | None = None  # height and width in tokens; None: one row after the other
    is_causal: bool = True  # False: its rows see each other, and are computed in one step
    is_sound: bool = False  # for who counts

    def __post_init__(self) -> None:
        rows = self.rows
        if rows.ndim != 2 or not rows.size or rows.dtype != np.float32:
            raise EngineFailed(f"A picture became {rows.dtype} rows of shape {rows.shape}.")
        if not rows.flags.c_contiguous or not np.isfinite(rows).all():
            raise EngineFailed("A picture's rows are not finite; the projector may be damaged.")
        if self.grid and self.grid[0] * self.grid[1] != len(rows):
            raise EngineFailed(f"A picture of {self.grid} tokens became {len(rows)} rows.")

    @property
    def num_tokens(self) -> int:
        return len(self.rows)

    @property
    def num_positions(self) -> int:
        """By how much the position of what follows grows (`mtmd_image_tokens_get_n_pos`)."""
        return max(self.grid) if self.grid else self.num_tokens

    @functools.cached_property
    def tokens(self) -> list[int]:
        """Its pseudo-tokens, one for each row, -2**31 to -1."""
        height, width = self.grid or (0, 0)
        head = struct.pack("<III?", self.num_tokens, height, width, self.is_causal)
        data = hashlib.shake_128(head + self.digest).digest(4 * self.num_tokens)
        numbers = np.frombuffer(data, "<u4").astype(np.int64) & (-FIRST - 1)
        tokens: list[int] = (-1 - numbers).tolist()
        return [tokens[0] + FIRST, *tokens[1:]]


class Placed(NamedTuple):
    """A picture in a prompt, which has its pseudo-tokens from index `at` on."""

    at: int
    picture: Picture

    @property
    def end(self) -> int:
        return self.at + self.picture.num_tokens


class PictureRows(NamedTuple):
    """Rows [start, stop) of a picture, which are a step of their own."""

    picture: Picture
    start: int
    stop: int
