"""Running sequences → the next step: whose rows it has, and how many of each. Starts and preempts
none.

Rows of a picture are a step of their own, since llama.cpp reads either tokens or rows. Such steps
alternate with those of all others: a stream waits for one picture, or a part of it, at a time.
"""

import math

from localinfra.engine.backend import Backend
from localinfra.engine.canonical import CanonicalShapes
from localinfra.engine.drafting import Drafting
from localinfra.engine.kvcache import KVCache
from localinfra.engine.policy.prefill import Prefill, Unread
from localinfra.engine.sequence import Sequence
from localinfra.engine.step import Step
from localinfra.engine.turns import came_together, least_recent, num_requests, prompts_in_turn


class Batching:
    """Engine thread only."""

    def __init__(
        self,
        backend: Backend,
        cache: KVCache,
        shapes: CanonicalShapes,
        prefill: Prefill,
        drafting: Drafting,
    ):
        self._backend = backend
        self._cache = cache
        self._shapes = shapes
        self._prefill = prefill
        self._drafting = drafting
        self._has_looked = False  # the last step was rows of a picture
        self._has_read = False  # it had tokens of prompts

    def step_of(self, running: list[Sequence], num_steps: int) -> Step:
        """The next one, number `num_steps`. It is empty if nobody can go on: all wait for cells."""
        looking = [sequence for sequence in running if sequence.picture]
        reading = [sequence for sequence in running if not sequence.picture]
        step = Step()
        for is_picture in (False, True) if self._has_looked else (True, False):
            if is_picture:
                step = self._picture(looking, reading, num_steps)
            else:
                step = self._text(reading, num_steps)
            if step.chunks:
                break
        self._has_looked = step.batch.picture is not None
        self._has_read = step.num_prompt_tokens > 0
        return step

    def _picture(self, looking: list[Sequence], reading: list[Sequence], num_steps: int) -> Step:
        """Rows of the first picture in turn that can go on."""
        step = Step()
        streams = [sequence for sequence in reading if sequence.is_decoding]
        for sequence in prompts_in_turn(looking, num_steps):
            if size := self._num_rows(sequence, streams, num_requests(looking)):
                step.add(sequence, size, int(size == sequence.num_pending), [])
                break
        return step

    def _num_rows(self, sequence: Sequence, streams: list[Sequence], num_looking: int) -> int:
        """How many rows of its picture are read now, beside pictures of `num_looking` requests in
        all; 0 if there is no room, or streams come first. All of them where they see each other."""
        placed = sequence.picture
        assert placed
        size = placed.end - sequence.num_cached
        is_whole = not placed.picture.is_causal
        if not is_whole:
            is_shaped = self._shapes.wants_shape([sequence])
            size = min(
                size, self._backend.canonical_rows if is_shaped else self._backend.batch_size
            )
        is_fixed = is_whole or self._shapes.stands_alone(sequence)
        if streams and not is_fixed:
            share = num_looking / len(streams)
            rest = [Unread(sequence.num_cached, size)]
            size = self._prefill.chunk(len(streams), share, rest, size, is_apart=True)
        if self._cache.make_room(size):
            return size
        return 0 if is_fixed else min(size, self._cache.num_free)

    def _text(self, reading: list[Sequence], num_steps: int) -> Step:
        step = Step()
        for group in self._shapes.in_turn(reading):
            step = self._texts(group, num_steps)
            if step.chunks:
                break
        return step

    def _texts(self, running: list[Sequence], num_steps: int) -> Step:
        """A step of a group whose sequences may be mixed.

        On GPUs they are not, and prompts take turns with streams: a step of streams is then like
        the one before, whose graph is used again. CUDA graphs, too, are used from the third equal
        step on, and outlast steps of prompts, which give no logits but for the last
        (ggml_backend_cuda_graph_compute, llama_context::get_gf_res_prev)."""
        streams = [sequence for sequence in running if sequence.is_decoding]
        if not self._backend.is_on_device or len(streams) in (0, len(running)):
            return self._mixed(running, streams, num_steps)
        step = Step()
        if not self._has_read:
            max_rows = self._backend.batch_size
            self._add_prompts(step, running, streams, max_rows, num_steps)
        if not step.chunks:
            step = self._mixed(streams, streams, num_steps)
        return step

    def _mixed(self, running: list[Sequence], streams: list[Sequence], num_steps: int) -> Step:
        is_apart = any(map(self._shapes.decodes_apart, running))  # so do all, then
        is_shaped = is_apart or self._shapes.wants_shape(running)
        max_rows = self._backend.canonical_rows if is_shaped else self._backend.batch_size
        if is_apart:
            max_rows = self._backend.canonical_decode_rows
        has_prompts = not is_apart and any(not sequence.is_decoding for sequence in running)
        decoding = running if is_apart else streams
        decoding = least_recent(decoding, max(1, max_rows * 3 // 4) if has_prompts else max_rows)
        drafts = {}
        if len(decoding) == len(running):
            drafts = self._drafting.draft(decoding, max_rows, only_one=is_shaped)
        step = Step()
        share = max_rows // max(1, len(decoding))
        # Drafts come last: wrong ones leave their cells, and nobody's cells get out of order.
        for sequence in sorted(decoding, key=lambda sequence: sequence in drafts):
            size = min(sequence.num_pending, share)
            is_whole = size == sequence.num_pending
            step.add(sequence, size, int(is_whole), drafts.get(sequence, []))
        if has_prompts:
            self._add_prompts(step, running, decoding, max_rows, num_steps)
        return step

    def _add_prompts(
        self,
        step: Step,
        running: list[Sequence],
        decoding: list[Sequence],
        max_rows: int,
        num_steps: int,
    ) -> None:
        """Adds what the streams `decoding` may wait for, which are in the step or come after it."""
        prompts = [sequence for sequence in running if not sequence.is_decoding]
        in_turn = prompts_in_turn(prompts, num_steps)
        is_burst = came_together(decoding, prompts)
        budget = len(step.batch)
        stands_alone = self._shapes.stands_alone(prompts[0])
        if stands_alone or not (decoding or self._backend.is_on_device):
            budget = max_rows
        elif not decoding:
            budget = self._prefill.alone(in_turn[0].num_cached, max_rows)
        else:
            num_rows = self._shapes.size_of(decoding)(len(decoding))
            share = math.inf if is_burst else num_requests(prompts) / num_rows
            rests = [Unread(each.num_cached, each.num_pending) for each in in_turn]
            room, is_apart = max_rows - num_rows, not step.batch
            budget += self._prefill.chunk(num_rows, share, rests, room, is_apart=is_apart)
        budget = min(budget, max_rows)
        enough = self._prefill.enough if is_burst or not decoding else 0
        rows_left = self._backend.max_output_rows - len(decoding)
        for sequence in in_turn:
            if enough and step.num_prompt_tokens >= enough:
                break
            size = min(sequence.num_pending, budget - len(step.batch))
            if self._backend.canonical_decode_rows and self._shapes.is_canonical(sequence):
                size = min(size, sequence.num_prompt - sequence.num_cached)  # what follows is apart
            if sequence.num_unscored:
                size = min(size, rows_left)
            elif not rows_left and size == sequence.num_pending:
                size -= 1  # its last token needs an output row, and the next step has one
            if not self._cache.make_room(len(step.batch) + size):
                if stands_alone:
                    continue  # a smaller chunk would round otherwise
                size = min(size, self._cache.num_free - len(step.batch))
            size = sequence.until_stop(size)
            is_saved = sequence.num_cached + size in sequence.saved_at
            if size > 2 and size == sequence.num_pending - 1 and not is_saved:
                size -= 1  # a single row is left to nobody: it may need a second one for its bits
            if size <= 0:
                continue
            num_outputs = size if sequence.num_unscored else int(size == sequence.num_pending)
            rows_left -= num_outputs
            step.add(sequence, size, num_outputs, [])
