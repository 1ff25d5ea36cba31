"""Reads arguments that are written one by one, and writes them as JSON while they stream. Pure.

A value ends where the marks after it are followed by those of another argument, or by those that
end the call: the same marks inside a text seldom are.
"""

from collections.abc import Sequence
from enum import Enum, auto

from localinfra.chat.formats.arguments import ArgumentsRead
from localinfra.chat.formats.form import KEY, TYPE, CallForm
from localinfra.chat.formats.patterns import (
    Found,
    LiteralScanner,
    Pattern,
    find_mark,
    match_any,
    pattern,
    skip_blanks,
)
from localinfra.chat.formats.values import inside_quotes, is_text, quoted, value_json
from localinfra.chat.schema.expected import Expected

SHORT_MARK = 3  # characters: a mark like `)` ends a call only together with what follows it
MAX_DEPTH = 64  # of nested tags; deeper ones are text


class MemberState(Enum):
    """BETWEEN → VALUE → TEXT, LITERAL or BETWEEN of a nested container → BETWEEN … → DONE."""

    BETWEEN = auto()  # at the next member, or at the end of the container
    VALUE = auto()  # before a value
    TEXT = auto()  # in a value that ends at a mark
    LITERAL = auto()  # in one that ends by itself
    NESTED = auto()  # after a nested container
    DONE = auto()


class OpenContainer:
    """An object or a list whose members are being read."""

    def __init__(self, expected: Expected, ends: Sequence[str], *, is_list: bool = False):
        """`ends`: the marks that may end it."""
        self.expected = expected
        self.ends = ends
        self.is_list = is_list
        self.is_empty = True
        # Of the current member:
        self.key = ""
        self.value = expected
        self.kinds = expected.kinds


class MemberArguments:
    """The arguments of one call in a form with `members`."""

    def __init__(self, form: CallForm, expected: Expected):
        assert form.members
        self._members = members = form.members
        # A blank in a pattern stands for any number of them.
        self._before_next = f" {members.separator} {members.before.rstrip()}"
        self._open = [OpenContainer(expected, ends_of(form))]
        self._state = MemberState.BETWEEN
        self._is_waiting = False  # for more text
        self._is_cut = False  # the answer was cut off
        self._json = ["{"]
        # Of the current value:
        self._mark = ""  # after it
        self._blanks = ""  # that belong to this mark
        self._bounds: list[Pattern] = []
        self._parts: list[str] | None = None  # None: a text, which is passed on at once
        self._may_be_text = False  # what is in the parts
        self._scanner = LiteralScanner("", "")

    def read(self, text: str, *, is_all: bool, is_cut: bool) -> ArgumentsRead:
        readers = {
            MemberState.BETWEEN: self._between,
            MemberState.VALUE: self._begin_value,
            MemberState.TEXT: self._read_text,
            MemberState.LITERAL: self._read_literal,
            MemberState.NESTED: self._after_nested,
        }
        at = 0
        self._is_waiting, self._is_cut = False, is_cut
        while not self._is_waiting and self._state is not MemberState.DONE:
            at = readers[self._state](text, at, is_all)
        if is_all and not is_cut and self._state is MemberState.BETWEEN:
            self._close_all()  # the model left out the marks at the end
        json = "".join(self._json)
        self._json = []
        return ArgumentsRead(at, json, is_complete=self._state is MemberState.DONE)

    def _wait(self, at: int) -> int:
        self._is_waiting = True
        return at

    # --- between values -----------------------------------------------------------------------

    def _between(self, text: str, at: int, is_all: bool) -> int:
        container = self._open[-1]
        before = self._members.before.rstrip()
        mark = f" {before}" if container.is_empty else self._before_next
        following = pattern(mark).match(text, at, is_all)
        if following.end is not None:
            self._begin_member(following)
            return following.end
        ending = match_any([pattern("", f" {end}") for end in container.ends], text, at, is_all)
        if ending.end is None and (following.is_open or ending.is_open or is_all):
            return self._wait(at)
        if len(self._open) == 1 or ending.end is None:  # else: nothing that belongs here
            self._close_all()
            return skip_blanks(text, at)
        self._json.append("]" if self._open.pop().is_list else "}")
        self._state = MemberState.NESTED
        return skip_blanks(text, at)

    def _begin_member(self, found: Found) -> None:
        container = self._open[-1]
        key = found.texts[KEY]
        if not container.is_empty:
            self._json.append(", ")
        container.is_empty = False
        if not container.is_list:
            self._json.append(quoted(key) + ": ")
        container.key = key
        expected = container.expected
        container.value = expected.item if container.is_list else expected.member(key)
        container.kinds = self._typed(container.value.kinds, found.texts.get(TYPE, ""))
        self._state = MemberState.VALUE

    def _typed(self, kinds: frozenset[str], spelling: str) -> frozenset[str]:
        """The types it may have, if its type is spelled out."""
        told = frozenset(kind for kind, said in self._members.types.items() if said == spelling)
        if "number" in told:
            told |= {"integer"}
        return kinds & told or told or kinds

    def _close_all(self) -> None:
        self._json += ["]" if each.is_list else "}" for each in reversed(self._open)]
        self._state = MemberState.DONE

    def _after_nested(self, text: str, at: int, is_all: bool) -> int:
        self._expect(self._members.after)
        at = skip_blanks(text, at)
        found = match_any(self._bounds, text, at, is_all)
        if found.is_open or (found.is_cut and self._is_cut):
            return self._wait(at)
        self._state = MemberState.BETWEEN
        if found.end is not None:
            return found.end
        return pattern(self._mark).match(text, at).end or at

    def _expect(self, mark: str) -> None:
        """Sets the marks that end the current value."""
        container = self._open[-1]
        mark = mark.replace(KEY, container.key)
        self._mark = mark.lstrip()
        self._blanks = mark[: len(mark) - len(self._mark)]
        following = [self._before_next, *(f" {end}" for end in container.ends)]
        self._bounds = [pattern(self._mark, ahead) for ahead in following]

    # --- values -------------------------------------------------------------------------------

    def _begin_value(self, text: str, at: int, is_all: bool) -> int:
        members, container = self._members, self._open[-1]
        blanks = members.before[len(members.before.rstrip()) :]
        start = skip_mark(text, at, blanks, is_all) if members.after else skip_blanks(text, at)
        if start is None:
            return self._wait(at)
        if members.item and container.kinds != {"string"} and len(self._open) < MAX_DEPTH:
            nested = pattern(members.before).match(text, skip_blanks(text, start), is_all)
            if nested.is_open:
                return self._wait(at)
            if nested.end is not None:
                self._begin_container(nested.texts[KEY])
                return start
        quote = "" if members.has_escapes else members.quotes[0]
        content = skip_mark(text, start, quote, is_all and not self._is_cut)
        if content is None:
            return self._wait(at)
        if members.after or content > start:
            is_quoted = content > start
            self._expect((members.quotes[1] if is_quoted else "") + members.after)
            self._state = MemberState.TEXT
            self._parts, self._may_be_text = [], not members.has_escapes
            if is_quoted:
                self._pass_text("")
        else:
            self._begin_literal()
        return content

    def _begin_container(self, first: str) -> None:
        """`first`: its first key."""
        members, container = self._members, self._open[-1]
        kinds = container.kinds & {"array", "object"}
        is_list = kinds == {"array"} or (first == members.item and kinds != {"object"})
        ends = [members.after.replace(KEY, container.key)]
        self._open.append(OpenContainer(container.value, ends, is_list=is_list))
        self._json.append("[" if is_list else "{")
        self._state = MemberState.BETWEEN

    def _begin_literal(self) -> None:
        members = self._members
        self._expect("")
        self._state = MemberState.LITERAL
        self._parts, self._may_be_text = [], False
        stops = "".join(bound.first[:1] for bound in self._bounds)
        is_bare = members.literals == "bare"
        quotes = "\"'" if members.literals == "python" else '"'
        self._scanner = LiteralScanner(stops, quotes, members.quotes if is_bare else ("", ""))

    def _read_text(self, text: str, at: int, is_all: bool) -> int:
        first = [self._bounds[0].first]
        mark, begun = find_mark(text, first, at)
        end = len(text)
        while begun:
            bound = match_any(self._bounds, text, mark, is_all)
            if bound.is_cut and not self._is_cut:  # the answer ended before the marks that follow
                bound = pattern(self._mark).match(text, mark, is_all)
            if bound.end is not None:
                is_apart = text.endswith(self._blanks, at, mark)
                self._end_value(text[at : mark - len(self._blanks) if is_apart else mark])
                return bound.end
            if bound.is_open or bound.is_cut:
                end = mark
                break
            mark, begun = find_mark(text, first, mark + 1)
        for size in range(min(len(self._blanks), end - at), 0, -1):
            if text.endswith(self._blanks[:size], at, end):
                end -= size
                break
        self._add(text[at:end])
        return self._wait(end)

    def _read_literal(self, text: str, at: int, is_all: bool) -> int:
        assert self._parts is not None
        end, is_stop = self._scanner.scan(text, at)
        while is_stop:
            bound = match_any(self._bounds, text, end, is_all)
            if bound.end is not None or (bound.is_cut and not self._is_cut):
                self._end_value(text[at:end])
                return end
            if bound.is_open or bound.is_cut:
                break
            end, is_stop = self._scanner.scan(text, self._scanner.pass_over(text, end))
        self._parts.append(text[at:end])
        return self._wait(end)

    def _add(self, text: str) -> None:
        """A part of the current value."""
        if self._parts is None:
            self._json.append(inside_quotes(text))
            return
        self._parts.append(text)
        if self._may_be_text:
            begun = "".join(self._parts)
            self._parts = [begun]
            verdict = is_text(begun, self._open[-1].kinds)
            self._may_be_text = verdict is None
            if verdict:
                self._pass_text(begun)

    def _pass_text(self, begun: str) -> None:
        self._json.append('"' + inside_quotes(begun))
        self._parts = None

    def _end_value(self, last: str) -> None:
        if self._parts is None:
            self._json.append(inside_quotes(last) + '"')
        else:
            value = "".join(self._parts) + last
            self._json.append(value_json(value, self._open[-1].kinds, self._members))
        self._state = MemberState.BETWEEN


def ends_of(form: CallForm) -> list[str]:
    """The marks that end a call's arguments."""
    if len(form.after.strip()) > SHORT_MARK or not form.closing:
        return [form.after]
    return [form.after + form.closing, form.after + form.separator + form.before]


def skip_mark(text: str, at: int, mark: str, is_all: bool) -> int | None:
    """The index after the mark, or `at` if it is not there; None if it may have begun."""
    if mark and text.startswith(mark, at):
        return at + len(mark)
    rest = text[at : at + len(mark)]
    may_be = len(rest) < len(mark) and mark.startswith(rest) and not is_all
    return None if may_be else at
