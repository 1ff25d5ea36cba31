"""How much of a key's limits is used: one meter for each key, a permit for each request.

Event loop only. The clock is handed in.
"""

from collections.abc import Callable, Collection
from typing import Literal

import msgspec

from localinfra.errors import RateLimited
from localinfra.keys.bucket import TINY, MinuteBucket
from localinfra.keys.record import KeyLimits

Clock = Callable[[], float]  # seconds, never going back
SOON_S = 1.0  # when to ask again if a running request must end first


class LimitState(msgspec.Struct, frozen=True):
    """A limit per minute as clients are told of it."""

    what: Literal["requests", "tokens"]
    limit: int
    remaining: int
    full_in_s: float


class KeyMeter:
    """What requests with one key have used."""

    def __init__(self, limits: KeyLimits, clock: Clock):
        self._clock = clock
        self._requests: MinuteBucket | None = None
        self._tokens: MinuteBucket | None = None
        self.num_running = 0
        self.num_left = 0  # of these, whose clients have left: what they used is not counted yet
        self.apply(limits)

    def apply(self, limits: KeyLimits) -> None:
        """A limit that has changed starts anew; requests that run still count."""
        self.limits = limits
        self._requests = self._bucket(self._requests, limits.rpm)
        self._tokens = self._bucket(self._tokens, limits.tpm)

    def _bucket(self, old: MinuteBucket | None, per_minute: int | None) -> MinuteBucket | None:
        if old and old.per_minute == per_minute:
            return old
        return MinuteBucket(per_minute, self._clock()) if per_minute else None

    def enter(self, num_tokens: int) -> int:
        """Begins a request that is likely to use so many tokens. Returns how many are reserved.
        Raises RateLimited, and then nothing is used."""
        now_s, most = self._clock(), self.limits.concurrent
        num_awaited = self.num_running - self.num_left
        if most is not None and num_awaited >= most:
            raise RateLimited(
                f"{num_awaited} requests with this API key are running, as many as may at the "
                "same time: wait until one has ended.",
                "requests",
                SOON_S,
            )
        if self._requests and (wait_s := self._requests.wait_s(1, now_s)):
            raise RateLimited(
                f"Rate limit reached for this API key on requests per min (RPM): Limit "
                f"{self._requests.per_minute}. Please try again in {duration(wait_s)}.",
                "requests",
                wait_s,
            )
        if self._tokens and (wait_s := self._tokens.wait_s(num_tokens, now_s)):
            left = max(0, int(self._tokens.level(now_s)))
            raise RateLimited(
                f"Rate limit reached for this API key on tokens per min (TPM): Limit "
                f"{self._tokens.per_minute}, Remaining {left}, Requested about {num_tokens}. "
                f"Please try again in {duration(wait_s)}.",
                "tokens",
                wait_s,
            )
        self.num_running += 1
        if self._requests:
            self._requests.take(1, now_s)
        if self._tokens is None:
            return 0
        reserved = min(num_tokens, self._tokens.per_minute)
        self._tokens.take(reserved, now_s)
        return reserved

    def leave(self, reserved: int, num_used: int) -> None:
        """Ends a request that has used so many tokens."""
        self.num_running -= 1
        if self._tokens:
            self._tokens.give_back(reserved - num_used, self._clock())

    def states(self) -> list[LimitState]:
        """The limits per minute that the key has."""
        now_s = self._clock()
        found = []
        if self._requests:
            found.append(state_of("requests", self._requests, now_s))
        if self._tokens:
            found.append(state_of("tokens", self._tokens, now_s))
        return found


def state_of(what: Literal["requests", "tokens"], bucket: MinuteBucket, now_s: float) -> LimitState:
    remaining = max(0, int(bucket.level(now_s) + TINY))
    return LimitState(what, bucket.per_minute, remaining, bucket.full_in_s(now_s))


class Permit:
    """What one request may do: use some models, within the limits of its key."""

    def __init__(self, meter: KeyMeter | None = None, models: frozenset[str] | None = None):
        """Without anything, all. `models`: the names that may be used."""
        self.models = models
        # Of prompt and answer, as far as the body tells; 0 until it is read.
        self.expected_tokens = 0
        self._meter = meter
        self._reserved: int | None = None  # None: not entered
        self._is_left = False

    def again(self) -> "Permit":
        """One for another part of the request's work, such as that in the background."""
        own = Permit(self._meter, self.models)
        own.expected_tokens = self.expected_tokens
        return own

    def enter(self) -> None:
        """Counts the request, once it is about to use a model. Raises RateLimited."""
        if self._meter and self._reserved is None:
            self._reserved = self._meter.enter(self.expected_tokens)

    def client_left(self) -> None:
        """Another request may take this one's place, while the engine ends the step in which it
        learns of that: whoever stops an answer asks something else at once."""
        if self._meter and self._reserved is not None and not self._is_left:
            self._is_left = True
            self._meter.num_left += 1

    def leave(self, num_tokens: int) -> None:
        """The request has ended; `num_tokens` is what it really used."""
        if self._meter and self._reserved is not None:
            self._meter.leave(self._reserved, num_tokens)
            self._meter.num_left -= self._is_left
            self._reserved, self._is_left = None, False

    def states(self) -> list[LimitState]:
        return self._meter.states() if self._meter else []


class Meters:
    """The meter of each limited key, by its label. What it has used stays known, whatever happens
    to other keys."""

    def __init__(self, clock: Clock):
        self._clock = clock
        self._meters: dict[str, KeyMeter] = {}

    def of(self, label: str, limits: KeyLimits) -> KeyMeter | None:
        """None for a key without limits."""
        if not limits.has_any:
            return None
        if label not in self._meters:
            self._meters[label] = KeyMeter(limits, self._clock)
        meter = self._meters[label]
        if meter.limits != limits:
            meter.apply(limits)
        return meter

    def keep_only(self, labels: Collection[str]) -> None:
        """Forgets the meters of other keys. Permits that are out still have theirs."""
        self._meters = {label: meter for label, meter in self._meters.items() if label in labels}


def duration(seconds: float) -> str:
    """As OpenAI writes one: 20ms, 8.64s, 6m0s, 1h0m0s."""
    if seconds < 1:
        return f"{max(0, round(seconds * 1000))}ms"
    hundredths = round(seconds * 100)
    minutes, rest = divmod(hundredths, 6000)
    if not minutes:
        return f"{rest / 100:g}s"
    hours, minutes = divmod(minutes, 60)
    return f"{f'{hours}h' if hours else ''}{minutes}m{rest / 100:g}s"
