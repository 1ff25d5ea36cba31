"""Writes parts of llguidance's Lark: marks, texts up to a mark, named rules."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from localinfra.chat.formats.form import ID, INDEX, KEY

ANY_TEXT = r"/(?s:.)*/"
NOTHING = '""'
# What stands in marks for text that the model chooses.
CHOSEN = {
    ID: "/[A-Za-z0-9_-]{1,64}/",
    INDEX: "/0|[1-9][0-9]{0,3}/",
    KEY: "/[A-Za-z_][A-Za-z0-9_.-]{0,63}/",
}
SHORT_ID = "/[A-Za-z0-9]{9}/"


class Element(NamedTuple):
    """An element of a sequence."""

    first: str  # as it begins one
    following: str  # with what separates it from the one before
    is_required: bool = False


class LarkWriter:
    """The named rules of one grammar, and its marks: control tokens by id, the rest as text."""

    def __init__(self, tokens: Mapping[str, int], *, has_short_ids: bool = False):
        """`tokens`: spellings that a grammar must name by token id → the id."""
        chosen = {**CHOSEN, ID: SHORT_ID} if has_short_ids else CHOSEN
        by_id = {spelling: f"<[{id}]>" for spelling, id in tokens.items()}
        self._elements = {**by_id, **chosen}
        self._tokens = pattern_of(by_id)
        self._special = pattern_of(self._elements)
        self._names: dict[str, str] = {}  # right side, and what kind of rule → its name
        self._lines: dict[str, str] = {}  # by name
        self.num_chars = 0  # of all lines

    @property
    def lines(self) -> list[str]:
        return list(self._lines.values())

    def begins_with_token(self, mark: str) -> bool:
        """Whether it starts with a control token, which no text contains."""
        return self._tokens.match(mark) is not None

    def literal(self, text: str) -> str:
        """Elements that match exactly this text; empty for empty text."""
        items, at = [], 0
        for found in self._special.finditer(text):
            items += [quoted(text[at : found.start()]), self._elements[found[0]]]
            at = found.end()
        items.append(quoted(text[at:]))
        return " ".join(item for item in items if item)

    def up_to(self, mark: str, text: str = ANY_TEXT, *, is_open: bool = True) -> str:
        """Elements that match `text`, a regular expression, and the mark after it, where the mark
        first occurs. Before the mark of any text, models may leave out blanks. `is_open`: the text
        may be one that contains the mark."""
        mark = mark.lstrip() or mark if text == ANY_TEXT else mark
        token = self._tokens.search(mark)
        head = self.literal(mark[: token.start()] if token else mark)
        if token:  # which ends any text, so that the longest is right
            return f"{self.terminal(f'({text}) {head}')} {self.literal(mark[token.start() :])}"
        if is_open and text != ANY_TEXT:
            text = f"({text}) & ~({ANY_TEXT} {self.literal(mark.strip() or mark)} {ANY_TEXT})"
        return self._add("t", "[lazy]", f"({text}) {head}")

    def terminal(self, text: str) -> str:
        """The name of a regular expression, which may contain & and ~."""
        return self._add("T", "", text)

    def rule(self, text: str) -> str:
        """The name of a rule with this right side."""
        return self._add("r", "", text or NOTHING)

    def sequence(
        self, items: Sequence[Element], other: Element | None, *, is_mixed: bool = False
    ) -> str:
        """Elements in order, those not required optional, then any number of `other`, if any.
        `is_mixed`: these may stand anywhere."""
        others = f"({other.following})*" if other else ""
        between = others if is_mixed else ""
        if all(item.first == item.following for item in [*items, *([other] if other else [])]):
            parts = [item.first if item.is_required else f"({item.first})?" for item in items]
            return " ".join([*(f"{between} {part}" for part in parts), others])
        after = others  # what may follow an element
        text = f"({other.first} {after})?" if other else ""
        for item in reversed(items):
            rest = self.rule(after) if after else ""
            after = f"{item.following if item.is_required else f'({item.following})?'} {rest}"
            choices = [f"{item.first} {rest}"]
            if other and is_mixed:
                after = f"{between} {after}"
                choices.append(f"{other.first} {self.rule(after)}")
            if not item.is_required:
                choices.append(self.rule(text))
            text = alternatives(choices)
        return text

    def reserved(self) -> str:
        """The name of a rule yet to be defined, for rules that contain themselves."""
        name = f"r{len(self._lines)}"
        self._lines[name] = ""
        return name

    def define(self, name: str, text: str) -> None:
        self._lines[name] = f"{name}: {text or NOTHING}"
        self.num_chars += len(self._lines[name])

    def _add(self, letter: str, options: str, text: str) -> str:
        key = letter + text
        if key not in self._names:
            name = self._names[key] = f"{letter}{len(self._lines)}"
            self._lines[name] = f"{name}{options}: {text}"
            self.num_chars += len(self._lines[name])
        return self._names[key]


def pattern_of(spellings: Mapping[str, str]) -> re.Pattern[str]:
    """Matches any of them, the longest first."""
    longest_first = sorted(spellings, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def alternatives(texts: Iterable[str]) -> str:
    """The right side of a rule with these elements to choose from."""
    return " | ".join(dict.fromkeys(text or NOTHING for text in texts)) or NOTHING


def quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if text else ""


def regex(pattern: str) -> str:
    """`pattern` uses the syntax of Rust's regex crate; compiling checks it."""
    escaped = re.sub(r"(?<!\\)((?:\\\\)*)/", r"\1\\/", pattern)
    return "/" + re.sub(r"(?<!\\)((?:\\\\)*)\\?\n", r"\1\\n", escaped) + "/"
