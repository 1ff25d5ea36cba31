"""How a model's kernels round, found by running them: in which steps a row gets the same bits
whatever the other rows are."""

import functools
from collections.abc import Callable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from localinfra.llama.settings import Rounding

# Matrix products round by the type of the weights: some alike for any number of rows; some
# differently for a single row; repacked K-quants (ggml-cpu/repack.cpp) compute rows in fours and
# the rest one by one, and others differ below eight rows. For each kind: the least number of rows
# (above two, rows must be a multiple of it), and the step sizes whose results are compared.
ROUNDINGS = ((1, (1, 2, 7, 18)), (2, (2, 7, 18)), (8, (8, 24)), (16, (16, 48)))
FEW_ROWS = (1, 2, 3)  # usually alike too; one row takes a third of the time of eight


def find_rounding(most_rows: int, logits_of: Callable[[int], NDArray[np.float32]]) -> Rounding:
    """`logits_of` computes the same tokens in steps of so many rows, at most `most_rows`: [any
    number, num_vocab]."""
    logits_of = functools.cache(logits_of)

    def are_alike(sizes: tuple[int, ...]) -> bool:
        pairs = pairwise(min(size, most_rows) for size in sizes)
        return all(have_same_bits(logits_of(few), logits_of(more)) for few, more in pairs)

    for least, sizes in ROUNDINGS:
        if least <= most_rows and are_alike(sizes):
            break
    else:
        return Rounding()
    if least <= 2:
        return Rounding(most_rows, 0, least)
    decode_rows = FEW_ROWS[-1] if are_alike(FEW_ROWS) else 1
    return Rounding(most_rows - most_rows % least, decode_rows, least)


def possible_roundings(most_rows: int) -> list[Rounding]:
    """All that `find_rounding` may return."""
    found = [Rounding()]
    for least in (least for least, _ in ROUNDINGS if least <= most_rows):
        if least <= 2:
            found.append(Rounding(most_rows, 0, least))
        else:
            rows = most_rows - most_rows % least
            found += [Rounding(rows, decode_rows, least) for decode_rows in (1, FEW_ROWS[-1])]
    return found


def have_same_bits(first: NDArray[np.float32], second: NDArray[np.float32]) -> bool:
    """Whether the rows [num_rows, num_vocab] that both have are equal."""
    num_rows = min(len(first), len(second))
    return np.array_equal(first[:num_rows].view(np.uint32), second[:num_rows].view(np.uint32))
