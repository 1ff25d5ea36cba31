"""The index of a token in its slot → llama.cpp's position of it. Pure: no pointers.

They are equal but for pictures of models with M-RoPE: all rows of such a picture have the position
at which it begins, and what follows comes as many positions later as its grid is high or wide,
whichever is more (`mtmd_image_tokens_get_n_pos`). Rows are told apart by two more positions, of
height and width (`mtmd_image_tokens_get_decoder_pos`).
"""

import itertools
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from localinfra.engine.pictures import PictureRows

# Of a position: time, height, width, and one at 0 in texts and in pictures with a grid. Interleaved
# M-RoPE turns some dimensions by the last one.
NUM_PARTS = 4


class Area(NamedTuple):
    """A picture in a slot, whose rows share a position."""

    start: int  # index of its first row
    num_rows: int
    num_positions: int

    @property
    def end(self) -> int:
        return self.start + self.num_rows

    @property
    def is_sound(self) -> bool:
        return self.start >= 0 and 1 <= self.num_positions <= self.num_rows


class Places:
    """The areas of each slot, in order. Areas before a slot's first token count too: a slot may
    hold the middle of a prefix."""

    def __init__(self) -> None:
        self._areas: dict[int, list[Area]] = {}

    def areas(self, slot: int) -> list[Area]:
        return self._areas.get(slot, [])

    def at(self, slot: int, index: int) -> int:
        """The position of the token at `index`, whether it is there or still to come."""
        return position(self._areas.get(slot, ()), index)

    def after(self, slot: int, index: int) -> int:
        """The first position after the tokens before `index`."""
        return self.at(slot, index - 1) + 1 if index else 0

    def of(self, slots: list[int], indices: list[int]) -> list[int]:
        """The positions of a step's tokens."""
        if not self._areas:
            return indices
        return [self.at(slot, index) for slot, index in zip(slots, indices, strict=True)]

    def add(self, slot: int, area: Area) -> None:
        """A picture begins at the end of a slot, or goes on there."""
        areas = self._areas.setdefault(slot, [])
        if area not in areas[-1:]:
            areas.append(area)

    def restore(self, slot: int, areas: list[Area]) -> None:
        """Replaces the areas of a slot."""
        self._areas.pop(slot, None)
        if areas:
            self._areas[slot] = areas

    def copy(self, source: int, target: int, stop: int) -> None:
        """The target's tokens before `stop` are like those of the source now."""
        before = [area for area in self.areas(source) if area.start < stop]
        after = [area for area in self.areas(target) if area.start >= stop]
        self.restore(target, before + after)

    def drop(self, slot: int, start: int) -> None:
        """The slot ends at `start` now."""
        self.restore(slot, [area for area in self.areas(slot) if area.start < start])

    def clear(self) -> None:
        self._areas.clear()


def position(areas: Iterable[Area], index: int) -> int:
    """The position of the token at `index` of a slot with these areas."""
    saved = 0
    for area in areas:
        if index < area.end:
            return min(index, area.start) - saved
        saved += area.num_rows - area.num_positions
    return index - saved


def are_sound(areas: list[Area]) -> bool:
    """Whether a slot can have these areas."""
    starts = [area.start for area in areas]
    ends = [0, *(area.end for area in areas)]
    in_order = all(end <= start for end, start in zip(ends, starts, strict=False))
    return in_order and all(area.is_sound for area in areas)


def parts_of(read: PictureRows, positions: list[int], num_parts: int) -> NDArray[np.int32]:
    """The positions [num_parts, num_rows] of a picture's rows, and of rows that fill the step up.
    `positions` has one of each."""
    parts = np.zeros((num_parts, len(positions)), np.int32)
    parts[:] = positions
    if num_parts > 1 and read.picture.grid:
        _, width = read.picture.grid
        parts[NUM_PARTS - 1] = 0
        index = np.arange(read.start, read.stop, dtype=np.int32)
        parts[1, : len(index)] += index // width
        parts[2, : len(index)] += index % width
    return parts


def packed(areas: list[Area]) -> NDArray[np.int32]:
    """The areas, and their number."""
    return np.array([*itertools.chain(*areas), len(areas)], np.int32)


def areas_of(data: NDArray[np.uint8], size: int) -> tuple[list[Area], int]:
    """The areas that were `packed` and end at byte `size`, and where they begin; negative if they
    don't."""
    [count] = data[size - 4 : size].view(np.int32).tolist() if size >= 4 else [-1]
    start = size - 4 * (3 * count + 1)
    if count < 0 or start < 0:
        return [], -1
    numbers = data[start : size - 4].view(np.int32).reshape(-1, 3)
    return [Area(*each) for each in numbers.tolist()], start
