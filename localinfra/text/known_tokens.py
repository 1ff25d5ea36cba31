"""The tokens of texts that were tokenized before: a conversation's next turn repeats them all.

A prompt is cut before the control tokens that its template begins messages with. What stands on one
side of such a token does not change the tokens on the other, so each part is kept by itself, and
the parts stay the same as a conversation grows.
"""

import functools
import hashlib
import re
import threading
from array import array
from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from typing import NamedTuple

from localinfra.shares import Kept
from localinfra.text.vocabulary import Vocabulary

LEAST = 512  # characters of a part that is not the last one
MAX_KEPT = 2_000_000  # tokens, of 4 bytes; the oldest of who has most are dropped first
OVERHEAD = 100  # what each part takes beside its tokens, as tokens

MAX_BORDERS = 64  # kinds of such tokens: a template writes up to 10, a hostile one any number

AROUND = ("a \n", " a")  # between these, a token shows whether it strips or adds blanks


class Passage(NamedTuple):
    text: str
    parse_special: bool
    add_bos: bool

    @property
    def key(self) -> bytes:
        flags = bytes((self.parse_special, self.add_bos))
        text = self.text.encode("utf-8", "surrogatepass")  # what is not valid has no tokens
        return hashlib.blake2b(text, digest_size=16, salt=flags).digest()


class KnownTokens:
    """Of one vocabulary. Each client's are its own, so that none can tell from the time an answer
    takes what others have sent. Any thread."""

    def __init__(self, vocabulary: Vocabulary, templates: Collection[str]):
        """`templates`: the sources of those that make the prompts."""
        self._vocabulary = vocabulary
        self._templates = templates
        self._kept: Kept[bytes, array[int]] = Kept(MAX_KEPT)
        self._lock = threading.Lock()

    def tokens(
        self, client: str, text: str, *, parse_special: bool, add_bos: bool
    ) -> Iterator[Iterable[int]]:
        """`Vocabulary.tokens`. What was kept comes in parts of any length."""
        for passage in self._passages(text, parse_special, add_bos):
            key = passage.key
            kept = self._get(client, key)
            if kept is not None:
                yield kept
                continue
            ids = array("i")
            for part in self._vocabulary.tokens(
                passage.text, parse_special=parse_special, add_bos=passage.add_bos
            ):
                ids.extend(part)
                yield part
            self._put(client, key, ids)

    def _passages(self, text: str, parse_special: bool, add_bos: bool) -> Iterator[Passage]:
        start = 0
        borders = self._borders.finditer(text, LEAST) if parse_special else ()
        for border in borders:
            if border.start() >= start + LEAST:
                yield Passage(text[start : border.start()], parse_special, add_bos and not start)
                start = border.start()
        yield Passage(text[start:], parse_special, add_bos and not start)

    @functools.cached_property
    def _borders(self) -> re.Pattern[str]:
        control = self._vocabulary.control_tokens
        written = (mark for mark in control if any(mark in source for source in self._templates))
        marks = [*islice(filter(self._stands_apart, written), MAX_BORDERS)]
        marks = [mark for mark in marks if self._separates(mark)]
        return re.compile("|".join(map(re.escape, sorted(marks, key=len, reverse=True))) or "(?!)")

    @functools.cached_property
    def _characters(self) -> tuple[set[str], set[str]]:
        """Those that begin control tokens, and those within."""
        matched = {*self._vocabulary.control_tokens, *self._vocabulary.special_tokens}
        return {token[0] for token in matched}, {each for token in matched for each in token[1:]}

    def _stands_apart(self, mark: str) -> bool:
        """Whether none overlaps it: that one may be the one that is matched."""
        first, inner = self._characters
        return mark[0] not in inner and first.isdisjoint(mark[1:])

    def _separates(self, mark: str) -> bool:
        """Whether the tokens of a text are those of its parts before and from this token on."""
        before, after = AROUND

        def ids(text: str, add_bos: bool) -> list[int]:
            parts = self._vocabulary.tokens(text, parse_special=True, add_bos=add_bos)
            return [token for part in parts for token in part]

        whole = ids(before + mark + after, True)
        return whole == ids(before, True) + ids(mark + after, False)

    def _get(self, client: str, key: bytes) -> "array[int] | None":
        with self._lock:
            return self._kept.get(client, key)

    def _put(self, client: str, key: bytes, ids: "array[int]") -> None:
        with self._lock:
            self._kept.put(client, key, ids, len(ids) + OVERHEAD)
