"""How many prompt tokens may join a step while others stream, from what steps take.

A running stream should wait at most `max_gap_ratio` times its usual step: prompts get what fits in
such a step. Where the usual step is not known, a few steps go without prompts. Requests that came
together may stop each other's streams for `max_stall_s` a step, until all are read.

Deep in a prompt, few tokens fit in the gap, and they cost much: llama.cpp's attention on CPUs works
on tiles of 64 rows. 2,000 tokens deep, a token takes 12.5 ms in a chunk of 16 and 6.5 ms in steps
of 64 rows (SmolLM2-135M on two cores), so small chunks would make everyone wait longer. There,
chunks become whole tiles if a step then takes less than `max_stall_s`.
"""

import msgspec

from localinfra.engine.policy.step_times import NUMBERS as TIMES
from localinfra.engine.policy.step_times import StepTimes
from localinfra.engine.policy.threads import ThreadController


class PrefillNumbers(msgspec.Struct, frozen=True):
    aim: float = 0.85  # of the allowed gap: steps scatter by 10 to 15 % on a quiet machine
    max_pauses: int = 4  # steps in a row without prompts, to see what is usual
    tile_depth: int = 384  # tokens of a prompt; before, its chunks are small and show their cost
    tile_gain: float = 1.2  # times as cheap as in a small chunk must a token be in a tile
    max_stall_s: float = 0.75  # of a step, for whole tiles and for requests that came together


NUMBERS = PrefillNumbers()


class Prefill:
    """Sizes prompt chunks. The engine's thread only."""

    def __init__(
        self,
        times: StepTimes,
        threads: ThreadController,
        max_gap_ratio: float = 4.0,
        batch_size: int = 512,
    ):
        self._times = times
        self._threads = threads
        self._max_gap_ratio = max_gap_ratio
        self._batch_size = batch_size  # tokens of a step, decoding rows included
        self._num_pauses = 0  # of prompts, in a row

    @property
    def enough(self) -> int:
        """Prompt tokens after which a step is large enough, where no stream waits: it takes several
        times as long as a row alone, so larger ones hardly read faster. The next prompt has a step
        of its own, after the first's answer has begun."""
        row_s = self._expected(1, 0) or 0.0
        return max(2 * TIMES.tile_rows, self._fitting(self._max_gap_ratio * row_s, 0))

    def burst_budget(self, num_decoding: int) -> int:
        """Prompt tokens for a step whose streams have only just begun, of requests that came
        together: they let the others catch up, and all of them share the wait."""
        return min(self._fitting(NUMBERS.max_stall_s, 0), max(self._batch_size - num_decoding, 0))

    def chunk_budget(
        self, num_rows: int, num_prompts: int = 1, depth: int = 0, max_rows: int | None = None
    ) -> int:
        """Prompt tokens that may join a step of so many decoding rows, for all of `num_prompts`
        together; the first of them comes after `depth` others of its prompt.

        Where more prompts are read than sequences stream, the gap grows with their share: few would
        be served smoothly, and many would wait.

        At times 0, at most `max_pauses` times in a row: a step without prompts shows what is usual.
        """
        room = max((max_rows or self._batch_size) - num_rows, 0)
        if not num_rows:
            return room
        if self._times.is_fresh(num_rows):
            self._num_pauses = 0
        elif self._num_pauses < NUMBERS.max_pauses:
            self._num_pauses += 1
            return 0
        usual_s = self._expected(num_rows, 0)
        if usual_s is None:
            return min(TIMES.tile_rows, room)
        tile = TIMES.tile_rows - num_rows
        if depth >= NUMBERS.tile_depth and 0 < tile <= room and self._pays(num_rows):
            return tile
        gap_ratio = self._max_gap_ratio * max(1.0, num_prompts / num_rows)
        return min(self._fitting((NUMBERS.aim * gap_ratio - 1) * usual_s, num_rows), room)

    def _expected(self, num_rows: int, num_prompt_tokens: int) -> float | None:
        threads = self._threads.settled(is_prefill=num_prompt_tokens > 0)
        return self._times.expected(num_rows, num_prompt_tokens, threads)

    def _fitting(self, seconds: float, num_rows: int) -> int:
        return self._times.num_tokens(seconds, num_rows, self._threads.settled(is_prefill=True))

    def _pays(self, num_rows: int) -> bool:
        """Whether tokens are cheaper in a tile, and one with so many decoding rows is no stall."""
        small_s = self._expected(0, 1) or 0.0
        tile_s = self._expected(0, TIMES.tile_rows) or 0.0
        if TIMES.tile_rows * small_s <= NUMBERS.tile_gain * tile_s:
            return False
        step_s = self._expected(num_rows, TIMES.tile_rows - num_rows)
        return step_s is not None and step_s <= NUMBERS.max_stall_s
