"""Reproducible answers: which sequences get the same bits whatever runs beside them, and the step
shapes that guarantee it. Neither orders nor admits sequences."""

import contextlib
import logging
from collections.abc import Callable

from localinfra.engine.backend import Backend
from localinfra.engine.borders import ends_alike
from localinfra.engine.kvcache import KVCache
from localinfra.engine.runs import border_before
from localinfra.engine.sequence import Sequence
from localinfra.engine.step import Step
from localinfra.logs import about

logger = logging.getLogger(__name__)

# Tokens. Up to this depth, chunks of canonical size prefill as fast as larger ones. Greedy requests
# without a seed use large chunks, which round differently, for longer prompts, and for short ones
# that arrive together.
SHORT_PROMPT, SHORT_PROMPTS = 256, 512

# Cells. Attention over no more than this is never split among threads, which would round
# differently. With few idle cells left, short texts that run alone stay below it.
FEW_CELLS, FEW_IDLE = 256, 32


class CanonicalShapes:
    """Sequences with a seed, and scored ones, are canonical. Engine thread only."""

    def __init__(self, backend: Backend, cache: KVCache):
        self._backend = backend
        self._cache = cache

    def in_turn(self, running: list[Sequence]) -> list[list[Sequence]]:
        """Groups of sequences that take turns at steps, the next one first. Usually a single group;
        sequences that stand alone or decode apart are never mixed with others."""
        apart: list[Sequence] = []
        others: list[Sequence] = []
        for sequence in running:
            is_apart = self.stands_alone(sequence) or self.decodes_apart(sequence)
            (apart if is_apart else others).append(sequence)
        groups = [[each] for each in apart] if self._backend.is_canonical_alone else [apart]
        groups = sorted(filter(None, groups), key=last_turn)
        if others:
            last_step = max(sequence.stepped_at for sequence in others)
            groups.insert(sum(last_turn(group) <= last_step for group in groups), others)
        return groups

    def stands_alone(self, sequence: Sequence) -> bool:
        """Whether even its prompt needs steps without other sequences to get the same bits."""
        return self._backend.is_canonical_alone and self.is_canonical(sequence)

    def decodes_apart(self, sequence: Sequence) -> bool:
        """Whether its next tokens need small steps without other sequences to get the same bits."""
        is_apart = self._backend.canonical_decode_rows > 0 and self.is_canonical(sequence)
        return is_apart and sequence.num_cached >= sequence.num_prompt

    def is_canonical(self, sequence: Sequence) -> bool:
        """Whether its rows get the same bits every time: it is computed in canonical shapes and
        reuses only cells that were."""
        return sequence.request.is_reproducible and self._backend.canonical_rows > 0

    def num_reusable(self, sequence: Sequence) -> int:
        """How many tokens of a cached prefix are of use. The last one of several chunks of a fixed
        size never has a single token."""
        spare = self.fixed_chunk(sequence) > 0
        return border_before(sequence.tokens, sequence.num_reusable - spare)

    def fixed_chunk(self, sequence: Sequence) -> int:
        """The tokens that each chunk of its prompt must have, where states are saved; else 0."""
        is_fixed = self._backend.needs_states and self.stands_alone(sequence)
        return self._backend.canonical_rows if is_fixed else 0

    def is_shared(self, sequence: Sequence) -> bool:
        """Whether others may use what it has computed so far of its prompt. Of chunks of a fixed
        size, only whole ones are alike for every prompt."""
        chunk = self.fixed_chunk(sequence)
        is_scored = sequence.request.params.score_prompt
        is_alike = not chunk or ends_alike(sequence.request, sequence.num_cached, chunk)
        return is_alike and not (chunk and is_scored)

    def is_shaped(self, sequence: Sequence) -> bool:
        """Whether its steps get canonical shapes at least where that is cheap, so that greedy
        answers to short prompts rarely differ either."""
        if self.is_canonical(sequence):
            return True
        is_greedy = sequence.request.params.sampling.temperature == 0
        is_short = sequence.num_prompt <= SHORT_PROMPT
        return is_greedy and is_short and self._has_any_size

    def keeps_order(self, sequence: Sequence) -> bool:
        """Whether its cells are put in order before its steps. Where states are copied, that takes
        long, and every finished sequence leaves a hole: it is for canonical sequences alone."""
        if sequence.is_disordered or not self.is_shaped(sequence):
            return False
        return self.is_canonical(sequence) or not self._backend.needs_states

    @property
    def _has_any_size(self) -> bool:
        """Whether rows get the same bits in any small step, shared or not."""
        is_granted = self._backend.canonical_rows > 0 and not self._backend.is_canonical_alone
        return is_granted and self._backend.canonical_size(3) == 3

    def wants_shape(self, running: list[Sequence]) -> bool:
        """Whether their step is limited to `canonical_rows`: always for canonical sequences; for
        others unless a long prompt would have to be read in small chunks."""
        if any(map(self.is_canonical, running)):
            return True
        # A long prompt counts as long to its end: small chunks cost most deep in it.
        unread = [
            each.num_prompt - (each.num_reused or 0) for each in running if not each.is_decoding
        ]
        has_long = max(unread, default=0) > SHORT_PROMPT or sum(unread) > SHORT_PROMPTS
        return not has_long and any(map(self.is_shaped, running))

    def complete(self, step: Step) -> None:
        """Adjusts the number of rows and the order of cells of a scheduled step.

        Raises MemoryError if the cells of a canonical sequence can't be put in order. What may be
        set aside is to be brought back after the step."""
        shaped = [chunk.sequence for chunk in step.chunks if self.is_shaped(chunk.sequence)]
        picture = step.batch.picture
        if picture is None or picture.picture.is_causal:  # else it always has the same size
            self._fill_up(step, self.size_of(shaped))
        if shaped and len(step.batch) == 1:
            self._shape_single_row(step, shaped[0])
        ordered = [sequence for sequence in shaped if self.keeps_order(sequence)]
        if self._rounds_by_place(step):
            [chunk] = step.chunks
            assert chunk.sequence.slot is not None
            self._cache.set_aside(chunk.sequence.slot)
            return
        if self._stay_ordered(step, ordered):
            return
        try:
            self._cache.relay()
        except MemoryError:
            if any(map(self.is_canonical, ordered)):
                raise  # a silently different text would be worse than an error
        for sequence in ordered:
            if not self._stay_ordered(step, [sequence]):
                sequence.is_disordered = True  # so is the prefix it took from another sequence
                if self.is_canonical(sequence):
                    logger.error(
                        "the cells of a reproducible text are out of order: it may differ",
                        extra=about(sequence.group.request_id),
                    )
                assert sequence.slot is not None
                self._cache.distrust(sequence.slot)

    def _rounds_by_place(self, step: Step) -> bool:
        """Whether a canonical sequence reads so many rows at once that their bits depend on which
        cells they get: those of a picture that see each other."""
        picture = step.batch.picture
        is_large = picture is not None and len(step.batch) > self._backend.canonical_rows
        return is_large and self.is_canonical(step.chunks[0].sequence)

    def _stay_ordered(self, step: Step, sequences: list[Sequence]) -> bool:
        slots = {sequence.slot for sequence in sequences if sequence.slot is not None}
        return not slots or self._backend.stays_ordered(step.batch, slots)

    def size_of(self, sequences: list[Sequence]) -> Callable[[int], int]:
        """The number of rows that a step of theirs is padded to."""
        is_filled = any(
            self.is_canonical(each) and not self.decodes_apart(each) for each in sequences
        )
        return self._backend.canonical_size if is_filled else int

    def _fill_up(self, step: Step, size_of: Callable[[int], int]) -> None:
        """Pads the step to a canonical number of rows and of output rows."""
        num_outputs = len(step.batch.output_rows)
        wanted_outputs = size_of(num_outputs) if num_outputs else 0
        num_rows = size_of(max(len(step.batch), wanted_outputs))
        if (num_rows, wanted_outputs) != (len(step.batch), num_outputs):
            step.pad(self._backend.num_sequences, num_rows, wanted_outputs)

    def _shape_single_row(self, step: Step, sequence: Sequence) -> None:
        """Keeps threads from splitting the attention of a single row, which changes its bits."""
        if self._backend.canonical_threads() == 1:
            num_held = self._cache.num_used - self._cache.num_cached
            if num_held < FEW_CELLS < self._cache.num_used:
                with contextlib.suppress(MemoryError):
                    self._cache.relay()  # offloads idle cells: too few remain to be split
        threads = self._backend.canonical_threads()
        if threads == self._backend.max_threads or not self.is_canonical(sequence):
            return
        # On two threads, adding a second row takes as long as computing one row on one thread.
        if self._backend.max_threads <= 2 or self._backend.canonical_decode_rows == 1:
            step.max_threads = threads
        else:
            step.pad(self._backend.num_sequences, 2, len(step.batch.output_rows))


def last_turn(group: list[Sequence]) -> int:
    """The latest step by which every sequence of the group had its turn."""
    return min(sequence.stepped_at for sequence in group)
