"""Patterns that match streamed text, and tell whether more text could complete a match. Pure."""

import re

import msgspec

from localinfra.chat.formats.form import NAME

MAX_HEADER_CHARS = 512  # of a call before its arguments; anything longer is not a call


class Found(msgspec.Struct, frozen=True):
    """The result of matching a pattern at the start of a text. `end` is None if it does not match;
    `is_open`: it may match once more text comes."""

    end: int | None = None
    is_open: bool = False
    is_cut: bool = False  # the text is the beginning of a match, and no more will come
    name: str = ""


LITERAL = r"[{}\[\],:;]|[^\s\0{}\[\],:;]+"


class Pattern:
    """Literal text, with any number of blanks where it has some and around JSON's punctuation; and
    a name, which extends to the next literal, or to a blank or a brace if there is none."""

    def __init__(self, text: str):
        self._parts: list[str] = []  # literals, "" for any blanks, NAME
        for literal in re.findall(rf"\s+|\0|{LITERAL}", text):
            if literal.isspace():
                self._parts.append("")
            elif literal in "{}[],:;":
                self._parts += ["", literal, ""]
            else:
                self._parts.append(literal)
        following = re.search(LITERAL, text.partition(NAME)[2])
        self._name_end = re.compile(re.escape(following[0]) if following else r"[\s{]")

    def match(self, text: str, is_all: bool = False) -> Found:
        """`is_all`: no more text will come."""
        at, name = 0, ""
        for part in self._parts:
            if part == "":
                at = skip_blanks(text, at)
            elif part == NAME:
                at = skip_blanks(text, at)
                end = self._name_end.search(text, at)
                if end is None:
                    may_be = len(text) <= MAX_HEADER_CHARS
                    return Found(is_open=may_be and not is_all, is_cut=may_be and is_all)
                name, at = text[at : end.start()].rstrip(), end.start()
            elif text.startswith(part, at):
                at += len(part)
            else:
                is_beginning = part.startswith(text[at:])
                return Found(is_open=is_beginning and not is_all, is_cut=is_beginning and is_all)
        return Found(end=at, name=name)


def skip_blanks(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def find_or_hold(text: str, mark: str) -> tuple[int, bool]:
    """Index of the mark, or of its possible beginning at the end, or else the text's length; and
    whether the mark is complete."""
    if (at := text.find(mark)) >= 0:
        return at, True
    for size in range(min(len(mark) - 1, len(text)), 0, -1):
        if text.endswith(mark[:size]):
            return len(text) - size, False
    return len(text), False


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
