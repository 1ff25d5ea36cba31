"""A scripted model: fast, and strict about how the engine uses its cells."""

import zlib

import numpy as np
from numpy.typing import NDArray

from localinfra.engine.backend import Batch, DecodeFailed
from localinfra.engine.request import SamplingParams
from localinfra.engine.sampling import Sampler

NUM_VOCAB = 50
SALT = 1  # of the hash; chosen so that the tests' usual prompt has no short answer
END = 49  # drawn about once in 50 tokens


def logits_after(history: list[int]) -> NDArray[np.float32]:
    """What the fake model says after `history`: mostly what it said after the same token
    before, so that guesses are often right; but any wrong cell changes it."""
    return 3 * hashed(history[-1:]) + hashed(history)


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


class FakeBackend:
    """Cells as llama.cpp keeps them: a position, a token, and the set of slots that share it."""

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
        fails_after: int | None = None,
    ):
        self.num_cells = num_cells
        self.num_sequences = num_sequences
        self.num_slots = num_slots if can_share_prefixes else num_sequences + 1
        self.max_threads = 2
        self.idle_cells_slow_steps = idle_cells_slow_steps
        self.batch_size = batch_size
        self.context_length = context_length
        self.max_output_rows = max_output_rows
        self.can_share_prefixes = can_share_prefixes
        self.fails_after = fails_after  # a history longer than this has no finite logits
        self.broken = False  # the next decode fails
        self.cells: list[tuple[int, int, set[int]]] = []
        self.histories: dict[int, list[int]] = {}
        self.batch_sizes: list[int] = []
        self.most_together = 0  # slots in one batch
        self.num_rests = 0
        self.has_host_memory = True
        self.closed = False

    @property
    def num_used(self) -> int:
        return len(self.cells)

    def history(self, slot: int) -> list[int]:
        held = sorted((position, token) for position, token, slots in self.cells if slot in slots)
        assert [position for position, _ in held] == list(range(len(held))), "a gap, or twice"
        return [token for _, token in held]

    def rest(self) -> None:
        self.num_rests += 1

    def set_threads(self, num_threads: int) -> None:
        assert 1 <= num_threads <= self.max_threads

    def decode(self, batch: Batch) -> None:
        assert 0 < len(batch) <= self.batch_size
        assert len(batch.output_rows) <= self.max_output_rows
        self.batch_sizes.append(len(batch))
        self.most_together = max(self.most_together, len(set(batch.slots)))
        if self.broken:
            self.broken = False
            raise DecodeFailed("scripted")
        assert self.num_used + len(batch) <= self.num_cells, "the cache is full"
        self.histories = {}
        for row, (token, position, slot) in enumerate(
            zip(batch.tokens, batch.positions, batch.slots, strict=True)
        ):
            assert 0 <= slot < self.num_sequences
            held = self.history(slot)
            assert position == len(held), "positions must be consecutive"
            self.cells.append((position, token, {slot}))
            if row in batch.output_rows:
                self.histories[row] = [*held, token]

    def logits(self, row: int) -> NDArray[np.float32]:
        history = self.histories[row]
        if self.fails_after is not None and len(history) > self.fails_after:
            return np.full(NUM_VOCAB, np.nan, np.float32)
        return logits_after(history)

    def copy(self, source: int, target: int, start: int, stop: int) -> None:
        assert self.can_share_prefixes and source != target
        for position, _, slots in self.cells:
            if start <= position < stop and source in slots:
                slots.add(target)

    def drop(self, slot: int, start: int, stop: int | None = None) -> None:
        assert self.can_share_prefixes or (start, stop) == (0, None)
        for position, _, slots in self.cells:
            if position >= start and (stop is None or position < stop):
                slots.discard(slot)
        self.cells = [cell for cell in self.cells if cell[2]]

    def save(self, slot: int) -> NDArray[np.uint8]:
        assert slot <= self.num_sequences
        if not self.has_host_memory:
            raise MemoryError
        held = [(position, token) for position, token, slots in self.cells if slot in slots]
        return np.array(held, np.int32).view(np.uint8)

    def restore(self, slot: int, data: NDArray[np.uint8]) -> bool:
        assert slot <= self.num_sequences and not any(slot in slots for _, _, slots in self.cells)
        held = data.view(np.int32).reshape(-1, 2).tolist()
        assert self.num_used + len(held) <= self.num_cells, "the cache is full"
        self.cells += [(position, token, {slot}) for position, token in held]
        return True

    def clear(self) -> None:
        self.cells = []

    def is_end(self, token: int) -> bool:
        return token == END

    def close(self) -> None:
        self.closed = True
