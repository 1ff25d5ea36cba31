"""Limits per minute as buckets that fill steadily. Pure: the time is handed in, in seconds of a
clock that never goes back."""

MINUTE_S = 60.0
TINY = 1e-9  # parts that floating point may lose


class MinuteBucket:
    """Holds what may be used at once: a minute's worth at most, which comes back evenly.

    So any window of T seconds sees at most `per_minute` * (1 + T / 60). What a use takes is known
    for certain only at its end: the level may go below zero, and the next use waits longer.
    """

    def __init__(self, per_minute: int, now_s: float):
        self.per_minute = per_minute
        self._level = float(per_minute)
        self._at_s = now_s

    def level(self, now_s: float) -> float:
        """What may be used now; below zero, what was used too much."""
        if now_s > self._at_s:
            grown = self._level + (now_s - self._at_s) * self.per_minute / MINUTE_S
            self._level, self._at_s = min(grown, float(self.per_minute)), now_s
        return self._level

    def wait_s(self, amount: float, now_s: float) -> float:
        """Seconds until the amount is there, 0 if it is; a larger one than fits is served from a
        full bucket."""
        missing = min(amount, self.per_minute) - self.level(now_s)
        return 0.0 if missing <= TINY else missing * MINUTE_S / self.per_minute

    def take(self, amount: float, now_s: float) -> None:
        self._level = self.level(now_s) - amount

    def give_back(self, amount: float, now_s: float) -> None:
        """Of what was taken and not used; below zero, what was used besides."""
        self._level = min(self.level(now_s) + amount, float(self.per_minute))

    def full_in_s(self, now_s: float) -> float:
        """Seconds until it is full, if nothing more is taken."""
        return max(0.0, self.per_minute - self.level(now_s)) * MINUTE_S / self.per_minute
