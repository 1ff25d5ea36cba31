"""Runs of tokens, in which a picture is a run of pseudo-tokens: where they differ, and where to cut
them. Pure.

Pseudo-tokens are negative numbers made of a picture's content, so prefixes with pictures are
compared, shared and kept as those of texts are. A picture is one thing, though. What is shared ends
at a border, before or after a whole picture: rows that see each other are computed together or not
at all, and where all rows of a picture have one position, cells can't be cut between them.
"""

from collections.abc import Sequence

# A pseudo-token below this begins a picture, others continue it.
FIRST = -(1 << 30)

# So many pseudo-tokens tell runs apart in the tree: of 30 bits each, which no chance makes equal.
NUM_TELLING = 4


def common_prefix(left: Sequence[int], right: Sequence[int], start: int = 0) -> int:
    """The length of the longest common prefix, given that the first `start` tokens are equal.

    A binary search over slices compared in C: a long prompt takes microseconds.
    """
    low, high = start, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def shared_run(left: Sequence[int], right: Sequence[int]) -> int:
    """Of their longest common prefix, what ends before or after whole pictures."""
    return border_before(left, common_prefix(left, right))


def is_border(tokens: Sequence[int], at: int) -> bool:
    """Whether no picture is both before and after index `at`."""
    return not (0 < at < len(tokens) and FIRST <= tokens[at] < 0)


def border_before(tokens: Sequence[int], at: int) -> int:
    """The last border up to `at`: that, or the start of the picture around it."""
    while not is_border(tokens, at):
        at -= 1
    return at


def border_after(tokens: Sequence[int], at: int) -> int:
    """The first border from `at` on."""
    while not is_border(tokens, at):
        at += 1
    return at


def first_piece(tokens: Sequence[int], size: int, most: int) -> int:
    """Where to cut off a first piece of some `size`, so that no picture is cut. A picture of more
    than `most` tokens is."""
    at = border_before(tokens, size) or border_after(tokens, size)
    return at if at <= max(size, most) else size


def last_piece(tokens: Sequence[int], size: int, most: int) -> int:
    """Where a last piece of some `size` begins, likewise."""
    if not (wanted := len(tokens) - size):
        return 0
    at = border_after(tokens, wanted)
    if at == len(tokens):
        at = border_before(tokens, wanted)
    return at if len(tokens) - at <= max(size, most) else max(wanted, NUM_TELLING)


def begins_with(tokens: Sequence[int], at: int = 0) -> int | tuple[int, ...]:
    """What tells the run of tokens from index `at` on from others: the first one, or several of a
    picture."""
    if tokens[at] >= 0:
        return tokens[at]
    end = at + 1
    while end < min(at + NUM_TELLING, len(tokens)) and not is_border(tokens, end):
        end += 1
    return tuple(tokens[at:end])
