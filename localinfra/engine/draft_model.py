"""Drafts from a smaller model with the same vocabulary, or from layers made for that, which read
what the sequences have.

Owns that model's backend, with a prefix cache of its own. How much is drafted, others decide. A
guess is drawn as the sequence's sampler will draw the token itself, and drafts change only the
speed, never the text: each drafted row is sampled like any other.
"""

import logging
import time
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from localinfra.engine.backend import Batch, DecodeFailed, DraftBackend
from localinfra.engine.drafts import NUMBERS
from localinfra.engine.draws import Floats
from localinfra.engine.kvcache import KVCache
from localinfra.engine.policy.step_times import StepTimes
from localinfra.engine.radix import Prefix
from localinfra.engine.sequence import Sequence
from localinfra.errors import ApiError

if TYPE_CHECKING:
    from localinfra.engine.grammar.constraint import Constraint

logger = logging.getLogger(__name__)

FEW = 4  # tokens of a sequence that are read together with the first guesses

# How sure the model is of its best token, from class to class; in a class, guesses are at first
# taken to be right this often.
SURENESS = (0.3, 0.5, 0.7, 0.85, 0.95)
PRIOR_CHANCES = (0.2, 0.4, 0.6, 0.75, 0.9, 0.97)


class Record:
    """How often guesses were right: all of them, and by how sure the model was. Recent ones count
    more."""

    def __init__(self, before: "Record | None" = None):
        """`before`: what is known of other texts."""
        chances = PRIOR_CHANCES if before is None else [before.chance(k) for k in CLASSES]
        usual = PRIOR_CHANCES[len(PRIOR_CHANCES) // 2] if before is None else before.usual
        self._hits: list[float] = [NUMBERS.prior_weight * chance for chance in (*chances, usual)]
        self._trials: list[float] = [NUMBERS.prior_weight for _ in self._hits]

    @property
    def usual(self) -> float:
        return self._hits[-1] / self._trials[-1]

    def chance(self, sureness: int) -> float:
        return self._hits[sureness] / self._trials[sureness]

    def add(self, sureness: int, is_right: bool) -> None:
        for at in (sureness, -1):
            self._hits[at] = NUMBERS.memory * self._hits[at] + is_right
            self._trials[at] = NUMBERS.memory * self._trials[at] + 1


CLASSES = range(len(PRIOR_CHANCES))


class Guess(NamedTuple):
    token: int
    sureness: int  # an index into PRIOR_CHANCES


class _Reading:
    """What the draft model has read of a sequence, and its guesses.

    To it, the text may begin later: without tokens whose hidden states are gone."""

    __slots__ = ("begin", "guesses", "num_ahead", "num_cached", "record", "slot")

    def __init__(self, slot: int, begin: int, num_cached: int, record: Record):
        self.slot = slot
        self.begin = begin  # where the text begins: a position in the sequence
        self.num_cached = num_cached  # tokens of the sequence up to the last one in the slot
        self.num_ahead = 0  # guesses in the slot after them
        self.guesses: list[Guess] = []  # after the sequence's last token
        self.record = record


class DraftModel:
    """Call `read` and then `draft` before a step, `accept` after it. Engine thread only."""

    def __init__(self, backend: DraftBackend, num_vocab: int):
        """`num_vocab`: of the model that verifies."""
        self._backend = backend
        self._num_vocab = num_vocab
        self._cache = KVCache(backend)
        self._readings: dict[Sequence, _Reading] = {}
        self._record = Record()
        self.times = StepTimes()
        self.is_broken = False
        self._is_warm = False

    def chances(self, sequence: Sequence, max_tokens: int) -> list[float]:
        """The probabilities that the first 1, 2, ... guesses would all be right."""
        reading = self._readings.get(sequence)
        usual = (reading.record if reading else self._record).usual
        room = self._backend.context_length - len(sequence.tokens)
        can_draft = not self.is_broken and self._first_readable(sequence) is not None
        count = max(0, min(max_tokens, NUMBERS.max_draft, room)) if can_draft else 0
        return [usual**length for length in range(1, count + 1)]

    def num_unread(self, sequence: Sequence) -> int:
        """Tokens that `read` has to compute before a draft."""
        reading = self._readings.get(sequence)
        if reading and self._goes_on_from(reading, sequence):
            known = reading.num_cached
        else:
            begin, num_held = self._place(sequence)
            known = begin + num_held
        return max(0, len(sequence.tokens) - FEW - known)

    def read(self, sequences: Iterable[Sequence], max_tokens: int, threads: int) -> None:
        """Reads what `num_unread` counts, up to `max_tokens` of all."""
        batch = Batch()
        parts: list[tuple[Sequence, _Reading, int]] = []
        max_tokens = min(max_tokens, self._backend.batch_size)
        for sequence in sequences:
            if self._first_readable(sequence) is None:
                continue
            reading = self._reading_of(sequence)
            missing = len(sequence.tokens) - 1 - reading.num_cached
            if missing < FEW:
                continue
            size = min(missing, max_tokens - len(batch))
            if size:
                start = reading.num_cached
                self._extend(batch, sequence, sequence.tokens[start : start + size], 0)
                parts.append((sequence, reading, size))
        if not parts or not self._decode(batch, len(batch), threads):
            return
        for sequence, reading, size in parts:
            self._cache.advance(reading.slot, size)
            reading.num_cached += size
            tokens = sequence.tokens[reading.begin : reading.num_cached]
            self._cache.record(reading.slot, tokens)

    def draft(
        self, sizes: Mapping[Sequence, int], least_chance: float, threads: int
    ) -> dict[Sequence, list[int]]:
        """Drafts up to these sizes for sequences that are read. Each step of the model gives every
        sequence a guess, until it is less likely than `least_chance` that all of its are right."""
        forks = {each: each.constraint.fork() if each.constraint else None for each in sizes}
        chances = dict.fromkeys(sizes, 1.0)
        drafts: dict[Sequence, list[int]] = {each: [] for each in sizes}
        going = list(sizes)
        while going:
            rows = self._step(going, threads)
            if rows is None:
                break
            for sequence, row in zip(list(going), rows, strict=True):
                guess = self._guess(sequence, row, forks[sequence])
                if guess:
                    reading, draft = self._readings[sequence], drafts[sequence]
                    reading.guesses.append(guess)
                    chances[sequence] *= reading.record.chance(guess.sureness)
                    if chances[sequence] >= least_chance:
                        draft.append(guess.token)
                        if len(draft) < sizes[sequence] and self._goes_on(guess, forks[sequence]):
                            continue
                going.remove(sequence)
        return {sequence: draft for sequence, draft in drafts.items() if draft}

    def _guess(self, sequence: Sequence, row: Floats, fork: "Constraint | None") -> Guess | None:
        """Of the token after the sequence and its guesses. None if there is none: no token is
        allowed, or the grammar is too complex."""
        assert sequence.sampler is not None, "it has sampled a token"
        num_ahead = len(self._readings[sequence].guesses)
        try:
            token, top = sequence.sampler.guess(row, num_ahead, fork)
            if fork:
                fork.accept(token)
        except ApiError:
            return None
        except DecodeFailed as error:
            self._give_up(error)
            return None
        return Guess(token, bisect_right(SURENESS, top))

    def _goes_on(self, guess: Guess, fork: "Constraint | None") -> bool:
        """Whether the next token is to be drafted too: not at the end, nor where it is forced."""
        if self._backend.is_end(guess.token):
            return False
        return fork is None or not (fork.is_complete or fork.forced())

    def accept(self, sequence: Sequence, num_right: int) -> bool:
        """So many tokens of the draft have become the sequence's; the others leave. Learns from all
        guesses that its tokens confirm or refute, also where they were not verified.

        Returns whether it had guessed."""
        reading = self._readings.get(sequence)
        if reading is None or not reading.guesses:
            return False
        new = sequence.tokens[reading.num_cached :]
        for guess, token in zip(reading.guesses, new, strict=False):
            for record in (reading.record, self._record):
                record.add(guess.sureness, guess.token == token)
            if guess.token != token:
                break
        reading.guesses.clear()
        num_kept = 0 if self._backend.rereads_guesses else min(num_right, reading.num_ahead)
        if reading.num_ahead > num_kept:
            self._cache.retract(reading.slot, reading.num_ahead - num_kept)
        reading.num_cached += num_kept
        reading.num_ahead = 0
        return True

    def finish(self, sequence: Sequence) -> None:
        """The sequence lost its slot; what was read stays as a cached prefix."""
        if reading := self._readings.pop(sequence, None):
            tokens = sequence.tokens[reading.begin : reading.num_cached]
            self._cache.finish(reading.slot, tokens)

    def _first_readable(self, sequence: Sequence) -> int | None:
        assert sequence.slot is not None, "it is running"
        return self._backend.first_readable(sequence.slot)

    def _goes_on_from(self, reading: _Reading, sequence: Sequence) -> bool:
        """Whether what comes next can be read."""
        first = self._first_readable(sequence)
        return first is not None and reading.num_cached >= first

    def _place(self, sequence: Sequence) -> tuple[int, int]:
        """Where the text begins to the model, and how much after that it has in its cache."""
        first = self._first_readable(sequence) or 0
        limit = len(sequence.tokens) - 1
        num_held = self._cache.match(sequence.prefix, limit).num_held
        return (0, num_held) if num_held >= first else (first, 0)

    def _reading_of(self, sequence: Sequence) -> _Reading:
        """Made anew where nothing was read, or the next tokens can't be."""
        reading = self._readings.get(sequence)
        if reading and self._goes_on_from(reading, sequence):
            return reading
        record = reading.record if reading else Record(self._record)
        self.finish(sequence)
        begin, _ = self._place(sequence)
        prefix = Prefix(sequence.tokens[begin:], sequence.request.cache_salt)
        slot, num_held = self._cache.acquire(prefix, len(prefix.tokens) - 1)
        self._readings[sequence] = _Reading(slot, begin, begin + num_held, record)
        return self._readings[sequence]

    def _extend(
        self, batch: Batch, sequence: Sequence, tokens: list[int], num_outputs: int
    ) -> None:
        """Adds the next tokens of the sequence, or a guess."""
        reading = self._readings[sequence]
        assert sequence.slot is not None
        start = reading.num_cached + reading.num_ahead - reading.begin
        # The other vocabulary may have some tokens more, and any text may have them.
        known = [token if token < self._backend.num_vocab else 0 for token in tokens]
        batch.extend(reading.slot, start, known, num_outputs)
        batch.origins[reading.slot] = sequence.slot, reading.begin

    def _step(self, sequences: list[Sequence], threads: int) -> list[Floats] | None:
        """The logits after each sequence and its guesses; None if there are none to be had."""
        batch, last = Batch(), []
        for sequence in sequences:
            reading = self._readings[sequence]
            new = sequence.tokens[reading.num_cached :]
            tokens = [reading.guesses[-1].token] if reading.guesses else new
            self._extend(batch, sequence, tokens, 1)
            last.append(len(batch) - 1)
        if not self._decode(batch, 0, threads):
            return None
        for sequence in sequences:
            reading = self._readings[sequence]
            num_new = 1 if reading.guesses else len(sequence.tokens) - reading.num_cached
            self._cache.advance(reading.slot, num_new)
            if reading.guesses:
                reading.num_ahead += 1
            else:
                reading.num_cached += num_new
        return [self._row(index) for index in last]

    def _decode(self, batch: Batch, num_prompt_tokens: int, threads: int) -> bool:
        """Returns whether there was room, and it went well."""
        if len(batch) > self._backend.batch_size or not self._cache.make_room(len(batch)):
            return False
        self._backend.set_threads(min(threads, self._backend.max_threads))
        started_s = time.perf_counter()
        try:
            self._backend.decode(batch)
            self._backend.wait()
        except DecodeFailed as error:
            self._give_up(error)
            return False
        seconds = time.perf_counter() - started_s
        num_rows = len(batch) - num_prompt_tokens
        if self._is_warm:  # the first step may have read weights from disk
            self.times.observe(num_rows, num_prompt_tokens, threads, seconds)
        self._is_warm = True
        return True

    def _give_up(self, error: DecodeFailed) -> None:
        logger.error("the draft model failed, and drafts no more: %s", error)
        self.is_broken = True

    def _row(self, index: int) -> Floats:
        """Logits for the other model's vocabulary, which may have some tokens more or less."""
        row = self._backend.logits(index)
        if len(row) >= self._num_vocab:
            return row[: self._num_vocab]
        missing = np.full(self._num_vocab - len(row), -np.inf, np.float32)
        return np.concatenate((row, missing))
