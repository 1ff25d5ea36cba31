"""What a picture becomes for a model: tokens, and rows that it reads in the place of tokens. Plain
values, between who encodes and who makes prompts."""

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class EncodingFailed(Exception):
    """A picture did not become rows; the message quotes who encodes."""


class PicturePart(msgspec.Struct, frozen=True, eq=False):
    """Either text or rows: a picture may be several tiles, with tokens around them."""

    tokens: list[int] = []
    rows: "NDArray[np.float32] | None" = None  # [num_tokens, width], contiguous
    # height and width in tokens, for models whose positions are places in the picture (M-RoPE)
    grid: tuple[int, int] | None = None


class PartSize(msgspec.Struct, frozen=True):
    num_tokens: int
    is_rows: bool
