"""Prompt lookup: drafts a sequence's next tokens from its own past, with their probability.

Pure: token ids in, drafts out. Drafts change only the speed, never the text: each drafted row is
sampled like any other, and tokens that agree are accepted. (Saxena, "Prompt Lookup Decoding",
2023; the index is the hash chain of LZ77 compressors.)
"""

from array import array

import msgspec


class DraftNumbers(msgspec.Struct, frozen=True):
    indexed_per_lookup: int = 4096  # tokens, about 1 ms; longer prompts need several lookups
    # Both the earlier occurrences of a pair that are tried, most recent first, and the tokens
    # compared at each.
    max_compared: int = 32
    # How often the next token continues a match of 2-3, 4-7, 8-15 or more tokens: between the
    # rates for new prose and for edited files (this repository's, in SmolLM2's tokens).
    prior_chances: tuple[float, ...] = (0.4, 0.65, 0.8, 0.95)
    prior_weight: float = 4.0  # the priors count as this many observed tokens
    memory: float = 1 - 1 / 32  # decay of a hit's or miss's weight with each later token
    max_draft: int = 16  # tokens per step; more pay only where rows are free, and then little


NUMBERS = DraftNumbers()


class PastIndex:
    """Finds earlier occurrences of the last tokens of a growing list.

    Keeps no copy of the list; takes some 150 bytes per token, a hundredth of its KV cell.
    """

    def __init__(self, tokens: list[int]):
        self._tokens = tokens
        self._latest: dict[int, int] = {}  # a pair of tokens → the position after it
        self._earlier = array("i", (0, 0))  # by position: the previous one of the same pair

    def find(self) -> tuple[int, int]:
        """The longest earlier match of the list's end, as (distance back, length) in tokens.

        The most recent of equals; (0, 0) if not even two tokens match.
        """
        self._catch_up()
        tokens, end = self._tokens, len(self._tokens)
        if end < 3:
            return 0, 0
        best, best_length = 0, 1
        candidate = self._latest.get(tokens[-2] << 32 | tokens[-1], 0)
        for _ in range(NUMBERS.max_compared):
            if not candidate or best_length >= NUMBERS.max_compared:
                break
            # Cheap test: a longer match must agree at this token.
            if tokens[max(0, candidate - 1 - best_length)] == tokens[end - 1 - best_length]:
                length = self._compare(candidate, end)
                if length > best_length:
                    best, best_length = candidate, length
            candidate = self._earlier[candidate]
        return (end - best, best_length) if best else (0, 0)

    def _compare(self, candidate: int, end: int) -> int:
        """The number of tokens before `candidate` that equal those before `end`."""
        tokens = self._tokens
        for length in range(min(candidate, NUMBERS.max_compared)):
            if tokens[candidate - 1 - length] != tokens[end - 1 - length]:
                return length
        return min(candidate, NUMBERS.max_compared)

    def _catch_up(self) -> None:
        tokens, latest, earlier = self._tokens, self._latest, self._earlier
        # The pair at the very end is left out: nothing follows it yet.
        stop = min(len(tokens), len(earlier) + NUMBERS.indexed_per_lookup)
        for after in range(len(earlier), stop):
            pair = tokens[after - 2] << 32 | tokens[after - 1]
            earlier.append(latest.get(pair, 0))
            latest[pair] = after


class Drafter:
    """Drafts for one sequence. Reads its token list; others append to it.

    Every new token shows whether a guess would have been right, drafted or not. So rates are
    learned from steps without drafts too, and no trial drafts are needed.
    """

    def __init__(self, tokens: list[int]):
        self._tokens = tokens
        self._past = PastIndex(tokens)
        self._num_seen = len(tokens)
        self._distance = 0  # of the current match, in tokens back; 0: no match
        self._length = 0  # of that match
        self._hits = [NUMBERS.prior_weight * chance for chance in NUMBERS.prior_chances]
        self._trials = [NUMBERS.prior_weight for _ in NUMBERS.prior_chances]
        self._chances: list[float] = []  # of the current guesses
        self._promise = 0.0  # expected number of accepted tokens of the last draft
        # Decayed sums over earlier drafts: accepted tokens expected, and found.
        self._promised = self._kept = NUMBERS.prior_weight

    def chances(self, max_tokens: int) -> list[float]:
        """The probabilities that the first 1, 2, ... guesses are all right; [] without guesses."""
        self._follow()
        max_guesses = min(max_tokens, NUMBERS.max_draft) if self._distance else 0
        start = len(self._tokens) - self._distance
        ahead = self._tokens[start : start + max_guesses]
        of_pictures = (at for at, token in enumerate(ahead) if token < 0)
        max_guesses = next(of_pictures, max_guesses)  # no text has such tokens
        chances: list[float] = []
        # Drafts are made where measured rates are high, partly by luck: correct for that bias.
        chance = min(1.0, self._kept / self._promised)
        for length in range(self._length, self._length + max_guesses):
            kind = length_class(length)
            chance *= self._hits[kind] / self._trials[kind]
            chances.append(chance)
        self._chances = chances
        return chances

    def draft(self, num_tokens: int) -> list[int]:
        """The guesses rated by the last `chances`, to be called first after each new token.

        A match that overlaps the end of the list continues periodically.
        """
        self._promise = sum(self._chances[:num_tokens])
        start = len(self._tokens) - self._distance
        guesses = self._tokens[start : start + num_tokens]
        while guesses and len(guesses) < num_tokens:
            guesses += guesses[: num_tokens - len(guesses)]
        return guesses

    def accept(self, num_right: int) -> None:
        """Records how many tokens of the last draft were accepted."""
        self._promised += self._promise
        self._kept += num_right

    def _follow(self) -> None:
        """Extends the match while it holds, since it stays the longest; else finds another."""
        tokens = self._tokens
        if len(tokens) > self._num_seen:  # the record decays towards that of a fresh start
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
    """The index into NUMBERS.prior_chances for a match of `length` tokens, at least two."""
    return min(length.bit_length() - 2, len(NUMBERS.prior_chances) - 1)
