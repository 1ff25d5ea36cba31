"""A scripted model that sees: strict about how it is given pictures."""

import zlib
from typing import Any

import numpy as np
from fakes import FakeBackend

from localinfra.engine.backend import Batch
from localinfra.engine.pictures import Picture, Placed
from localinfra.engine.request import GenerationParams, GenerationRequest
from localinfra.engine.runs import FIRST

ROW_WIDTH = 2


def picture(
    number: int, size: int = 5, *, is_causal: bool = False, grid: tuple[int, int] | None = None
) -> Picture:
    rows = np.full((size, ROW_WIDTH), number, np.float32)
    return Picture(bytes([number]), rows, grid, is_causal)


def with_pictures(*parts: int | Picture) -> tuple[list[int], tuple[Placed, ...]]:
    """A prompt of tokens and pictures, and where these are."""
    prompt: list[int] = []
    placed = []
    for part in parts:
        if isinstance(part, Picture):
            placed.append(Placed(len(prompt), part))
        prompt += part.tokens if isinstance(part, Picture) else [part]
    return prompt, tuple(placed)


def request_of(
    *parts: int | Picture, max_tokens: int = 5, params: GenerationParams | None = None
) -> GenerationRequest:
    prompt, pictures = with_pictures(*parts)
    return GenerationRequest(prompt, max_tokens, params or GenerationParams(), pictures=pictures)


class FakeSeer(FakeBackend):
    """Reads pictures, and tokens in other steps. With `has_grid_positions`, no cells can be told
    apart within a picture."""

    row_width = ROW_WIDTH

    def __init__(self, *, has_grid_positions: bool = False, **options: Any):
        super().__init__(**options)
        self.has_grid_positions = has_grid_positions
        self.looks: list[tuple[bytes, int]] = []  # each picture's steps: its digest, and the rows
        self.kinds: list[tuple[bool, set[int]]] = []  # of each step: with a picture? Its slots

    def decode(self, batch: Batch) -> None:
        if batch.picture:
            picture, start, stop = batch.picture
            size = stop - start
            others = set(batch.slots[size:])
            assert len(set(batch.slots[:size])) == 1 and others <= {self.num_sequences}
            assert picture.is_causal or size == picture.num_tokens == len(batch)
            assert batch.tokens[:size] == picture.tokens[start:stop]
            self.looks.append((picture.digest, size))
        self.kinds.append((batch.picture is not None, set(batch.slots)))
        super().decode(batch)

    def rounding_of(self, batch: Batch) -> int:
        """Large steps round by the places of their cells, as tiles of attention do."""
        rounding = super().rounding_of(batch)
        if batch.picture and len(batch) > self.canonical_rows > 0:
            slot = batch.slots[0]
            places = [at for at, cell in enumerate(self.cells) if cell and slot in cell.slots]
            places.append(next(at for at in range(self.head, 10_000) if not self.cell_at(at)))
            rounding += zlib.crc32(repr(places).encode()) % 1000
        return rounding

    def cell_at(self, place: int) -> object:
        return self.cells[place % len(self.cells)]

    def copy(self, source: int, target: int, start: int, stop: int) -> None:
        self.check_cut(source, start, stop)
        super().copy(source, target, start, stop)

    def drop(self, slot: int, start: int, stop: int | None = None) -> None:
        self.check_cut(slot, start, stop)
        super().drop(slot, start, stop)

    def check_cut(self, slot: int, *places: int | None) -> None:
        if self.has_grid_positions:
            held = self.held(slot)
            inside = {cell.position for cell in held if FIRST <= cell.token < 0}
            assert inside.isdisjoint(places), "a picture is cut"
