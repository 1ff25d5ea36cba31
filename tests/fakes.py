"""A scripted model: fast, and strict about how the engine uses its cells."""

import zlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from localinfra.engine.backend import Batch, DecodeFailed
from localinfra.engine.request import SamplingParams
from localinfra.engine.sampling import Sampler

NUM_VOCAB = 50
SALT = 1  # of the hash; chosen so that the tests' usual prompt has no short answer
END = 49  # drawn about once in 50 tokens


def logits_after(history: list[int], rounding: int = 0) -> NDArray[np.float32]:
    """What the fake model says after `history`: mostly what it said after the same token
    before, so that guesses are often right; but any wrong cell changes it, and slightly any other
    `rounding`."""
    logits = 3 * hashed(history[-1:]) + hashed(history)
    return logits + 2 * hashed([rounding % 256]) if rounding else logits


def hashed(tokens: list[int]) -> NDArray[np.float32]:
    random = np.random.default_rng(zlib.crc32(bytes(tokens), SALT))
    return random.standard_normal(NUM_VOCAB, np.float32)


def next_token(history: list[int]) -> int:
    """Its most likely token."""
    return int(logits_after(history).argmax())


def reference(
    prompt: list[int],
    max_tokens: int,
    context: int,
    stream: int = 0,
) -> list[int]:
    """The tokens a request gives when it runs alone."""
    tokens = list(prompt)
    sampler = Sampler(SamplingParams(), stream, prompt)
    while len(tokens) - len(prompt) < max_tokens and len(tokens) < context:
        tokens.append(sampler.sample(logits_after(tokens)))
        if tokens[-1] == END:
            break
    return tokens[len(prompt) :]


class Cell(NamedTuple):
    position: int
    token: int
    rounding: int  # of the step that computed it: 0 is canonical
    slots: set[int]  # that share it


class FakeBackend:
    """Cells as llama.cpp keeps them. With `canonical_rows` it rounds as kernels do: what a step
    gives depends on how many rows it has beyond those, on the threads if it has one row, and on the
    order of the cells it looks at."""

    def __init__(
        self,
        *,
        num_cells: int = 256,
        num_sequences: int = 4,
        num_slots: int = 16,
        batch_size: int = 32,
        context_length: int = 128,
        max_output_rows: int = 8,
        can_share_prefixes: bool = True,
        idle_cells_slow_steps: bool = False,
        canonical_rows: int = 0,
        single_row_threads: int = 2,
        fails_after: int | None = None,
    ):
        self.num_cells = num_cells
        self.num_sequences = num_sequences
        self.num_slots = num_slots if can_share_prefixes else num_sequences + 1
        self.max_threads = self.num_threads = 2
        self.canonical_rows = canonical_rows
        self.single_row_threads = single_row_threads
        self.num_relaid = 0
        self.idle_cells_slow_steps = idle_cells_slow_steps
        self.batch_size = batch_size
        self.context_length = context_length
        self.max_output_rows = max_output_rows
        self.can_share_prefixes = can_share_prefixes
        self.fails_after = fails_after  # a history longer than this has no finite logits
        self.broken = False  # the next decode fails
        self.cells: list[Cell | None] = [None] * num_cells
        self.head = 0
        self.histories: dict[int, tuple[list[int], int]] = {}  # of each row, and its rounding
        self.batch_sizes: list[int] = []
        self.most_together = 0  # slots in one batch
        self.num_rests = 0
        self.has_host_memory = True
        self.closed = False

    @property
    def num_used(self) -> int:
        return sum(cell is not None for cell in self.cells)

    def held(self, slot: int) -> list[Cell]:
        """In the order of their places."""
        return [cell for cell in self.cells if cell is not None and slot in cell.slots]

    def history(self, slot: int) -> list[int]:
        held = sorted(self.held(slot), key=lambda cell: cell.position)
        assert [c.position for c in held] == list(range(len(held))), "a gap, or twice"
        return [cell.token for cell in held]

    def rest(self) -> None:
        self.num_rests += 1

    def set_threads(self, num_threads: int) -> None:
        assert 1 <= num_threads <= self.max_threads
        self.num_threads = num_threads

    def canonical_threads(self) -> int:
        return self.single_row_threads

    def stays_ordered(self, batch: Batch, slots: set[int]) -> bool:
        cells, head = list(self.cells), self.head
        for token, position, slot in zip(batch.tokens, batch.positions, batch.slots, strict=True):
            self.put(Cell(position, token, 0, {slot}))
        ordered = all(self.is_ordered(slot) for slot in slots)
        self.cells, self.head = cells, head
        return ordered

    def is_ordered(self, slot: int) -> bool:
        positions = [cell.position for cell in self.held(slot)]
        return positions == sorted(positions)

    def put(self, cell: Cell) -> None:
        """Into the next free place from the last one on, or from one that was freed below it."""
        assert self.num_used < self.num_cells, "the cache is full"
        while self.cells[self.head % self.num_cells] is not None:
            self.head += 1
        self.cells[self.head % self.num_cells] = cell
        self.head = self.head % self.num_cells + 1

    def decode(self, batch: Batch) -> None:
        assert 0 < len(batch) <= self.batch_size
        assert len(batch.output_rows) <= self.max_output_rows
        self.batch_sizes.append(len(batch))
        self.most_together = max(self.most_together, len(set(batch.slots)))
        if self.broken:
            self.broken = False
            raise DecodeFailed("scripted")
        self.histories = {}
        shape = self.rounding_of(len(batch))
        for row, (token, position, slot) in enumerate(
            zip(batch.tokens, batch.positions, batch.slots, strict=True)
        ):
            is_padding = (
                slot == self.num_sequences and not position and row not in batch.output_rows
            )
            assert 0 <= slot < self.num_sequences or is_padding
            held = self.history(slot)
            assert position == len(held), "positions must be consecutive"
            self.put(Cell(position, token, 0, {slot}))
            rounding = shape
            if self.canonical_rows:
                past = {cell.rounding for cell in self.held(slot)}
                rounding = max([shape, *past, 0 if self.is_ordered(slot) else 999])
                at = self.cells.index(Cell(position, token, 0, {slot}))
                self.cells[at] = Cell(position, token, rounding, {slot})
            if row in batch.output_rows:
                self.histories[row] = [*held, token], rounding

    def rounding_of(self, num_rows: int) -> int:
        if not self.canonical_rows or 2 <= num_rows <= self.canonical_rows:
            return 0
        is_alike = num_rows == 1 and self.num_threads <= self.single_row_threads
        return 0 if is_alike else 1000 + num_rows

    def logits(self, row: int) -> NDArray[np.float32]:
        history, rounding = self.histories[row]
        if self.fails_after is not None and len(history) > self.fails_after:
            return np.full(NUM_VOCAB, np.nan, np.float32)
        return logits_after(history, rounding)

    def copy(self, source: int, target: int, start: int, stop: int) -> None:
        assert self.can_share_prefixes and source != target
        for cell in self.held(source):
            if start <= cell.position < stop:
                cell.slots.add(target)

    def drop(self, slot: int, start: int, stop: int | None = None) -> None:
        assert self.can_share_prefixes or (start, stop) == (0, None)
        for at, cell in enumerate(self.cells):
            if cell and cell.position >= start and (stop is None or cell.position < stop):
                cell.slots.discard(slot)
                if not cell.slots:
                    self.cells[at] = None
                    self.head = min(self.head, at)

    def save(self, slot: int) -> NDArray[np.uint8]:
        assert slot <= self.num_sequences
        if not self.has_host_memory:
            raise MemoryError
        return np.array([cell[:3] for cell in self.held(slot)], np.int32).view(np.uint8)

    def restore(self, slot: int, data: NDArray[np.uint8]) -> bool:
        assert slot <= self.num_sequences and not self.held(slot)
        for position, token, rounding in data.view(np.int32).reshape(-1, 3).tolist():
            self.put(Cell(position, token, rounding, {slot}))
        return True

    def clear(self) -> None:
        self.num_relaid += self.num_used > 0
        self.cells, self.head = [None] * self.num_cells, 0

    def is_end(self, token: int) -> bool:
        return token == END

    def close(self) -> None:
        self.closed = True
