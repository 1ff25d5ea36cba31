"""How many prompt tokens may join a step while others stream, from what steps take.

A running stream should wait at most `max_gap_ratio` times its usual step: prompts get what fits in
such a step. Where the usual step is not known, a few steps go without prompts to show it.

Deep in a prompt, few tokens fit in the gap, and they cost much: 2,000 tokens deep, a token takes
12.5 ms in a chunk of 16, 6.5 ms in a tile of 64 rows, and 5.5 ms in two tiles (SmolLM2-135M on two
cores). Chunks become one or two whole tiles there, if a step then takes less than `max_stall_s`.
"""

from localinfra.engine.policy.numbers import NUMBERS
from localinfra.engine.policy.step_times import StepTimes
from localinfra.engine.policy.threads import ThreadController


class Prefill:
    """Sizes prompt chunks. The engine's thread only."""

    def __init__(
        self,
        times: StepTimes,
        threads: ThreadController,
        max_gap_ratio: float,
        max_stall_s: float,
    ):
        self._times = times
        self._threads = threads
        self._max_gap_ratio = max_gap_ratio
        self._max_stall_s = max_stall_s
        self._num_pauses = 0  # of prompts, in a row

    @property
    def enough(self) -> int:
        """Prompt tokens after which a step is large enough, where no stream waits: larger ones
        hardly read faster. The next prompt has its own step, after the first's answer has begun."""
        row_s = self._expected(1, 0) or 0.0
        return max(2 * NUMBERS.tile_rows, self._fitting(self._max_gap_ratio * row_s, 0))

    @property
    def burst(self) -> int:
        """Prompt tokens for a step whose streams have only just begun, of requests that came
        together: they let the others catch up, and all of them share the wait."""
        row_s = self._expected(1, 0) or 0.0
        return self._fitting(max(self._max_stall_s, self._max_gap_ratio * row_s), 0)

    def alone(self, depth: int, room: int) -> int:
        """Prompt tokens for a step on a GPU beside which nobody streams, at most `room`: as many
        whole parts as are no stall for who comes meanwhile, one at least."""
        whole = NUMBERS.whole_rows
        fitting = self._fitting(self._max_stall_s, 0, depth)
        return min(max(1, fitting // whole) * whole, room)

    def chunk(self, num_rows: int, num_requests: int, depth: int, room: int) -> int:
        """Prompt tokens that may join a step of so many decoding rows, for the prompts of
        `num_requests` together, at most `room`; the first of them comes after `depth` others of its
        prompt.

        Where prompts of more requests are read than sequences stream, the gap grows with their
        share, up to `max_stall_s`: few would be served smoothly, and many would wait. One request
        never makes it grow, however many prompts it has.
        """
        if self._times.is_fresh(num_rows):
            self._num_pauses = 0
        elif self._num_pauses < NUMBERS.max_pauses:
            self._num_pauses += 1
            return 0
        usual_s = self._expected(num_rows, 0)
        if usual_s is None:
            return min(NUMBERS.tile_rows, room)
        step_s = self._max_gap_ratio * usual_s
        step_s = max(step_s, min(step_s * num_requests / num_rows, self._max_stall_s))
        small = min(self._fitting(NUMBERS.aim * step_s - usual_s, num_rows, depth), room)
        for num_tiles in (2, 1) if depth >= NUMBERS.tile_depth else ():
            size = num_tiles * NUMBERS.tile_rows - num_rows
            if small < size <= room and self._pays(size, small, num_rows, depth):
                return size
        return small

    def _pays(self, size: int, small: int, num_rows: int, depth: int) -> bool:
        """Whether steps of `size` prompt tokens read a prompt so much sooner than steps of `small`
        that it is worth the longer gaps, and are no stall. Each computes the rows too. Where no
        step of a tile was seen, one will tell, if it is no stall even at the price of small ones.
        """
        large_s, small_s = (self._expected(num_rows, n, depth) or 0.0 for n in (size, small))
        is_sooner = small_s * size > NUMBERS.tile_gain * large_s * small
        is_unknown = not self._times.knows_tiles(self._threads.settled(is_prefill=True))
        return (is_sooner or is_unknown) and large_s <= NUMBERS.aim * self._max_stall_s

    def _expected(self, num_rows: int, num_prompt_tokens: int, depth: int = 0) -> float | None:
        threads = self._threads.settled(is_prefill=num_prompt_tokens > 0)
        return self._times.expected(num_rows, num_prompt_tokens, threads, depth)

    def _fitting(self, seconds: float, num_rows: int, depth: int = 0) -> int:
        threads = self._threads.settled(is_prefill=True)
        return self._times.num_tokens(seconds, num_rows, threads, depth)
