"""Patterns that match streamed text, and tell whether more text could complete a match. Pure."""

import functools
import re
from collections.abc import Collection, Iterable, Mapping

import msgspec

from localinfra.chat.formats.form import ID, INDEX, KEY, NAME, PLACEHOLDERS, TYPE

MAX_HEADER_CHARS = 512  # of a call before its arguments; anything longer is not a call
BLANKS = re.compile(r"\s*")
PARTS = re.compile(rf"\s+|[{PLACEHOLDERS}]|[{{}}\[\],:;]|[^\s{PLACEHOLDERS}{{}}\[\],:;]+")

# What may stand for a placeholder, up to the literal that follows.
CONTENT = {
    NAME: re.compile(r"[\w.:/-]*"),
    ID: re.compile(r"[^\s<>\"']*"),
    INDEX: re.compile(r"[^\s<>\"']*"),
    KEY: re.compile(r"(?!/)[^\x00-\x1f<>\"'(){},]*"),
    TYPE: re.compile(r"\w*"),
}


class Found(msgspec.Struct, frozen=True):
    """The result of matching a pattern. `end` is None if it does not match; `is_open`: it may match
    once more text comes."""

    end: int | None = None
    is_open: bool = False
    is_cut: bool = False  # the text is the beginning of a match, and no more will come
    texts: Mapping[str, str] = {}  # placeholder → what stands for it

    @property
    def name(self) -> str:
        return self.texts[NAME]


class Pattern:
    """Literal text, with any number of blanks where it has some and around JSON's punctuation; and
    placeholders, which extend to the next literal."""

    def __init__(self, text: str, ahead: str = ""):
        """`ahead` must follow, but is not in the match."""
        self._parts = parts_of(text)  # literals, "" for any blanks, placeholders
        self._num_own = len(self._parts)
        self._parts += parts_of(ahead)
        self._max_chars = MAX_HEADER_CHARS + len(text) + len(ahead)

    @property
    def first(self) -> str:
        """The literal with which it begins."""
        return next((part for part in self._parts if part), "")

    def match(self, text: str, at: int = 0, is_all: bool = False) -> Found:
        """`is_all`: no more text will come."""
        begun = Found()
        if len(text) - at <= self._max_chars:
            begun = Found(is_open=not is_all, is_cut=is_all)
        texts: dict[str, str] = {}
        start, end = at, None
        for index, part in enumerate(self._parts):
            if index == self._num_own:
                end = at
            if part == "":
                at = skip_blanks(text, at)
            elif part in PLACEHOLDERS:
                stop = self._end_of(index, text, at)
                if stop is None:
                    return begun
                texts[part] = text[at:stop].strip()
                if not texts[part] and part in (NAME, KEY):
                    return Found()
                at = stop
            elif text.startswith(part, at):
                at += len(part)
            else:
                is_beginning = part.startswith(text[at : at + len(part)])
                return begun if is_beginning and len(text) - at < len(part) else Found()
        if at - start > self._max_chars:
            return Found()
        return Found(end=at if end is None else end, texts=texts)

    def _end_of(self, index: int, text: str, at: int) -> int | None:
        """Where the placeholder's text ends; None if more may belong to it."""
        part = self._parts[index]
        found = CONTENT[part].match(text, at)
        if not found:
            return at
        end = found.end()
        following = next((p for p in self._parts[index + 1 :] if p), "")[:1]
        if part == NAME:  # it may contain a colon, the last one is the mark
            stop = text.rfind(following, at, end) if following == ":" and end < len(text) else -1
        else:
            stop = text.find(following, at, end) if following else -1
        if stop >= 0:
            return stop
        return end if end < len(text) else None


def parts_of(text: str) -> list[str]:
    parts: list[str] = []
    for literal in PARTS.findall(text):
        if literal.isspace():
            parts.append("")
        elif literal in "{}[],:;":
            parts += ["", literal, ""]
        else:
            parts.append(literal)
    return parts


@functools.lru_cache(1024)
def pattern(text: str, ahead: str = "") -> Pattern:
    return Pattern(text, ahead)


def reads_back(name: str, mark: str) -> bool:
    """Whether this name, written in a mark for KEY, is what is read there."""
    written = mark.replace(TYPE, "").replace(KEY, name)
    return pattern(mark).match(written).texts.get(KEY) == name


def match_any(patterns: Iterable[Pattern], text: str, at: int = 0, is_all: bool = False) -> Found:
    """The first that matches; or else whether one is open or cut."""
    best = Found()
    for each in patterns:
        found = each.match(text, at, is_all)
        if found.end is not None:
            return found
        best = found if found.is_open or found.is_cut else best
    return best


def skip_blanks(text: str, at: int) -> int:
    found = BLANKS.match(text, at)
    assert found
    return found.end()


def find_mark(text: str, marks: Collection[str], at: int = 0) -> tuple[int, str]:
    """Where the first of the marks stands, and which; or where the end of the text begins one, and
    what is there of it. The length of the text and "" if there is neither."""
    hits = [(text.find(mark, at), mark) for mark in marks]
    hits = [hit for hit in hits if hit[0] >= 0]
    start, found = min(hits, key=lambda hit: hit[0], default=(len(text), ""))
    for mark in marks:
        begun = begun_at(text, mark, at, start)
        if begun is not None:
            start, found = begun, text[begun:]
    return start, found


def begun_at(text: str, mark: str, at: int, end: int) -> int | None:
    """The first place in `text[at:end]` from which on the text is the beginning of the mark."""
    at = max(at, len(text) - len(mark) + 1)
    while (at := text.find(mark[:1], at, end)) >= 0:
        if mark.startswith(text[at:]):
            return at
        at += 1
    return None


class JsonScanner:
    """Finds the end of one JSON value in streamed text."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._is_escaped = False
        self.has_begun = False

    def scan(self, text: str) -> int | None:
        """Number of characters of `text` in the value; None if all are and it is incomplete."""
        for at, character in enumerate(text):
            if self._in_string:
                if self._is_escaped:
                    self._is_escaped = False
                elif character == "\\":
                    self._is_escaped = True
                elif character == '"':
                    self._in_string = False
                    if not self._depth:
                        return at + 1
            elif character == '"':
                self._in_string = self.has_begun = True
            elif character in "{[":
                self._depth += 1
                self.has_begun = True
            elif character in "}]":
                self._depth -= 1
                if self._depth <= 0:
                    return at + 1 if not self._depth else at
            elif not self._depth and (character in ",\n" or character.isspace()):
                if self.has_begun:
                    return at  # a number or a word
            else:
                self.has_begun = True
        return None


class LiteralScanner:
    """Finds where a literal that stands among others may end: at one of `stops`, outside of its
    texts and containers."""

    def __init__(self, stops: str, quotes: str, marks: tuple[str, str] = ("", "")):
        """`quotes`: characters around texts with escapes. `marks`: around texts as they are."""
        self._stops = stops
        self._ends = {quote: quote for quote in quotes} | ({marks[0]: marks[1]} if marks[0] else {})
        self._inside = {end: re.compile(rf"\\.|\\\Z|{end}", re.DOTALL) for end in quotes}
        if marks[0]:
            self._inside[marks[1]] = re.compile(re.escape(marks[1]))
        singles = "[" + re.escape("{[()]}" + stops + quotes) + "]"
        self._outside = re.compile(f"{re.escape(marks[0])}|{singles}" if marks[0] else singles)
        self._marks = marks
        self._end = ""  # of the text that has begun
        self._depth = 0

    def scan(self, text: str, at: int) -> tuple[int, bool]:
        """Index of the next stop; or, with False, the end of what was looked at."""
        while at < len(text):
            start, mark = self._next(text, at)
            if not mark:
                return len(text), False
            if not self._end and not self._depth and mark in self._stops:
                return start, True
            if start + len(mark) == len(text) and not self._knows(mark):
                return start, False  # it may become a mark
            at = self.pass_over(text, start, mark)
        return at, False

    def _next(self, text: str, at: int) -> tuple[int, str]:
        """Where the next mark stands, and which; what is there of it at the end of the text."""
        found = (self._inside[self._end] if self._end else self._outside).search(text, at)
        start, mark = (found.start(), found[0]) if found else (len(text), "")
        awaited = self._marks[1 if self._end else 0]
        if awaited and self._end in ("", awaited):
            begun = begun_at(text, awaited, at, start + 1)
            if begun is not None:
                return begun, text[begun:]
        return start, mark

    def _knows(self, mark: str) -> bool:
        if self._end:
            return mark == self._end or (len(mark) == 2 and mark[0] == "\\")
        return mark in self._ends or mark in "{[()]}" or mark in self._stops

    def pass_over(self, text: str, at: int, mark: str = "") -> int:
        """Takes a mark, or the stop at `at`, as part of the literal."""
        mark = mark or text[at]
        if self._end:
            self._end = "" if mark == self._end else self._end
        elif mark in self._ends:
            self._end = self._ends[mark]
        elif mark in "{[(":
            self._depth += 1
        elif mark in ")]}":
            self._depth = max(0, self._depth - 1)
        return at + len(mark)
