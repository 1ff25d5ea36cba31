"""A grammar in GBNF, as llama.cpp's guide describes it → its rules. Pure.

Line ends count as whitespace: a rule ends where the next `name ::=` begins. That accepts all that
llama.cpp does, and rules wrapped in any way.
"""

import re
import string

import msgspec

MAX_DEPTH = 60  # of parentheses
MAX_REPEATED = 4  # repetition operators in a row
MAX_RULES = 1000  # llguidance crashes on a chain of 4,000
MAX_COUNT = 10**9
LAST_CHARACTER = 0x10FFFF
SURROGATES = range(0xD800, 0xE000)

NAME = re.compile(r"[A-Za-z0-9_-]+")
# Possessive: backtracking over long runs of blanks would take forever.
BLANKS = re.compile(r"(?:\s|#[^\r\n]*)*+")
RULE = re.compile(r"([A-Za-z0-9_-]++)(?:\s|#[^\r\n]*)*+::=")
COUNTS = re.compile(r"\{\s*([0-9]{0,9})\s*(?:(,)\s*([0-9]{0,9})\s*)?\}")
TOKEN = re.compile(r"(!?)<(?:\[([0-9]{1,9})\]|([^<>\r\n]+))>")
ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}
HEX_DIGITS = {"x": 2, "u": 4, "U": 8}

Ranges = tuple[tuple[int, int], ...]  # of code points, inclusive, sorted and disjoint


class GbnfError(Exception):
    """The problem with a grammar, and its place."""


class Characters(msgspec.Struct, frozen=True):
    """Any one of these characters."""

    ranges: Ranges


class GbnfSequence(msgspec.Struct, frozen=True):
    items: tuple["Node", ...]


class GbnfChoice(msgspec.Struct, frozen=True):
    options: tuple["Node", ...]


class Repeat(msgspec.Struct, frozen=True):
    item: "Node"
    least: int
    most: int | None


class GbnfReference(msgspec.Struct, frozen=True):
    name: str


class GbnfToken(msgspec.Struct, frozen=True):
    """One token of the vocabulary, by id or by spelling; if negated, any other token."""

    id: int | None
    spelling: str
    is_negated: bool


Node = Characters | GbnfSequence | GbnfChoice | Repeat | GbnfReference | GbnfToken
ANY = Characters(((0, SURROGATES.start - 1), (SURROGATES.stop, LAST_CHARACTER)))
NOTHING = GbnfSequence(())


def read_rules(text: str) -> dict[str, Node]:
    """Returns the rules by name; of two with the same name the later one wins, as in llama.cpp.
    Raises GbnfError."""
    rules = _GbnfReader(text).rules()
    if len(rules) > MAX_RULES:
        raise GbnfError(f"it has {len(rules)} rules; at most {MAX_RULES} are allowed")
    if "root" not in rules:
        names = ", ".join(list(rules)[:10])
        raise GbnfError(f"it has no start rule named root (only {names})")
    return rules


class _GbnfReader:
    def __init__(self, text: str):
        self._text = text
        self._at = 0
        self._depth = 0
        self._uses: dict[str, int] = {}  # rule name → position of its first use

    def rules(self) -> dict[str, Node]:
        rules: dict[str, Node] = {}
        self._skip()
        while self._at < len(self._text):
            found = RULE.match(self._text, self._at)
            if found is None:
                raise self._error("expected a rule here: name ::= ...")
            self._at = found.end()
            self._skip()
            rules[found[1]] = self._choice()
            if self._peek() == ")":
                raise self._error("this parenthesis was never opened")
        for name, at in self._uses.items():
            if name not in rules:
                self._at = at
                raise self._error(f"the rule {name[:100]} is not defined")
        return rules

    def _choice(self) -> Node:
        options = [self._sequence()]
        while self._peek() == "|":
            self._at += 1
            self._skip()
            options.append(self._sequence())
        return options[0] if len(options) == 1 else GbnfChoice(tuple(options))

    def _sequence(self) -> Node:
        items: list[Node] = []
        while (item := self._item()) is not None:
            self._skip()
            num_counts = 0
            while (counts := self._counts()) is not None:
                num_counts += 1
                if num_counts > MAX_REPEATED:
                    raise self._error(f"more than {MAX_REPEATED} repetition operators in a row")
                item = Repeat(item, *counts)
                self._skip()
            items.append(item)
        return items[0] if len(items) == 1 else GbnfSequence(tuple(items))

    def _item(self) -> Node | None:
        start, first = self._at, self._peek()
        if first in ("", "|", ")") or RULE.match(self._text, start):
            return None
        if first == '"':
            return self._literal()
        if first == "[":
            return self._characters()
        if first == "(":
            return self._group()
        if first == ".":
            self._at += 1
            return ANY
        if found := NAME.match(self._text, start):
            self._at = found.end()
            self._uses.setdefault(found[0], start)
            return GbnfReference(found[0])
        if found := TOKEN.match(self._text, start):
            self._at = found.end()
            return GbnfToken(
                int(found[2]) if found[2] else None, found[0].lstrip("!"), found[1] == "!"
            )
        if first in "*+?{":
            raise self._error(f"there is nothing before this {first} to repeat")
        raise self._error(f"{first!r} is not valid here; put literal text in double quotes")

    def _group(self) -> Node:
        start = self._at
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._error(f"parentheses are nested more than {MAX_DEPTH} deep")
        self._at += 1
        self._skip()
        inner = self._choice()
        if self._peek() != ")":
            self._at = start
            raise self._error("this parenthesis is not closed")
        self._at += 1
        self._depth -= 1
        return inner

    def _counts(self) -> tuple[int, int | None] | None:
        first = self._peek()
        if first in ("*", "+", "?"):
            self._at += 1
            return {"*": (0, None), "+": (1, None), "?": (0, 1)}[first]
        if first != "{":
            return None
        found = COUNTS.match(self._text, self._at)
        if found is None or not (found[1] or found[3]):
            raise self._error("write a repetition as {m}, {m,}, {,n} or {m,n}")
        least = int(found[1] or 0)
        most = (int(found[3]) if found[3] else None) if found[2] else least
        if max(least, most or 0) > MAX_COUNT or (most is not None and most < least):
            raise self._error(
                f"repetition counts must be from 0 to {MAX_COUNT}, the smaller one first"
            )
        self._at = found.end()
        return least, most

    def _literal(self) -> Node:
        start = self._at
        self._at += 1
        items: list[Node] = []
        while self._peek() != '"':
            if not self._peek():
                self._at = start
                raise self._error("this text has no closing quote")
            code = self._character()
            items.append(Characters(((code, code),)))
        self._at += 1
        return items[0] if len(items) == 1 else GbnfSequence(tuple(items))

    def _characters(self) -> Characters:
        start = self._at
        self._at += 1
        if is_negated := self._peek() == "^":
            self._at += 1
        ranges: list[tuple[int, int]] = []
        while self._peek() != "]":
            if not self._peek():
                self._at = start
                raise self._error("this character class has no closing bracket")
            first = last = self._character()
            if self._peek() == "-" and self._text[self._at + 1 : self._at + 2] not in ("]", ""):
                self._at += 1
                last = self._character()
            if last < first:
                raise self._error("this range ends before it begins")
            ranges.append((first, last))
        self._at += 1
        found = union(tuple(ranges))
        found = intersection(complement(found) if is_negated else found, ANY.ranges)
        if not found:
            self._at = start
            raise self._error("this character class is empty")
        return Characters(found)

    def _character(self) -> int:
        first = self._text[self._at]
        self._at += 1
        if first != "\\":
            return ord(first)
        escaped = self._peek()
        self._at += 1
        if size := HEX_DIGITS.get(escaped):
            digits = self._text[self._at : self._at + size]
            if len(digits) < size or not set(digits) <= set(string.hexdigits):
                raise self._error(f"\\{escaped} needs {size} hexadecimal digits")
            self._at += size
            code = int(digits, 16)
            if code > LAST_CHARACTER or code in SURROGATES:
                raise self._error(f"\\{escaped}{digits} is not a character")
            return code
        if escaped in ESCAPES:
            return ord(ESCAPES[escaped])
        if escaped and escaped in string.punctuation:
            return ord(escaped)
        raise self._error(f"\\{escaped} is not an escape; use \\n, \\r, \\t, \\xHH or \\uHHHH")

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _skip(self) -> None:
        found = BLANKS.match(self._text, self._at)
        assert found
        self._at = found.end()

    def _error(self, problem: str) -> GbnfError:
        line = self._text.count("\n", 0, self._at) + 1
        column = self._at - self._text.rfind("\n", 0, self._at)
        return GbnfError(f"line {line}, column {column}: {problem}")


# --- sets of characters ---------------------------------------------------------------------------


def union(*sets: Ranges) -> Ranges:
    found: list[tuple[int, int]] = []
    for first, last in sorted(each for one in sets for each in one):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], last))
        else:
            found.append((first, last))
    return tuple(found)


def complement(ranges: Ranges) -> Ranges:
    found, at = [], 0
    for first, last in ranges:
        if first > at:
            found.append((at, first - 1))
        at = last + 1
    return (*found, (at, LAST_CHARACTER)) if at <= LAST_CHARACTER else tuple(found)


def intersection(one: Ranges, other: Ranges) -> Ranges:
    return complement(union(complement(one), complement(other)))


def overlap(one: Ranges, other: Ranges) -> bool:
    at = index = 0
    while at < len(one) and index < len(other):
        if one[at][1] < other[index][0]:
            at += 1
        elif other[index][1] < one[at][0]:
            index += 1
        else:
            return True
    return False
