"""How many prompt tokens may join a step while others stream, from what steps take.

A running stream should wait at most `max_gap_ratio` times its usual step: prompts get what fits in
such a step. Where the usual step is not known, a few steps go without prompts to show it.

Deep in a prompt, few tokens fit in the gap, and they cost much: 2,000 tokens deep, a token takes
12.5 ms in a chunk of 16, 6.5 ms in a tile of 64 rows, and 5.5 ms in two tiles (SmolLM2-135M on two
cores). Chunks become one or two whole tiles there, if a step then takes less than `max_stall_s`.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from localinfra.engine.policy.numbers import NUMBERS
from localinfra.engine.policy.step_times import StepTimes
from localinfra.engine.policy.threads import ThreadController


class Unread(NamedTuple):
    """The rest of a prompt."""

    depth: int  # tokens before it
    size: int


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
        fitting = self._times.num_tokens(self._max_gap_ratio * row_s, 0, self._num_threads)
        return max(2 * NUMBERS.tile_rows, fitting)

    def alone(self, depth: int, room: int) -> int:
        """Prompt tokens for a step on a GPU beside which nobody streams, at most `room`: as many
        whole parts as are no stall for who comes meanwhile, one at least."""
        whole = NUMBERS.whole_rows
        fitting = self._times.num_tokens(self._max_stall_s, 0, self._num_threads, depth)
        return min(max(1, fitting // whole) * whole, room)

    def chunk(
        self,
        num_rows: int,
        share: float,
        prompts: Sequence[Unread],
        room: int,
        *,
        is_apart: bool = False,
    ) -> int:
        """Tokens of these prompts, in turn, that streams of so many decoding rows may wait for, at
        most `room`: in the same step or, with `is_apart`, in one before theirs.

        `share`: requests that read prompts for each row. Where it is above 1, the gap grows with
        it, up to `max_stall_s`: few would be served smoothly, and many would wait. One request
        never makes it grow, however many prompts it has. Infinite where all came together and the
        streams have only just begun: they let the others catch up, and all share the wait.
        """
        usual_s = self._expected(num_rows, 0)
        step_s = self._max_gap_ratio * (usual_s or 0.0)
        # If all came together: the gap does not depend on what is usual, so none needs to show it.
        is_stall = math.isinf(share) and step_s < self._max_stall_s
        if self._times.is_fresh(num_rows):
            self._num_pauses = 0
        elif self._num_pauses < NUMBERS.max_pauses and not is_stall:
            self._num_pauses += 1
            return 0
        room = min(room, sum(prompt.size for prompt in prompts))
        if usual_s is None and not is_stall:
            return min(NUMBERS.tile_rows, room)
        usual_s = usual_s or 0.0
        step_s = (
            self._max_stall_s if is_stall else max(step_s, min(step_s * share, self._max_stall_s))
        )
        beside, apart_s = (0, usual_s) if is_apart else (num_rows, 0.0)
        small = min(self._fitting(NUMBERS.aim * step_s - usual_s, beside, prompts, room), room)
        for num_tiles in (2, 1):
            size = num_tiles * NUMBERS.tile_rows - beside
            depth = mean_depth(prompts, size)
            if small < size <= room and depth >= NUMBERS.tile_depth:
                small_s = apart_s + (self._expected(beside, small, depth) or 0.0)
                large_s = apart_s + (self._expected(beside, size, depth) or 0.0)
                if self._pays(small_s / small, large_s / size, large_s, depth):
                    return size
        return small

    def _pays(self, small_token_s: float, token_s: float, step_s: float, depth: float) -> bool:
        """Whether a step of tiles reads a prompt so much sooner than small ones that it is worth
        the longer gap, and is no stall. Where too few were seen, the next one will tell."""
        is_sooner = small_token_s > NUMBERS.tile_gain * token_s
        is_known = self._times.knows_tiles(self._num_threads, depth)
        return (is_sooner or not is_known) and step_s <= NUMBERS.aim * self._max_stall_s

    def _fitting(self, seconds: float, num_rows: int, prompts: Sequence[Unread], room: int) -> int:
        """How many tokens of the prompts, in turn, take so long beside so many rows in a step with
        `room` for so many: one at least."""
        threads, depth = self._num_threads, prompts[0].depth
        left = self._times.num_tokens(seconds, num_rows, threads, depth, room)
        is_tile = left + num_rows >= NUMBERS.tile_rows
        num_tokens = 0
        for prompt in prompts:
            worth = self._times.ratio(depth, prompt.depth, threads, is_tile)
            left, depth = math.ceil(left * worth), prompt.depth
            taken = min(left, prompt.size)
            num_tokens, left = num_tokens + taken, left - taken
            if not left:
                break
        return max(1, num_tokens)

    @property
    def _num_threads(self) -> int:
        """Of steps with prompt tokens."""
        return self._threads.settled(is_prefill=True)

    def _expected(self, num_rows: int, num_prompt_tokens: int, depth: float = 0) -> float | None:
        threads = self._threads.settled(is_prefill=num_prompt_tokens > 0)
        return self._times.expected(num_rows, num_prompt_tokens, threads, depth)


def mean_depth(prompts: Sequence[Unread], size: int) -> float:
    """How many tokens come before each of the first `size` ones of the prompts, on average."""
    total, left = 0, size
    for prompt in prompts:
        taken = min(left, prompt.size)
        total, left = total + taken * prompt.depth, left - taken
        if not left:
            break
    return total / max(1, size - left)
