"""How a model writes tool calls and reasoning: one description for the parser and the grammar.

Plain data. `derived.py` learns it from the model's template; forms that can't be learned are a file
each, such as `harmony.py`.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, TypeAlias

import msgspec

# These stand in marks for text that differs from call to call.
NAME = "\0"  # of the function
ID = "\1"  # nine letters or digits, or whatever the client sent
INDEX = "\2"  # a number, counted up
KEY = "\3"  # the name of an argument
TYPE = "\4"  # of its value, as `Members.types` spells it
PLACEHOLDERS = NAME + ID + INDEX + KEY + TYPE

# Parsers look for marks at every token, and any template may come in a file. The longest mark
# of 70 published templates has 79 characters, and two of these placeholders.
MAX_MARK_CHARS, MAX_PLACEHOLDERS = 256, 4

# Of the names in an object: as they come, by code points, or like words in a dictionary.
Order: TypeAlias = Literal["given", "sorted", "caseless"]


def in_order(names: Iterable[str], order: Order) -> list[str]:
    if order == "given":
        return list(names)
    return sorted(names, key=str.lower if order == "caseless" else None)


class Layout(msgspec.Struct, frozen=True):
    """How JSON is laid out, and literals that are much like it."""

    comma: str = ", "
    colon: str = ": "
    is_on_lines: bool = False  # each member and item on a line of its own, indented
    is_ascii: bool = False  # all other characters are \u escapes
    order: Order = "given"


class Members(msgspec.Struct, frozen=True):
    """Arguments written one by one instead of as one JSON object: `before`, the value, `after`,
    with `separator` between two.

    A text is written as it is, up to `after`, or between `quotes`. Any other value is a literal:
    JSON, but for its `words`, the quotes around texts in it, and keys without any.
    """

    before: str  # contains KEY
    after: str
    separator: str = ""
    quotes: tuple[str, str] = ("", "")  # around a value that is text
    quotes_always: bool = True  # or only where the value would be taken for something else
    has_escapes: bool = False  # a text in `quotes` is a literal, too
    words: tuple[str, str, str] = ("true", "false", "null")
    literals: Literal["json", "python", "bare"] = "json"  # bare: `quotes`, and keys without any
    json_kinds: frozenset[str] = frozenset()  # JSON types that are JSON nevertheless
    types: Mapping[str, str] = {}  # JSON type → its spelling in TYPE
    item: str = ""  # objects and lists are nested tags, items of a list called this
    order: Order = "given"  # of the arguments


class CallForm(msgspec.Struct, frozen=True):
    """The text of tool calls: `opening`, then for each call `before`, its arguments, `after`, with
    `separator` between two, then `closing`.

    `trigger` begins calls and no other text. If it is too common for that, `only_at_start`: calls
    are recognized only at the start of an answer.
    """

    trigger: str
    before: str  # contains NAME
    after: str
    opening: str = ""
    separator: str = ""
    closing: str = ""
    has_open_end: bool = False  # `closing` may be left out
    others: tuple[str, ...] = ()  # that may stand instead of `opening` and `before`
    members: Members | None = None  # None: the arguments are one JSON object
    layout: Layout = Layout()  # of this object, or of the values of members
    only_at_start: bool = False
    is_single: bool = False  # a message has no more than one call
    prefix: str = ""  # optional before the trigger at the start; ignored
    has_short_ids: bool = False  # ID is nine letters or digits, and nothing else
    ids: str = ""  # with NAME: the template writes names of functions only in ids, which look so


class ReasoningMarks(msgspec.Struct, frozen=True):
    begin: str
    end: str
    # The template shows reasoning right after `begin`: blanks there are the model's own, and the
    # next prompt must have them.
    keeps_blanks: bool = False

    def is_open_at_end_of(self, prompt: str) -> bool:
        return prompt.rstrip().endswith(self.begin.rstrip())


def texts_in(learned: object) -> Iterator[str]:
    """All texts in a description."""
    if isinstance(learned, str):
        yield learned
    elif isinstance(learned, msgspec.Struct):
        yield from texts_in(msgspec.structs.astuple(learned))
    elif isinstance(learned, Mapping):
        yield from texts_in((*learned, *learned.values()))
    elif isinstance(learned, tuple | frozenset):
        for part in learned:
            yield from texts_in(part)


def excess_of(learned: object) -> str | None:
    """What is wrong if one of the marks is longer, or holds more placeholders, than any known."""
    for text in texts_in(learned):
        if len(text) > MAX_MARK_CHARS:
            return f"a mark has {len(text)} characters, and {MAX_MARK_CHARS} are allowed"
        if sum(map(text.count, PLACEHOLDERS)) > MAX_PLACEHOLDERS:
            return f"a mark holds more than {MAX_PLACEHOLDERS} names, ids and numbers"
    return None


class Voice(msgspec.Struct, frozen=True):
    """How the model behind one template answers."""

    calls: CallForm
    takes_tools: bool  # the template itself describes them to the model
    reasoning: ReasoningMarks | None = None
    content: str = ""  # precedes content where everything has its mark
    content_end: str = ""  # ends it; only calls may follow
    writes_calls: bool = False  # the template writes `calls` itself; else they become plain text
    begun: str = ""  # the prompt ends with this; the marks that begin an answer start with it
    has_null_content: bool = False  # the template wants null beside calls, not an empty text

    @property
    def marks(self) -> str:
        """All its marks as one text."""
        form, members = self.calls, self.calls.members
        parts = [form.trigger, form.opening, form.before, form.after, form.separator, form.closing]
        parts += [*form.others, form.prefix, self.content, self.content_end]
        if members:
            parts += [members.before, members.after, members.separator, *members.quotes]
        if self.reasoning:
            parts += [self.reasoning.begin, self.reasoning.end]
        return " ".join(filter(None, parts))
