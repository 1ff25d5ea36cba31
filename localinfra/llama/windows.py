"""Where a long text can be cut so that its parts have the tokens of the whole. No pointers.

llama.cpp's tokenizers want short texts: those that split words by std::regex end the process at a
run of 30,000 letters or blanks, where the stack is used up; SentencePiece takes time quadratic in
the bytes that no token has (29 s for 800,000 line breaks); the search for marks is quadratic in
their number.
"""

import re
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

# Characters in one call. A third of what the stack of a thread (8 MiB) was seen to bear.
WINDOW = 8192

MAX_MARK = 256  # characters of a mark that a cut is kept out of
TRIES = 64  # of places beside marks
BLANKS = np.frombuffer(b" \n\r\t", np.uint8)


class Windows:
    """A vocabulary's places to cut.

    No merge crosses two bytes that stand side by side in no token, so between them a text can be
    cut. Next best is before a mark; where there is neither in a whole window, as in 10,000 equal
    signs, the cut is made all the same: the tokens still spell the text, but some are shorter.
    """

    def __init__(self, tokens: Iterable[bytes], marks: Iterable[str]):
        """`tokens` are what all tokens spell, marks too."""
        joined = np.zeros((256, 256), np.bool_)
        for token in tokens:
            pairs = np.frombuffer(token, np.uint8)
            joined[pairs[:-1], pairs[1:]] = True
        joined[:, 0x80:0xC0] = True  # within a character
        self._joined = joined
        self._marks = tuple(mark for mark in marks if mark)
        longest_first = sorted(self._marks, key=len, reverse=True)
        self._mark = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    def of(self, text: str, *, has_marks: bool) -> Iterator[str]:
        """The text in parts of at most WINDOW characters. `has_marks`: marks in it are read."""
        start = 0
        while len(text) - start > WINDOW:
            stop = start + self._cut(text[start : start + WINDOW + MAX_MARK], has_marks)
            yield text[start:stop]
            start = stop
        yield text[start:]

    def ends_in_mark(self, text: str) -> bool:
        return text.endswith(self._marks)

    def _cut(self, text: str, has_marks: bool) -> int:
        """At most WINDOW; `text` goes on for some characters, to see what follows."""
        data = np.frombuffer(text[: WINDOW + 1].encode(), np.uint8)
        half = len(text[: WINDOW // 2].encode())
        free: NDArray[np.bool_] = ~self._joined[data[half:-1], data[half + 1 :]]
        places = np.flatnonzero(free)[::-1] + half + 1
        # Before a blank is best: punctuation there says nothing of how what follows is split.
        places = places[np.argsort(~np.isin(data[places], BLANKS), kind="stable")]
        starts = [found.start() for found in self._mark.finditer(text)] if has_marks else []
        for place in places[:TRIES].tolist():
            at = len(data[:place].tobytes().decode())
            # How a word is split off depends on whether blanks are followed by more.
            if not text[at - 1].isspace() and not (starts and self._is_beside_mark(text, at)):
                return at
        start = max((start for start in starts if start <= WINDOW), default=0)
        if start and not text[start - 1].isspace():
            return start
        around = self._mark.finditer(text, max(0, WINDOW - MAX_MARK)) if has_marks else ()
        return next((m.start() for m in around if 0 < m.start() < WINDOW < m.end()), WINDOW)

    def _is_beside_mark(self, text: str, at: int) -> bool:
        """Marks may strip the blanks around them, and what follows one begins a text anew."""
        before, after = text[:at].rstrip(), text[at:].lstrip()
        return before.endswith(self._marks) or after.startswith(self._marks)
