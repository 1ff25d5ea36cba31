"""Waiting and running sequences → the next batch, within slots, cells and the token budget.

Policy only: it decides who computes what next; `engine.py` computes it, `kvcache.py` knows where.
"""

from collections import deque

from localinfra.engine.backend import Backend, Batch
from localinfra.engine.kvcache import KVCache
from localinfra.engine.radix import common_prefix
from localinfra.engine.sequence import Sequence

# Cells kept free for a new sequence's first tokens. More would leave room unused, less would let
# sequences that all grow push each other out; none is lost either way, only computed again.
GROWTH_RESERVE = 64

# While others stream, a prompt is read in chunks of this many tokens: their next token waits for
# the chunk. 128 costs about 12 % of prefill speed against 512 with the embedded model.
STREAMING_CHUNK = 128

# A sequence waits for another that is just computing its prefix, if that saves this many tokens.
# Computing them itself would take about as long.
WORTH_WAITING = 8


class Chunk:
    """The next tokens of one sequence in a batch, and the batch index of its first one."""

    __slots__ = ("first_row", "num_tokens", "sequence", "start")

    def __init__(self, sequence: Sequence, num_tokens: int, first_row: int):
        self.sequence = sequence
        self.start = sequence.num_cached
        self.num_tokens = num_tokens
        self.first_row = first_row


class Scheduler:
    """Owns the queue and the running set. Engine thread only.

    Sequences are admitted in order of arrival; one is passed over only while a running one
    computes the prefix it needs. A running sequence never fails for want of cells: if all grow
    beyond the cache, the youngest goes back to the head of the queue and later goes on.
    """

    def __init__(self, backend: Backend, max_parked: int = 0):
        self._backend = backend
        self.cache = KVCache(backend, max_parked)
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []  # in order of admission

    @property
    def is_idle(self) -> bool:
        return not self.waiting and not self.running

    def add(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """The sequence is done or no longer wanted; what it computed stays as a cached prefix."""
        if sequence.slot is None:
            self.waiting.remove(sequence)
        else:
            self._give_up_slot(sequence)
            self.running.remove(sequence)

    def next_batch(self) -> tuple[Batch, list[Chunk]]:
        """Admits who fits, and cuts the step: one token for each decoding sequence, and prompt
        chunks in order of admission with what is left of the budget."""
        self._admit()
        while True:
            self._make_room_for_decoding()
            batch, chunks = self._cut_step()
            if chunks or len(self.running) < 2:
                return batch, chunks
            self._send_back_youngest()  # prompts that fill the cells between them, none complete

    def _cut_step(self) -> tuple[Batch, list[Chunk]]:
        decoding = [sequence for sequence in self.running if sequence.is_decoding]
        if decoding:
            self.cache.tidy()
        batch, chunks = Batch(), []
        for sequence in decoding:
            chunks.append(self._add_chunk(batch, sequence, 1, 1))
        budget = self._backend.batch_size
        if decoding:
            budget = min(budget, len(decoding) + STREAMING_CHUNK)
        rows_left = self._backend.max_output_rows - len(decoding)
        for sequence in self.running:
            if sequence.is_decoding:
                continue
            size = min(sequence.num_pending, budget - len(batch))
            if sequence.num_unscored:
                size = min(size, rows_left)
            elif not rows_left and size == sequence.num_pending:
                size -= 1  # its last token wants a row, which the next step has
            if not self.cache.make_room(len(batch) + size):
                size = min(size, self.cache.num_free - len(batch))
            if size <= 0:
                continue
            num_outputs = size if sequence.num_unscored else int(size == sequence.num_pending)
            rows_left -= num_outputs
            chunks.append(self._add_chunk(batch, sequence, size, num_outputs))
        return batch, chunks

    def computed(self, chunk: Chunk) -> None:
        """The chunk is in the cache now; prompts are offered to others as they grow."""
        sequence = chunk.sequence
        assert sequence.slot is not None
        self.cache.advance(sequence.slot, chunk.num_tokens)
        sequence.num_cached += chunk.num_tokens
        if sequence.num_cached <= sequence.num_prompt:
            self.cache.record(sequence.slot, sequence.tokens[: sequence.num_cached])

    def _add_chunk(self, batch: Batch, sequence: Sequence, size: int, num_outputs: int) -> Chunk:
        assert sequence.slot is not None
        chunk = Chunk(sequence, size, len(batch))
        tokens = sequence.tokens[chunk.start : chunk.start + size]
        batch.extend(sequence.slot, chunk.start, tokens, num_outputs)
        return chunk

    def _admit(self) -> None:
        passed_over: list[Sequence] = []
        while self.waiting and len(self.running) < self._backend.num_sequences:
            sequence = self.waiting.popleft()
            match = self.cache.match(sequence.tokens, sequence.num_reusable)
            if sequence.waits_for_scores or self._prefix_is_coming(sequence, match.num_known):
                passed_over.append(sequence)
            elif self._fits(sequence, match.num_held):
                self._start(sequence)
            else:
                self.waiting.appendleft(sequence)
                break
        self.waiting.extendleft(reversed(passed_over))

    def _start(self, sequence: Sequence) -> None:
        slot, length = self.cache.acquire(sequence.tokens, sequence.num_reusable)
        sequence.slot, sequence.num_cached = slot, length
        if sequence.num_reused is None:
            sequence.num_reused = length
        self.running.append(sequence)

    def _prefix_is_coming(self, sequence: Sequence, reusable: int) -> bool:
        limit = sequence.num_reusable
        if not self._backend.can_share_prefixes or limit < reusable + WORTH_WAITING:
            return False
        return any(
            other.num_cached < (shared := common_prefix(other.tokens, sequence.tokens))
            and min(shared, limit) >= reusable + WORTH_WAITING
            for other in self.running
            if not other.is_decoding
        )

    def _fits(self, sequence: Sequence, held: int) -> bool:
        """Whether what it needs soon is free, or held by prefixes that can go, besides what the
        running ones need soon. A sequence alone always fits: no prompt exceeds the cells."""
        if not self.running:
            return True
        owed = sum(other.num_pending + self._growth(other) for other in self.running)
        needed = sequence.num_target - held + self._growth(sequence)
        taken = self.cache.num_idle(sequence.tokens, held)  # it will hold these itself
        return self.cache.num_free + self.cache.num_cached - taken >= owed + needed

    def _growth(self, sequence: Sequence) -> int:
        return min(GROWTH_RESERVE, sequence.request.max_tokens - sequence.num_generated)

    def _make_room_for_decoding(self) -> None:
        """Each decoding sequence gets its next cell, if need be by sending the youngest back."""
        while not self.cache.make_room(sum(sequence.is_decoding for sequence in self.running)):
            self._send_back_youngest()

    def _send_back_youngest(self) -> None:
        youngest = self.running.pop()
        self._give_up_slot(youngest)
        self.waiting.appendleft(youngest)

    def _give_up_slot(self, sequence: Sequence) -> None:
        assert sequence.slot is not None
        self.cache.finish(sequence.slot, sequence.tokens[: sequence.num_cached])
        sequence.slot, sequence.num_cached = None, 0
