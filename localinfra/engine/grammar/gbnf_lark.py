"""GBNF → llguidance's Lark, matching the same texts. Pure.

GBNF works on characters and allows every way to parse a text. llguidance first cuts the text into
lexemes, each as long as possible: fast, but `[a-z]+ "a"` as two lexemes never ends. So a part
without recursion becomes one lexeme (a regex) only if that loses no text: if nothing that may
follow it could also belong to it, or to another lexeme that begins alike. Other parts are split,
down to single characters if necessary.
"""

import re
from collections.abc import Iterator, Mapping

import msgspec

from localinfra.engine.grammar.gbnf import (
    ANY,
    Characters,
    GbnfChoice,
    GbnfError,
    GbnfReference,
    GbnfSequence,
    GbnfToken,
    Node,
    Ranges,
    Repeat,
    overlap,
    read_rules,
    union,
)

MAX_LEXEME_CHARS = 4000  # of its regex: llguidance is slow with longer ones
MAX_LARK_CHARS = 256 * 1024
# Unions of character sets, weighted by their ranges: 0.4 s. Larger grammars are refused.
MAX_JOINED = 500_000
# Pairs of lexemes, weighted by their ranges: 0.2 s. Beyond that all lexemes are split.
MAX_COMPARED = 200_000


def gbnf_to_lark(text: str, tokens: Mapping[str, int]) -> str:
    """`tokens`: control tokens by spelling. Raises GbnfError."""
    lark = _Converter(read_rules(text), tokens).lark()
    if len(lark) > MAX_LARK_CHARS:
        raise GbnfError("its rules are too long when written out; simplify it")
    return lark


class RegexShape(msgspec.Struct, frozen=True):
    """A part without recursion, as a regex, with supersets of the characters in its texts."""

    regex: str
    first: Ranges
    later: Ranges = ()  # characters after the first
    more: Ranges = ()  # characters that may follow where a text could already end
    is_nullable: bool = False


EMPTY = RegexShape("", (), is_nullable=True)


class _Converter:
    def __init__(self, rules: Mapping[str, Node], tokens: Mapping[str, int]):
        self._rules = rules
        self._tokens = tokens
        self._names = {name: lark_name(at, name) for at, name in enumerate(rules)}
        self._shapes: dict[str, RegexShape] = {}  # rules without recursion
        self._shape_of: dict[int, RegexShape | None] = {}  # by id(node)
        self._find_shapes()
        self._num_joined = self._num_compared = 0
        self._first: dict[str, Ranges] = dict.fromkeys(rules, ())
        self._nullable: set[str] = set()
        self._find_first()
        self._follow: dict[str, Ranges] = dict.fromkeys(rules, ())  # what may follow a rule
        self._follow_of: dict[int, Ranges] = {}  # the same by id(node)
        self._waiting: dict[str, None] = {}  # rules to visit again
        self._find_follow()
        self._apart: set[int] = set()  # nodes that must not be lexemes

    def lark(self) -> str:
        while conflicting := self._conflicting():
            self._apart |= conflicting
        lines = ["%llguidance {}", f"start: {self._names['root']}"]
        lines += [f"{self._names[name]}: {self._write(self._rules[name])}" for name in self._used()]
        return "\n".join(lines) + "\n"

    # Parts without recursion.

    def _find_shapes(self) -> None:
        """Resolves rules in topological order; rules that reach recursion stay without a shape."""
        waiting = {name: set(references(node)) for name, node in self._rules.items()}
        used_by: dict[str, list[str]] = {}
        for name, used in waiting.items():
            for each in used:
                used_by.setdefault(each, []).append(name)
        ready = [name for name, used in waiting.items() if not used]
        while ready:
            name = ready.pop()
            shape = self._shape(self._rules[name])
            if shape is not None:
                self._shapes[name] = shape
            for user in used_by.get(name, ()):
                waiting[user].discard(name)
                if not waiting[user]:
                    ready.append(user)
        for node in self._rules.values():
            self._shape(node)

    def _shape(self, node: Node) -> RegexShape | None:
        """The node's shape; None if it is recursive, too long, or has a token."""
        if id(node) not in self._shape_of:
            shape = self._new_shape(node)
            self._shape_of[id(node)] = shape
        return self._shape_of[id(node)]

    def _new_shape(self, node: Node) -> RegexShape | None:
        if isinstance(node, Characters):
            return RegexShape(regex_of(node), node.ranges)
        if isinstance(node, GbnfReference):
            return self._shapes.get(node.name)
        if isinstance(node, GbnfToken):
            return None
        if isinstance(node, Repeat):
            inner = self._shape(node.item)
            return inner and repeat(inner, node)
        parts = [self._shape(part) for part in parts_of(node)]
        shapes = [shape for shape in parts if shape is not None]
        is_long = sum(len(shape.regex) for shape in shapes) > MAX_LEXEME_CHARS
        if len(shapes) < len(parts) or is_long:
            return None
        return concatenate(shapes) if isinstance(node, GbnfSequence) else alternate(shapes)

    # First and follow sets of rules.

    def _begins(self, node: Node) -> tuple[Ranges, bool]:
        """The node's first characters, as far as known, and whether it may be empty."""
        if (shape := self._shape(node)) is not None:
            return shape.first, shape.is_nullable
        if isinstance(node, GbnfReference):
            return self._first[node.name], node.name in self._nullable
        if isinstance(node, Repeat):
            begun, is_nullable = self._begins(node.item)
            return begun, is_nullable or node.least == 0
        if isinstance(node, GbnfChoice):
            found = [self._begins(option) for option in node.options]
            return self._union(*(first for first, _ in found)), any(empty for _, empty in found)
        first: Ranges = ()
        for item in parts_of(node):
            begun, is_nullable = self._begins(item)
            first = self._union(first, begun)
            if not is_nullable:
                return first, False
        return first, not isinstance(node, GbnfToken)

    def _find_first(self) -> None:
        users: dict[str, list[str]] = {}
        for name, node in self._rules.items():
            for each in set(references(node)):
                users.setdefault(each, []).append(name)
        waiting = dict.fromkeys(self._rules)
        while waiting:
            self._count(1)
            name, _ = waiting.popitem()
            first, is_nullable = self._begins(self._rules[name])
            if first != self._first[name] or is_nullable != (name in self._nullable):
                self._first[name] = first
                self._nullable |= {name} if is_nullable else set()
                waiting |= dict.fromkeys(users.get(name, ()))

    def _find_follow(self) -> None:
        self._waiting = dict.fromkeys(reversed(list(self._rules)))
        while self._waiting:
            self._count(1)
            name, _ = self._waiting.popitem()
            self._walk(self._rules[name], self._follow[name])

    def _union(self, *sets: Ranges) -> Ranges:
        self._count(1 + sum(map(len, sets)))
        return union(*sets)

    def _count(self, work: int) -> None:
        self._num_joined += work
        if self._num_joined > MAX_JOINED:
            raise GbnfError("its rules refer to each other too often; simplify it")

    def _walk(self, node: Node, follow: Ranges) -> None:
        follow = self._union(follow, self._follow_of.get(id(node), ()))
        self._follow_of[id(node)] = follow
        if isinstance(node, GbnfReference):
            known = self._follow[node.name]
            if (now := self._union(known, follow)) != known:
                self._follow[node.name] = now
                self._waiting[node.name] = None
        elif isinstance(node, Repeat):
            self._walk(node.item, self._union(follow, self._begins(node.item)[0]))
        elif isinstance(node, GbnfChoice):
            for option in node.options:
                self._walk(option, follow)
        elif isinstance(node, GbnfSequence):
            for item in reversed(node.items):
                self._walk(item, follow)
                first, is_nullable = self._begins(item)
                follow = self._union(first, follow) if is_nullable else first

    # Lexemes.

    def _used(self) -> list[str]:
        """The rules reachable from root, other than from within lexemes."""
        used = {"root": None}
        waiting = ["root"]
        while waiting:
            for node in self._pieces(self._rules[waiting.pop()]):
                if isinstance(node, GbnfReference) and node.name not in used:
                    used[node.name] = None
                    waiting.append(node.name)
        return list(used)

    def _is_lexeme(self, node: Node) -> bool:
        is_whole = not isinstance(node, GbnfReference)  # decided in the rule it refers to
        return is_whole and self._shape(node) is not None and id(node) not in self._apart

    def _pieces(self, node: Node) -> Iterator[Node]:
        """The node's lexemes, references and tokens."""
        if self._is_lexeme(node) or isinstance(node, GbnfReference | GbnfToken):
            yield node
        else:
            for part in parts_of(node):
                yield from self._pieces(part)

    def _conflicting(self) -> set[int]:
        """The ids of lexemes that would lose texts."""
        nodes: dict[str, list[Node]] = {}
        for name in self._used():
            for node in self._pieces(self._rules[name]):
                if self._is_lexeme(node) and (shape := self._shape(node)) and shape.first:
                    nodes.setdefault(shape.regex, []).append(node)
        lexemes = []
        for same in nodes.values():
            shape = self._shape(same[0])
            assert shape
            follows = (self._follow_of[id(node)] for node in same)
            lexemes.append((shape, self._union(*follows)))
        found: set[int] = set()
        for long, follow in lexemes:
            is_lost = overlap(long.more, follow)
            for other, after in lexemes if long.later and not is_lost else ():
                self._num_compared += 1 + (len(other.first) + len(long.first) + len(after)) // 8
                is_lost = self._num_compared > MAX_COMPARED or (
                    other is not long
                    and overlap(other.first, long.first)
                    and overlap(after, long.later)
                )
                if is_lost:
                    break
            if is_lost:
                found |= {id(node) for node in nodes[long.regex]}
        return found

    # Writing.

    def _write(self, node: Node) -> str:
        if self._is_lexeme(node):
            shape = self._shape(node)
            assert shape
            return f"/{shape.regex}/" if shape.regex else '""'
        if isinstance(node, GbnfReference):
            return self._names[node.name]
        if isinstance(node, GbnfToken):
            return self._token(node)
        if isinstance(node, GbnfChoice):
            return f"({' | '.join(map(self._write, node.options))})"
        if isinstance(node, GbnfSequence):
            return f"({' '.join(map(self._write, node.items))})" if node.items else '""'
        assert isinstance(node, Repeat)
        return f"({self._write(node.item)}){counts(node)}"

    def _token(self, node: GbnfToken) -> str:
        token = self._tokens.get(node.spelling) if node.id is None else node.id
        if token is None:
            raise GbnfError(f"{node.spelling[:100]} is not a control token of this model")
        return f"<[{'^' if node.is_negated else ''}{token}]>"


def parts_of(node: Node) -> tuple[Node, ...]:
    if isinstance(node, GbnfSequence):
        return node.items
    if isinstance(node, GbnfChoice):
        return node.options
    return (node.item,) if isinstance(node, Repeat) else ()


def references(node: Node) -> Iterator[str]:
    if isinstance(node, GbnfReference):
        yield node.name
    for part in parts_of(node):
        yield from references(part)


def lark_name(number: int, name: str) -> str:
    """A rule (lower-case) name, recognisable as the client's in llguidance's messages."""
    return f"r{number}_{re.sub(r'[^a-z0-9]', '_', name.lower())[:40]}"


# --- regexes ------------------------------------------------------------------------------------


def concatenate(shapes: list[RegexShape]) -> RegexShape:
    result = EMPTY
    for each in shapes:
        later = union(result.later, each.later, each.first if result.first else ())
        more = each.more
        if each.is_nullable:
            more = union(result.more, each.first if result.first else (), more)
        border = union(result.more, result.first if result.is_nullable else ())
        if overlap(border, each.first):
            more = union(more, later)  # the same text may be split in two ways
        result = RegexShape(
            result.regex + each.regex,
            union(result.first, each.first) if result.is_nullable else result.first,
            later,
            more,
            result.is_nullable and each.is_nullable,
        )
    return result


def alternate(shapes: list[RegexShape]) -> RegexShape:
    first: Ranges = ()
    later: Ranges = ()
    more: Ranges = ()
    for each in shapes:
        is_alike = overlap(first, each.first)
        first = union(first, each.first)
        later = union(later, each.later)
        more = union(more, each.more, later if is_alike else ())
    return RegexShape(
        f"(?:{'|'.join(each.regex for each in shapes)})",
        first,
        later,
        more,
        any(each.is_nullable for each in shapes),
    )


def repeat(inner: RegexShape, node: Repeat) -> RegexShape:
    if not inner.regex or node.most == 0:
        return EMPTY
    is_once, is_fixed = node.most == 1, node.most == node.least
    later = inner.later if is_once else union(inner.later, inner.first)
    more = inner.more if is_once or is_fixed else union(inner.more, inner.first)
    border = union(inner.more, inner.first if inner.is_nullable else ())
    if not is_once and overlap(border, inner.first):
        more = later  # the same text may be split in two ways
    return RegexShape(
        f"(?:{inner.regex}){counts(node)}",
        inner.first,
        later,
        more,
        inner.is_nullable or node.least == 0,
    )


def counts(node: Repeat) -> str:
    if node.most is None:
        return {0: "*", 1: "+"}.get(node.least, f"{{{node.least},}}")
    return "?" if (node.least, node.most) == (0, 1) else f"{{{node.least},{node.most}}}"


def regex_of(node: Characters) -> str:
    if node == ANY:
        return "(?s:.)"
    (first, last), *others = node.ranges
    if first == last and not others:
        return regex_character(first)
    ranges = (
        regex_character(a) if a == b else f"{regex_character(a)}-{regex_character(b)}"
        for a, b in node.ranges
    )
    return f"[{''.join(ranges)}]"


def regex_character(code: int) -> str:
    character = chr(code)
    is_plain = character.isalnum() or character == " "
    return character if is_plain else f"\\x{{{code:X}}}"
