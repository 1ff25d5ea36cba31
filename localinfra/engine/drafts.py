"""Prompt lookup: what a sequence may say next, read from its past, and how likely that is.

Pure: token ids in, drafts out. Nothing here changes a text, only its speed: each row of a draft is
sampled from as any other, and what agrees is kept. (Saxena, "Prompt Lookup Decoding", 2023; the
index is the hash chain of LZ77 compressors.)
"""

from array import array

import msgspec


class DraftNumbers(msgspec.Struct, frozen=True):
    indexed_per_lookup: int = 4096  # tokens, about a millisecond; longer prompts take several
    # Earlier occurrences of a pair, the most recent ones, and tokens of each that are compared.
    max_compared: int = 32
    # How often the next token continues a match of 2 or 3 tokens, of 4 to 7, 8 to 15, and of more:
    # between the rates of new prose and of edited files (this repository's, in SmolLM2's tokens).
    prior_chances: tuple[float, ...] = (0.4, 0.65, 0.8, 0.95)
    prior_weight: float = 4.0  # tokens of its own after which a sequence's rate counts as much
    memory: float = 1 - 1 / 32  # what a hit or a miss still weighs after the next one
    max_draft: int = 16  # tokens per step; more pay only where rows are free, and there little


NUMBERS = DraftNumbers()


class PastIndex:
    """Where the last tokens of a growing list occurred before.

    Reads the list and keeps no copy; some 150 bytes a token, a hundredth of its KV cells.
    """

    def __init__(self, tokens: list[int]):
        self._tokens = tokens
        self._latest: dict[int, int] = {}  # a pair of tokens → the position after it
        self._earlier = array("i", (0, 0))  # by that position: the one before it, of the same pair

    def find(self) -> tuple[int, int]:
        """The longest match of the list's end with an earlier part: how many tokens back, and its
        length; of equals the most recent. (0, 0) where not even two tokens match."""
        self._catch_up()
        tokens, end = self._tokens, len(self._tokens)
        if end < 3:
            return 0, 0
        best, best_length = 0, 1
        candidate = self._latest.get(tokens[-2] << 32 | tokens[-1], 0)
        for _ in range(NUMBERS.max_compared):
            if not candidate or best_length >= NUMBERS.max_compared:
                break
            # Most are dismissed by the one token that a longer match must have.
            if tokens[max(0, candidate - 1 - best_length)] == tokens[end - 1 - best_length]:
                length = self._compare(candidate, end)
                if length > best_length:
                    best, best_length = candidate, length
            candidate = self._earlier[candidate]
        return (end - best, best_length) if best else (0, 0)

    def _compare(self, candidate: int, end: int) -> int:
        """How many tokens before `candidate` equal those before `end`."""
        tokens = self._tokens
        for length in range(min(candidate, NUMBERS.max_compared)):
            if tokens[candidate - 1 - length] != tokens[end - 1 - length]:
                return length
        return min(candidate, NUMBERS.max_compared)

    def _catch_up(self) -> None:
        tokens, latest, earlier = self._tokens, self._latest, self._earlier
        # Up to the last token and no further: nothing comes after the pair at the end yet.
        stop = min(len(tokens), len(earlier) + NUMBERS.indexed_per_lookup)
        for after in range(len(earlier), stop):
            pair = tokens[after - 2] << 32 | tokens[after - 1]
            earlier.append(latest.get(pair, 0))
            latest[pair] = after


class Drafter:
    """Guesses for one sequence. Reads its token list, to which others append.

    The tokens that came tell what a guess was worth, verified or not. So it learns from steps
    without drafts as well, and needs no trials to find out that drafts would pay again.
    """

    def __init__(self, tokens: list[int]):
        self._tokens = tokens
        self._past = PastIndex(tokens)
        self._num_seen = len(tokens)
        self._distance = 0  # of the match it follows, in tokens back; 0 where there is none
        self._length = 0  # of that match
        self._hits = [NUMBERS.prior_weight * chance for chance in NUMBERS.prior_chances]
        self._trials = [NUMBERS.prior_weight for _ in NUMBERS.prior_chances]
        self._chances: list[float] = []  # of the present guesses
        self._promise = 0.0  # how many of the last guesses should be right
        # The same of those before, and how many were.
        self._promised = self._kept = NUMBERS.prior_weight

    def chances(self, max_tokens: int) -> list[float]:
        """For 1, 2, ... guesses the chance that all of them are right; [] where there are none."""
        self._follow()
        max_guesses = min(max_tokens, NUMBERS.max_draft) if self._distance else 0
        chances: list[float] = []
        # Guesses are made where rates are high, some of them by luck: those disappoint.
        chance = min(1.0, self._kept / self._promised)
        for length in range(self._length, self._length + max_guesses):
            kind = length_class(length)
            chance *= self._hits[kind] / self._trials[kind]
            chances.append(chance)
        self._chances = chances
        return chances

    def draft(self, num_tokens: int) -> list[int]:
        """The guesses that `chances`, called since the last token came, is about. A match that
        reaches the end of the list goes on periodically."""
        self._promise = sum(self._chances[:num_tokens])
        start = len(self._tokens) - self._distance
        guesses = self._tokens[start : start + num_tokens]
        while guesses and len(guesses) < num_tokens:
            guesses += guesses[: num_tokens - len(guesses)]
        return guesses

    def accept(self, num_right: int) -> None:
        """So many of the last draft's guesses were right."""
        self._promised += self._promise
        self._kept += num_right

    def _follow(self) -> None:
        """Goes along the match while it holds, which keeps it the longest; else finds another."""
        tokens = self._tokens
        if len(tokens) > self._num_seen:  # what was kept of guesses fades into a fresh start
            fading = (1 - NUMBERS.memory) * NUMBERS.prior_weight
            self._promised = NUMBERS.memory * self._promised + fading
            self._kept = NUMBERS.memory * self._kept + fading
        for position in range(self._num_seen, len(tokens)):
            if not self._distance:
                break
            hit = tokens[position] == tokens[position - self._distance]
            kind = length_class(self._length)
            self._hits[kind] = NUMBERS.memory * self._hits[kind] + hit
            self._trials[kind] = NUMBERS.memory * self._trials[kind] + 1
            self._distance, self._length = (self._distance, self._length + 1) if hit else (0, 0)
        self._num_seen = len(tokens)
        if not self._distance:
            self._distance, self._length = self._past.find()


def length_class(length: int) -> int:
    """Index into NUMBERS.prior_chances of a match of `length` tokens, two at least."""
    return min(length.bit_length() - 2, len(NUMBERS.prior_chances) - 1)
