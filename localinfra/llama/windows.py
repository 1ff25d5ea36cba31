"""Splits a long text so that the tokens of its parts are those of the whole. No pointers.

llama.cpp's tokenizers need short texts. Those that split words by std::regex overflow the stack and
crash at a run of 30,000 letters or blanks. SentencePiece takes time quadratic in the bytes without
a token (29 s for 800,000 line breaks), and the search for special tokens time quadratic in their
number.
"""

import functools
import re
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from localinfra.llama.settings import WINDOW

MAX_SPECIAL = 256  # characters; longer special tokens may be cut
TRIES = 64  # candidate places per cut
BLANKS = np.frombuffer(b" \n\r\t", np.uint8)


class Windows:
    """Finds places to cut a text, for one vocabulary.

    No merge joins two bytes that are adjacent in no token, so a text can be cut between them. The
    next best place is before a special token. If a window has neither, as in 10,000 equal signs,
    it is cut anyway: the tokens still spell the text, but some are shorter.
    """

    def __init__(self, tokens: Iterable[bytes], special_tokens: Iterable[str]):
        """`tokens`: the spellings of all tokens, including the special ones."""
        spelled = [token for token in tokens if token]
        data = np.frombuffer(b"".join(spelled), np.uint8)
        is_within = np.ones(max(0, len(data) - 1), np.bool_)  # a pair of neighbours, one token
        is_within[np.cumsum([len(token) for token in spelled[:-1]], dtype=np.intp) - 1] = False
        joined = np.zeros((256, 256), np.bool_)
        joined[data[:-1][is_within], data[1:][is_within]] = True
        joined[:, 0x80:0xC0] = True  # inside a character
        self._joined = joined
        self._special_tokens = tuple(text for text in special_tokens if text)

    @functools.cached_property
    def _special(self) -> re.Pattern[str]:
        """Finds special tokens. With Gemma's 6,400 of them it takes 0.13 s to compile, and 20 ms to
        search a window, so it is only used where there is no better place to cut."""
        longest_first = sorted(self._special_tokens, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    def of(self, text: str, *, parse_special: bool) -> Iterator[str]:
        """Yields parts of at most WINDOW characters; `parse_special` as in `Model.tokenize`."""
        start = 0
        while len(text) - start > WINDOW:
            stop = start + self._cut(text[start : start + WINDOW + MAX_SPECIAL], parse_special)
            yield text[start:stop]
            start = stop
        yield text[start:]

    def ends_in_special(self, text: str) -> bool:
        return text.endswith(self._special_tokens)

    def _cut(self, text: str, parse_special: bool) -> int:
        """The length of the next part, at most WINDOW; `text` is longer, to see what follows."""
        data = np.frombuffer(text[: WINDOW + 1].encode(), np.uint8)
        half = len(text[: WINDOW // 2].encode())
        free: NDArray[np.bool_] = ~self._joined[data[half:-1], data[half + 1 :]]
        places = np.flatnonzero(free)[::-1] + half + 1
        # Best before a blank: elsewhere punctuation before the cut may affect the split after it.
        places = places[np.argsort(~np.isin(data[places], BLANKS), kind="stable")]
        for place in places[:TRIES].tolist():
            at = len(data[:place].tobytes().decode())
            # Not after a blank: how blanks are split depends on what follows them.
            is_beside = parse_special and self._is_beside_special(text, at)
            if not text[at - 1].isspace() and not is_beside:
                return at
        starts = [found.start() for found in self._special.finditer(text)] if parse_special else []
        start = max((start for start in starts if start <= WINDOW), default=0)
        if start and not text[start - 1].isspace():
            return start
        around = self._special.finditer(text, max(0, WINDOW - MAX_SPECIAL)) if parse_special else ()
        return next((m.start() for m in around if 0 < m.start() < WINDOW < m.end()), WINDOW)

    def _is_beside_special(self, text: str, at: int) -> bool:
        """Special tokens may strip adjacent blanks, and a new text begins after each."""
        before, after = text[:at].rstrip(), text[at:].lstrip()
        return before.endswith(self._special_tokens) or after.startswith(self._special_tokens)
