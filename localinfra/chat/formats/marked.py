"""Parses an answer into content, reasoning and tool calls as it streams, by its family's marks.

Pure: text in, pieces out. The pieces add up to the same however the text is split: the possible
beginning of a mark is held back. Text that only looks like a call stays content.
"""

from collections.abc import Iterator, Mapping
from enum import Enum, auto

from localinfra.chat.formats.arguments import ArgumentsReader, JsonArguments
from localinfra.chat.formats.form import ID, Voice
from localinfra.chat.formats.member_arguments import MemberArguments
from localinfra.chat.formats.patterns import (
    Found,
    Pattern,
    find_mark,
    match_any,
    skip_blanks,
)
from localinfra.chat.formats.pieces import (
    CallArguments,
    CallEnd,
    CallStart,
    Content,
    Piece,
    Thought,
    joined,
)
from localinfra.chat.schema.expected import Expected

ANYTHING = Expected()


class State(Enum):
    """START → THINKING → START of the content → TEXT → HEADER → ARGUMENTS → AFTER → HEADER … or
    TEXT again. From TEXT to START where content has a mark at its end."""

    START = auto()  # only blanks so far, at the start or after reasoning or content
    THINKING = auto()
    TEXT = auto()
    HEADER = auto()  # from a trigger to the arguments, with the name of the function
    ARGUMENTS = auto()
    AFTER = auto()  # a call is complete; another one or the closing mark may follow


class MarkedParser:
    """Parses what a `Voice` describes."""

    def __init__(
        self,
        voice: Voice,
        expected: Mapping[str, Expected] | None,
        *,
        starts_thinking: bool = False,
        is_continued: bool = False,
    ):
        """`expected`: the arguments of each function; None: there are no calls. `starts_thinking`,
        `is_continued`: the prompt has already opened the reasoning or the content."""
        self._voice = voice
        self._calls = calls = None if expected is None else voice.calls
        self._expected = expected or {}
        self._reasoning = voice.reasoning
        self._state = State.THINKING if starts_thinking and voice.reasoning else State.START
        self._may_think = voice.reasoning is not None and not starts_thinking
        self._may_mark_content = bool(voice.content) and not is_continued
        self._held = "" if starts_thinking or is_continued else voice.begun
        self._num_begun = len(self._held)  # characters of it that stand in the prompt
        self._is_cut = False  # the answer was cut off
        self._num_dropped = 0  # characters of an incomplete mark at the cut
        self._is_blank = True  # the reasoning has only blanks so far
        self._blanks = ""  # these, if they are to be kept
        self._drops_blanks = False  # before what follows a mark
        self._has_called = False  # and no content has followed
        self._has_ended = False  # the last call; where its id comes last, only then
        self._arguments: ArgumentsReader = JsonArguments()
        self._marks_in_text: dict[str, State] = {}
        if voice.content_end:
            self._marks_in_text[voice.content_end] = State.START
        if calls and not calls.only_at_start:
            self._marks_in_text[calls.trigger] = State.HEADER
        if calls:
            members = calls.members
            ahead = [f" {members.before}", f" {calls.after}"] if members else [""]
            self._first = [Pattern(calls.opening + calls.before, each) for each in ahead]
            self._next = [Pattern(calls.separator + calls.before, each) for each in ahead]
            self._after = Pattern(calls.after)
            self._closing = Pattern(calls.closing)
            self._has_late_id = ID in calls.after

    @property
    def num_held(self) -> int:
        return len(self._held) - self._num_begun + self._num_dropped

    def push(self, text: str) -> list[Piece]:
        is_waiting = text.isspace() and self._held[-1:].isspace()
        self._held += text
        if is_waiting:
            return []  # more blanks tell nothing; to read all of them again takes quadratic time
        return joined(self._read(is_all=False))

    def finish(self, *, is_cut: bool = False) -> list[Piece]:
        self._is_cut = is_cut
        return joined(self._read(is_all=True))

    def _read(self, is_all: bool) -> Iterator[Piece]:
        """Reads until the held text yields nothing more."""
        readers = {
            State.START: self._read_start,
            State.THINKING: self._read_thought,
            State.TEXT: self._read_text,
            State.HEADER: self._read_header,
            State.ARGUMENTS: self._read_arguments,
            State.AFTER: self._read_after,
        }
        before = None
        while before != (before := (self._state, len(self._held))):
            yield from readers[self._state](is_all)
            if not (self._held or is_all):
                return

    def _take(self, count: int) -> str:
        """What is in the prompt is left out."""
        num_begun = min(count, self._num_begun)
        self._num_begun -= num_begun
        taken, self._held = self._held[num_begun:count], self._held[count:]
        return taken

    def _take_text(self, end: int, is_all: bool) -> str:
        """Takes the text up to `end`, where a mark may begin. With `is_all` also the rest, which
        is dropped if the answer was cut off."""
        if not is_all:
            return self._take(end)
        text = self._take(len(self._held))
        if not self._is_cut:
            return text
        self._num_dropped += len(text) - end
        return text[:end]

    def _read_start(self, is_all: bool) -> Iterator[Piece]:
        """Looks for a mark at the start. Drops blanks before a mark or after reasoning."""
        blanks = skip_blanks(self._held, 0)
        if self._drops_blanks:
            self._take(blanks)
            blanks = 0
        rest = self._held[blanks:]
        if not rest:
            if is_all and self._is_cut and self._calls:
                self._num_dropped += len(self._take(blanks))  # they may stand before a call
            elif is_all:
                yield from self._say(self._take(blanks))
            return
        # A mark may begin like a longer one.
        for mark, state in sorted(self._marks_at_start(), key=lambda each: -len(each[0])):
            if rest.startswith(mark):
                self._may_think &= state is not State.THINKING
                self._may_mark_content &= state is not State.TEXT
                self._take(blanks + (0 if state is State.HEADER else len(mark)))
                self._state = state
                return
            if mark.startswith(rest) and self._is_cut:
                self._num_dropped = len(self._take(len(self._held)))
                return
            if mark.startswith(rest) and not is_all:
                return
        self._take(self._num_begun)
        self._state = State.TEXT

    def _marks_at_start(self) -> Iterator[tuple[str, State]]:
        if self._may_think and self._reasoning:
            yield self._reasoning.begin, State.THINKING
        if self._may_mark_content:
            yield self._voice.content.lstrip(), State.TEXT
        if self._calls and self._calls.prefix:
            yield self._calls.prefix, State.START
        if self._calls:
            yield self._calls.trigger, State.HEADER

    def _read_thought(self, is_all: bool) -> Iterator[Piece]:
        assert self._reasoning
        at, mark = find_mark(self._held, [self._reasoning.end])
        is_there = mark == self._reasoning.end
        thought = self._take_text(at, is_all and not is_there)
        if self._is_blank:
            self._blanks += thought[: len(thought) - len(thought.lstrip())]
            thought = thought.lstrip()
            if thought and self._reasoning.keeps_blanks:
                thought = self._blanks + thought
        if thought:
            self._is_blank = False
            yield Thought(thought)
        if is_there:
            self._take(len(self._reasoning.end))
            self._state, self._drops_blanks = State.START, True

    def _read_text(self, is_all: bool) -> Iterator[Piece]:
        """Content, up to a trigger."""
        marks = self._marks_in_text
        at, mark = find_mark(self._held, marks)
        is_there = mark in marks
        if is_all and not is_there:
            yield from self._say(self._take_text(at, is_all))
            return
        # Blanks between content and calls belong to the calls.
        end = len(self._held[:at].rstrip()) if State.HEADER in marks.values() else at
        yield from self._say(self._take(end))
        if is_there:
            self._take(at - end + (len(mark) if marks[mark] is State.START else 0))
            self._state, self._drops_blanks = marks[mark], True

    def _read_header(self, is_all: bool) -> Iterator[Piece]:
        assert self._calls
        found = match_any(self._first, self._held, 0, is_all)
        if found.end is not None:
            yield from self._start_call(found)
        elif found.is_cut and (self._is_cut or not self._calls.only_at_start):
            self._take(len(self._held))  # a call that was cut off before its arguments
            self._state = State.TEXT
        elif not found.is_open:
            self._state = State.TEXT  # not a call; the text after its trigger may hold one
            yield from self._say(self._take(len(self._calls.trigger)))

    def _start_call(self, found: Found) -> Iterator[Piece]:
        assert found.end is not None and self._calls
        self._take(found.end)
        self._has_called = True
        if self._calls.members:
            self._arguments = MemberArguments(self._calls, self._expected.get(found.name, ANYTHING))
        else:
            self._arguments = JsonArguments()
        self._state = State.ARGUMENTS
        self._has_ended = False
        yield CallStart(found.name, found.texts.get(ID, ""))

    def _read_arguments(self, is_all: bool) -> Iterator[Piece]:
        read = self._arguments.read(self._held, is_all=is_all, is_cut=self._is_cut)
        self._take(read.taken)
        if read.json:
            yield CallArguments(read.json)
        if read.is_complete:
            self._state = State.AFTER
            if not self._has_late_id:
                self._has_ended = True
                yield CallEnd()

    def _read_after(self, is_all: bool) -> Iterator[Piece]:
        """Reads `after`, then another call, the closing mark or neither. Incomplete marks at the
        end are not content either."""
        assert self._calls
        found = self._after.match(self._held, 0, is_all)
        if found.end is None:
            if found.is_open:
                return
        if not self._has_ended:
            self._has_ended = True
            yield CallEnd(found.texts.get(ID, ""))
        if found.end is None:
            if found.is_cut:
                self._take(len(self._held))
                self._state = State.TEXT
                return
            after = 0  # not the expected mark: the call stands, and the rest is text
        else:
            after = found.end
        rest = self._held[after:]
        again = match_any(self._first, rest.lstrip(), 0, is_all)
        another = match_any(self._next, rest, 0, is_all)
        closing = self._closing.match(rest, 0, is_all)
        if any(match.is_cut for match in (again, another, closing)) and rest.strip():
            self._take(len(self._held))  # another call or the closing mark, cut off
            self._state = State.TEXT
        elif again.end is not None:
            self._take(after + len(rest) - len(rest.lstrip()))
            yield from self._start_call(again)
        elif another.end is not None:
            self._take(after)
            yield from self._start_call(another)
        elif self._calls.closing and closing.end is not None:
            self._take(after + closing.end)
            self._state = State.TEXT
        elif rest.strip() and not (again.is_open or another.is_open or closing.is_open):
            self._take(after)
            self._state = State.TEXT
        elif is_all:
            self._take(len(self._held) if not rest.strip() else after)
            self._state = State.TEXT

    def _say(self, text: str) -> Iterator[Piece]:
        if self._has_called:  # blanks after calls are not content
            text = text.lstrip()
            self._has_called = not text
        if text:
            yield Content(text)
