"""A scripted model: fast, and strict about how the engine uses its cells."""

import asyncio
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import numpy as np
from best_logits import best_of
from numpy.typing import NDArray

from localinfra.engine.backend import MOST_PADDING, Batch, DecodeFailed
from localinfra.engine.candidates import Candidates
from localinfra.engine.engine import Engine
from localinfra.engine.request import (
    EngineSettings,
    GenerationRequest,
    SamplingParams,
    TokenEvent,
)
from localinfra.engine.sampling import Sampler
from localinfra.errors import ApiError
from localinfra.watchdog import Phase

NUM_VOCAB = 50
SALT = 1  # of the hash; chosen so that the tests' usual prompt has no short answer
SPLIT_CELLS = 40  # from so many on, threads share the attention of a single row
END = 49  # drawn about once in 50 tokens


def logits_after(history: list[int], rounding: int = 0) -> NDArray[np.float32]:
    """What the fake model says after `history`: mostly what it said after the same token
    before, so that guesses are often right; but any wrong cell changes it, and slightly any other
    `rounding`."""
    logits = 3 * hashed(history[-1:]) + hashed(history)
    return logits + 2 * hashed([rounding % 256]) if rounding else logits


def hashed(tokens: list[int]) -> NDArray[np.float32]:
    data = bytes([token & 0xFF for token in tokens])
    random = np.random.default_rng(zlib.crc32(data, SALT))
    return random.standard_normal(NUM_VOCAB, np.float32)


def next_token(history: list[int]) -> int:
    """Its most likely token."""
    return int(logits_after(history).argmax())


def reference(prompt: list[int], max_tokens: int, context: int, stream: int = 0) -> list[int]:
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
    gives depends on how many rows it has beyond those, or besides multiples of `least_rows`, on how
    many of them have logits, on the threads if it has one row, and on the order of the cells it
    looks at; with `canonical_decode_rows` also on whether it has no more rows than those; with
    `is_canonical_alone` on how many rows each slot has. Rows that only fill a step have room of
    their own. With `needs_states`, a slot has a state beside its cells: the tokens it has read, and
    how each was rounded. Without `shares_cells`, its cells come with it."""

    row_width = 0
    has_grid_positions = False

    def __init__(
        self,
        *,
        num_cells: int = 256,
        num_sequences: int = 4,
        num_slots: int = 16,
        batch_size: int = 32,
        context_length: int = 128,
        max_output_rows: int = 8,
        max_saved: int = 10_000,
        needs_states: bool = False,
        shares_cells: bool = True,
        max_rollback: int = 10_000,
        idle_cells_slow_steps: bool = False,
        canonical_rows: int = 0,
        least_rows: int = 1,
        canonical_decode_rows: int = 0,
        is_canonical_alone: bool = False,
        single_row_threads: int = 2,
        max_threads: int = 2,
        fails_after: int | None = None,
        num_candidates: int = 0,
        is_on_device: bool = False,
    ):
        self.num_cells = num_cells
        self.num_sequences = num_sequences
        self.num_vocab = NUM_VOCAB
        self.num_slots = num_slots
        self.max_threads = self.num_threads = max_threads
        self.canonical_rows = canonical_rows
        self.least_rows = least_rows
        self.canonical_decode_rows = canonical_decode_rows
        self.is_canonical_alone = is_canonical_alone
        self.single_row_threads = single_row_threads
        self.idle_cells_slow_steps = idle_cells_slow_steps
        self.batch_size = batch_size
        self.context_length = context_length
        self.max_output_rows = max_output_rows
        self.max_saved = max_saved
        self.needs_states = needs_states
        self.shares_cells = shares_cells
        self.max_rollback = max_rollback
        self.states: dict[int, list[tuple[int, int]]] = {}  # by slot
        self.num_restored = 0  # states
        self.is_on_device = is_on_device
        self.is_computing = False
        self.num_candidates = num_candidates
        self.num_rows_read = 0  # whole ones
        self.fails_after = fails_after  # a history longer than this has no finite logits
        self.broken = False  # the next decode fails
        self.cells: list[Cell | None] = [None] * (num_cells + MOST_PADDING)
        self.head = 0
        self.num_relaid = 0
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

    def canonical_size(self, num_rows: int) -> int:
        least = self.least_rows
        return -(-num_rows // least) * least if least > 2 else max(num_rows, least)

    def canonical_threads(self) -> int:
        return self.single_row_threads if self.num_used >= SPLIT_CELLS else self.max_threads

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
        num_most = self.num_cells + MOST_PADDING * (self.num_sequences in cell.slots)
        assert self.num_used < num_most, "the cache is full"
        while self.cells[self.head % len(self.cells)] is not None:
            self.head += 1
        self.cells[self.head % len(self.cells)] = cell
        self.head = self.head % len(self.cells) + 1

    def wait(self) -> None:
        self.is_computing = False

    def decode(self, batch: Batch) -> None:
        assert not self.is_computing
        self.is_computing = self.is_on_device
        assert 0 < len(batch) <= self.batch_size
        assert len(batch.output_rows) <= self.max_output_rows + MOST_PADDING
        self.batch_sizes.append(len(batch))
        assert batch.picture or min(batch.tokens) >= 0, "rows of pictures are no tokens"
        self.most_together = max(self.most_together, len(set(batch.slots)))
        if self.broken:
            self.broken = False
            raise DecodeFailed("scripted")
        self.histories = {}
        shape = self.rounding_of(batch)
        num_outputs = len(batch.output_rows)
        is_odd = self.canonical_rows and num_outputs != self.canonical_size(num_outputs)
        for row, (token, position, slot) in enumerate(
            zip(batch.tokens, batch.positions, batch.slots, strict=True)
        ):
            assert 0 <= slot <= self.num_sequences  # the last one may fill the step up
            held = self.history(slot)
            assert position == len(held), "positions must be consecutive"
            self.put(Cell(position, token, 0, {slot}))
            rounding = shape
            if self.canonical_rows:
                past = next((c.rounding for c in self.held(slot) if c.position == position - 1), 0)
                state = self.states.get(slot, [])[-1:]
                parts = (shape, past, self.is_ordered(slot))
                rounding = zlib.crc32(repr(parts).encode()) >> 1 if parts != (0, 0, True) else 0
                rounding ^= (
                    zlib.crc32(repr(state).encode()) >> 1 if state and state[0][1] != past else 0
                )
                at = self.cells.index(Cell(position, token, 0, {slot}))
                self.cells[at] = Cell(position, token, rounding, {slot})
            if self.needs_states:
                state = self.states.setdefault(slot, [])
                assert [each for each, _ in state] == held, "the state is of another position"
                state.append((token, rounding))
            if row in batch.output_rows:
                self.histories[row] = [*held, token], rounding or 1000 * bool(is_odd)

    def rounding_of(self, batch: Batch) -> int:
        num_rows = len(batch)
        if self.is_canonical_alone:
            sizes = [batch.slots.count(slot) for slot in sorted(set(batch.slots))]
            is_split = num_rows == 1 and not self.has_few_threads()
            return 1 + zlib.crc32(repr((sizes, batch.positions[0], is_split)).encode()) % 1000
        if num_rows <= self.canonical_decode_rows and (num_rows > 1 or self.has_few_threads()):
            return 1
        has_size = num_rows == self.canonical_size(num_rows) <= self.canonical_rows
        if not self.canonical_rows or (has_size and num_rows > 1):
            return 0
        return 0 if has_size and self.has_few_threads() else 1000 + num_rows

    def has_few_threads(self) -> bool:
        return self.num_threads <= self.canonical_threads()

    def candidates(self, row: int) -> Candidates | None:
        if not self.num_candidates:
            return None
        return best_of(self._row(row), self.num_candidates)

    def logits(self, row: int) -> NDArray[np.float32]:
        self.num_rows_read += 1
        return self._row(row)

    def _row(self, row: int) -> NDArray[np.float32]:
        assert not self.is_computing, "this step was not waited for"
        history, rounding = self.histories[row]
        if self.fails_after is not None and len(history) > self.fails_after:
            return np.full(NUM_VOCAB, np.nan, np.float32)
        return logits_after(history, rounding)

    def copy(self, source: int, target: int, start: int, stop: int) -> None:
        assert source != target
        for cell in self.held(source):
            if self.shares_cells and start <= cell.position < stop:
                cell.slots.add(target)

    def drop(self, slot: int, start: int, stop: int | None = None) -> None:
        if not self.shares_cells and (start, stop) != (0, None):
            return
        if stop is None and slot in self.states:
            state = self.states[slot]
            assert start == 0 or len(state) - start <= self.max_rollback
            self.states[slot] = state[:start]
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
        return np.array([cell[:3] for cell in self.held(slot)], np.int32).view(np.uint8).reshape(-1)

    def restore(self, slot: int, data: NDArray[np.uint8]) -> bool:
        assert slot <= self.num_sequences and not self.held(slot)
        for position, token, rounding in data.view(np.int32).reshape(-1, 3).tolist():
            self.put(Cell(position, token, rounding, {slot}))
        return True

    def save_state(self, slot: int) -> NDArray[np.uint8]:
        assert self.needs_states and self.states[slot]
        if not self.has_host_memory:
            raise MemoryError
        return np.array(self.states[slot], np.int64).view(np.uint8).reshape(-1)

    def restore_state(self, slot: int, data: NDArray[np.uint8], position: int) -> bool:
        pairs = data.view(np.int64).reshape(-1, 2).tolist()
        state = [(token, rounding) for token, rounding in pairs]
        assert len(state) == position
        if not self.shares_cells:
            self.drop(slot, 0)
            for place, each in enumerate(state):
                self.put(Cell(place, *each, {slot}))
        self.states[slot] = state
        self.num_restored += 1
        return True

    def accepts(self, data: NDArray[np.uint8], start: int, stop: int) -> bool:
        if start == stop:
            return data.nbytes == 16 * stop
        if not self.shares_cells or data.nbytes != 12 * (stop - start):
            return not data.nbytes
        positions = data.view(np.int32).reshape(-1, 3)[:, 0].tolist()
        return sorted(positions) == list(range(start, stop))

    def clear(self) -> None:
        self.num_relaid += self.num_used > 0
        self.cells, self.head = [None] * len(self.cells), 0
        self.states = {}

    def is_end(self, token: int) -> bool:
        return token == END

    def close(self) -> None:
        self.closed = True


class FakeDrafter(FakeBackend):
    """Says what the fake model says, with `noise` of another model in it."""

    rereads_guesses = False

    def __init__(self, noise: float = 0.0, **options: Any):
        super().__init__(**options)
        self.noise = noise

    def logits(self, row: int) -> NDArray[np.float32]:
        history, _ = self.histories[row]
        return super().logits(row) + np.float32(self.noise) * hashed([*history[-2:], 99])

    def first_readable(self, slot: int) -> int | None:
        return 0


@asynccontextmanager
async def running(
    backend: FakeBackend, drafter: FakeDrafter | None = None, **options: Any
) -> AsyncIterator[Engine]:
    engine = Engine(backend, EngineSettings(**options), drafter=drafter)
    try:
        yield engine
    finally:
        await asyncio.to_thread(engine.close)
        assert backend.closed and (drafter is None or drafter.closed)


async def collect(engine: Engine, *requests: GenerationRequest) -> list[list[TokenEvent]]:
    """All events, by choice."""
    async with engine.generate(list(requests)) as generation:
        choices: list[list[TokenEvent]] = [[] for _ in range(generation.num_choices)]
        async for events in generation:
            for event in events:
                choices[event.choice].append(event)
    return choices


def tokens(events: list[TokenEvent]) -> list[int]:
    return [event.token for event in events if event.token is not None]


def run(test: Callable[[], Awaitable[None]], limit_s: float = 60) -> None:
    asyncio.run(asyncio.wait_for(test(), limit_s))


async def answer(engine: Engine, request: GenerationRequest) -> list[list[int]] | ApiError:
    """The tokens of each choice, or why there are none."""
    try:
        async with engine.generate([request]) as generation:
            choices: list[list[int]] = [[] for _ in range(generation.num_choices)]
            async for events in generation:
                for event in events:
                    assert event.token is not None
                    choices[event.choice].append(event.token)
        return choices
    except ApiError as error:
        return error


async def settle(engine: Engine) -> None:
    """Until the engine's thread has nothing to do, and has said so."""
    while engine.num_waiting or engine.pulse.phase is not Phase.IDLE:
        await asyncio.sleep(0.001)
