"""How many prompt tokens may join a step while others stream, from how long steps took.

Arithmetic on observed seconds: no clock, no sequences. The scheduler asks before each step and
reports after it.

Two aims, and where they part. A running stream should wait at most `max_gap_ratio` times its usual
step, and prompts should be read nearly as fast as alone in the time that the streams leave. (At
four usual steps the decoding rows themselves take a quarter of it.) Where such a gap only has room
for chunks too small to be efficient, chunks grow: to those with 85 % of the speed of endless ones,
up to twice the target; or to whole tiles, up to three quarters of a second. llama.cpp's attention
on CPUs works on tiles of 64 rows, and row by row in smaller steps. Near a prompt's beginning that
makes no difference; 2,000 tokens deep a token costs twice as much in a chunk of 16 (12.5 ms, in
steps of 64 rows 6.5; SmolLM2-135M on two cores), and small chunks would make all wait longer.
"""

import statistics

FIRST_CHUNK = 128  # tokens, when nothing is known at all
FIRST_BLIND_CHUNK = 8  # when only the usual step is: a token costs up to 0.7 of a row's step
MIN_CHUNK = 2  # prefill always moves
MULTIPLES = {64: 16, 16: 4, 0: 1}  # from so many tokens on, sizes are multiples of this

AIM = 0.85  # of the allowed gap: steps scatter by 10 to 15 % on a quiet machine
EFFICIENCY = 0.85
MAX_EXCESS = 2.0  # times the target, where efficiency asks for it

NOISE = 1.33  # a time off by no more than this factor is no news; beyond, the first two are chance
NUM_SURPRISES = 3
USUAL_RATE = 0.3  # weight of the newest usual step
CHUNK_MEMORY = 0.9  # weight of a chunk's cost after each later one: ten count
RIDGE = 0.5  # chunk sizes must vary by this much before they tell fixed from per-token costs
MAX_GROWTH = 1.5  # of a chunk from step to step: costs at other sizes are extrapolated

TILE_ROWS = 64  # of a step, decoding ones included
TILE_DEPTH = 384  # tokens; before, a prompt's chunks are small and show what that costs
TILE_GAIN = 1.2  # from this on a cheaper token is worth a longer gap
MAX_STALL_S = 0.75

REFRESH_STEPS = 32  # a usual step is measured again after this many, by leaving prompts out of one
MAX_PAUSES = 4  # of prompts in a row for that: two steps agree, or the median of three counts


class ChunkCost:
    """Seconds that n prompt tokens add to a step, fitted as `fixed + per_token * n`.

    A linear regression of seconds per token on 1 / n (relative errors are alike at all sizes) with
    exponential forgetting. While sizes do not vary all cost is taken to be per token.
    """

    def __init__(self) -> None:
        self._weight = 0.0
        self._x = self._y = self._xx = self._xy = 0.0  # means of 1 / n, seconds / n and products

    @property
    def is_known(self) -> bool:
        return self._weight > 0

    @property
    def fit(self) -> tuple[float, float]:
        """Seconds: fixed, and per token. Neither is negative."""
        spread = self._xx - self._x**2
        slope = (self._xy - self._x * self._y) / (spread + (RIDGE * self._x) ** 2)
        fixed = min(max(slope, 0.0), 0.9 * self._y / self._x)
        return fixed, self._y - fixed * self._x

    @property
    def efficient(self) -> float:
        """Tokens of a chunk that is read with EFFICIENCY of the speed of endless ones."""
        fixed, per_token = self.fit
        return fixed / per_token * EFFICIENCY / (1 - EFFICIENCY)

    def expected(self, num_tokens: int) -> float:
        fixed, per_token = self.fit
        return fixed + per_token * num_tokens

    def forget(self) -> None:
        """The next chunk counts as much as all that were seen."""
        self._weight = min(self._weight, 1.0)

    def learn(self, num_tokens: int, seconds: float) -> None:
        if self.is_known:
            expected = self.expected(num_tokens)
            seconds = min(max(seconds, expected / NOISE), expected * NOISE)
        self._weight = self._weight * CHUNK_MEMORY + 1
        share, x, y = 1 / self._weight, 1 / num_tokens, max(seconds, 1e-6) / num_tokens
        self._x += share * (x - self._x)
        self._y += share * (y - self._y)
        self._xx += share * (x * x - self._xx)
        self._xy += share * (x * y - self._xy)


class StepPacer:
    """Sizes prompt chunks by measured step times. The engine's thread only."""

    def __init__(self, max_gap_ratio: float = 4.0, batch_size: int = 512):
        self._max_gap_ratio = max_gap_ratio
        self._batch_size = batch_size  # tokens of a step, decoding rows included
        self._usual_s: dict[int, float] = {}  # of a step of so many decoding rows and no prompts
        self._measured: dict[int, int] = {}  # the step at which that was confirmed
        self._surprises: dict[int, list[float]] = {}  # usual steps that were not, in a row
        self._num_odd_chunks = 0  # in a row
        self._num_steps = 0
        self._num_pauses = 0  # of prompts, in a row
        self._chunk_cost = ChunkCost()
        self._tile_cost = ChunkCost()  # of chunks that were cut for whole tiles, or read alone
        self._is_tile = False  # the present step has one
        self._last_budget = FIRST_BLIND_CHUNK

    @property
    def enough(self) -> int:
        """Tokens of a step from which on larger ones read prompts no faster: where nobody waits
        for anything else, the next prompt can have a step of its own, after the first's answer has
        begun."""
        if not self._tile_cost.is_known:
            return 0
        return max(2 * TILE_ROWS, round(self._tile_cost.efficient))

    def burst_budget(self, num_decoding: int) -> int:
        """Prompt tokens for a step whose streams have only just begun, of requests that came
        together: they let the others catch up, which is shared out in pauses of MAX_STALL_S."""
        self._is_tile = False
        cost = self._tile_cost if self._tile_cost.is_known else self._chunk_cost
        num_tokens = FIRST_CHUNK
        if cost.is_known:
            fixed, per_token = cost.fit
            num_tokens = int((MAX_STALL_S - fixed) / per_token)
        return min(max(num_tokens, MIN_CHUNK), max(self._batch_size - num_decoding, 0))

    def chunk_budget(
        self, num_decoding: int, num_prompts: int = 1, depth: int = 0, max_rows: int | None = None
    ) -> int:
        """Prompt tokens that may join the next step, for all of `num_prompts` together; the first
        of them comes after `depth` others of its prompt.

        Where more prompts are read than sequences stream, the gap grows with their share: it would
        be few that are served smoothly, and many that wait.

        0 at times, MAX_PAUSES times in a row at most: a step without prompts shows what is usual.
        """
        self._is_tile = False
        max_rows = max_rows or self._batch_size
        room = max(max_rows - num_decoding, 0)
        if not num_decoding:
            return room
        if not self._usual_s and not self._chunk_cost.is_known:
            return min(FIRST_CHUNK, room)
        if self._needs_usual(num_decoding):
            if self._num_pauses < MAX_PAUSES:
                self._num_pauses += 1
                return 0
            # No step told: each held what a grammar forces. It may be some time before one does.
            self._measured[num_decoding] = self._num_steps
        self._num_pauses = 0
        if num_decoding not in self._usual_s:
            return min(FIRST_BLIND_CHUNK, room)
        usual_s = self._usual_s[num_decoding]
        has_room = max_rows >= TILE_ROWS
        self._is_tile = (
            has_room and depth >= TILE_DEPTH and self._pays_whole_tile(num_decoding, usual_s)
        )
        if self._is_tile:
            return min(TILE_ROWS - num_decoding, room)
        size = self._size(usual_s, max(1.0, num_prompts / num_decoding))
        size = max(int(min(size, MAX_GROWTH * self._last_budget)), MIN_CHUNK)
        multiple = next(multiple for start, multiple in MULTIPLES.items() if size >= start)
        self._last_budget = size // multiple * multiple
        return min(self._last_budget, room)

    def observe(self, num_decoding: int, num_prompt_tokens: int, seconds: float) -> None:
        """A step took `seconds`. Chunks below MIN_CHUNK, a prompt's last tokens, tell nothing."""
        self._num_steps += 1
        if not num_prompt_tokens:
            self._learn_usual(num_decoding, seconds)
        elif num_prompt_tokens >= MIN_CHUNK and (not num_decoding or num_decoding in self._usual_s):
            self._learn_chunk(num_decoding, num_prompt_tokens, seconds)

    def _size(self, usual_s: float, excess: float) -> float:
        if not self._chunk_cost.is_known:
            return FIRST_BLIND_CHUNK
        fixed, per_token = self._chunk_cost.fit

        def fitting(ratio: float) -> float:
            return ((AIM * ratio - 1) * usual_s - fixed) / per_token

        gap_ratio = self._max_gap_ratio * excess
        return max(
            fitting(gap_ratio), min(self._chunk_cost.efficient, fitting(gap_ratio * MAX_EXCESS))
        )

    def _pays_whole_tile(self, num_decoding: int, usual_s: float) -> bool:
        num_tokens = TILE_ROWS - num_decoding
        if num_tokens < MIN_CHUNK or not (self._chunk_cost.is_known and self._tile_cost.is_known):
            return False
        tile_s = self._tile_cost.expected(num_tokens)
        small_s = self._chunk_cost.fit[1] * num_tokens
        return small_s > TILE_GAIN * tile_s and usual_s + tile_s <= MAX_STALL_S

    def _needs_usual(self, num_decoding: int) -> bool:
        age = self._num_steps - self._measured.get(num_decoding, -REFRESH_STEPS)
        return age >= REFRESH_STEPS

    def _learn_usual(self, num_decoding: int, seconds: float) -> None:
        known_s = self._usual_s.get(num_decoding)
        if known_s is None:
            self._usual_s[num_decoding] = seconds  # may be an outlier, so it stays unconfirmed
            return
        surprises = self._surprises.setdefault(num_decoding, [])
        if known_s / NOISE < seconds < known_s * NOISE:
            self._usual_s[num_decoding] += USUAL_RATE * (seconds - known_s)
        elif len(surprises) + 1 < NUM_SURPRISES:
            surprises.append(seconds)
            return
        else:
            self._usual_s[num_decoding] = statistics.median([*surprises, seconds])
        surprises.clear()
        self._measured[num_decoding] = self._num_steps

    def _learn_chunk(self, num_decoding: int, num_tokens: int, seconds: float) -> None:
        usual_s = self._usual_s.get(num_decoding, 0.0)
        if not num_decoding and num_tokens >= TILE_ROWS:
            self._tile_cost.learn(num_tokens, seconds)
        is_tile, self._is_tile = self._is_tile and num_decoding > 0, False
        cost = self._tile_cost if is_tile else self._chunk_cost
        if cost.is_known:
            expected = usual_s + cost.expected(num_tokens)
            is_odd = not expected / NOISE < seconds < expected * NOISE
            self._num_odd_chunks = self._num_odd_chunks + 1 if is_odd else 0
            if self._num_odd_chunks >= NUM_SURPRISES:  # the machine has changed
                cost.forget()
                self._measured.clear()
                self._num_odd_chunks = 0
        cost.learn(num_tokens, seconds - usual_s)
