"""gpt-oss: everything is a message on a channel. (Its cookbook, "OpenAI harmony response format".)

Parses answers into content, reasoning and tool calls as they stream. Pure.
"""

import re
from collections.abc import Iterator

from localinfra.chat.formats.form import NAME, CallForm, ReasoningMarks, Voice
from localinfra.chat.formats.patterns import MAX_HEADER_CHARS, JsonScanner
from localinfra.chat.formats.pieces import (
    CallArguments,
    CallEnd,
    CallStart,
    Content,
    Piece,
    Thought,
    joined,
)

HARMONY = Voice(
    calls=CallForm(
        trigger="<|channel|>commentary to=",
        before=f"<|channel|>commentary to=functions.{NAME} <|constrain|>json<|message|>",
        after="",
        separator="<|call|><|start|>assistant",
        others=(
            f" to=functions.{NAME}<|channel|>commentary json<|message|>",
            f" to=functions.{NAME}<|channel|>commentary <|constrain|>json<|message|>",
        ),
    ),
    takes_tools=True,
    reasoning=ReasoningMarks("<|channel|>analysis<|message|>", "<|end|><|start|>assistant"),
    content="<|channel|>final<|message|>",
    writes_calls=True,
)


def recognizes(template: str) -> bool:
    """By its source: what it renders is not all that the model may write."""
    return all(mark in template for mark in ("<|channel|>", "<|message|>", "<|start|>assistant"))


class HarmonyParser:
    """The channels of gpt-oss: `<|channel|>NAME to=functions.F …<|message|>TEXT<|end|>`; analysis
    is reasoning, a message to a function is a call, everything else is content, also text that is
    in no message."""

    NAMES = ("start", "channel", "constrain", "message", "end", "call", "return")
    SPELLINGS = tuple(f"<|{name}|>" for name in NAMES)
    MARKS = re.compile(rf"<\|({'|'.join(NAMES)})\|>")
    LONGEST = max(map(len, SPELLINGS))
    CHANNELS = ("analysis", "commentary", "final")

    def __init__(self, *, in_body: bool = False):
        """`in_body`: the prompt has already opened a message to the user."""
        self._held = ""
        self._header = ""  # of the message, up to <|message|>
        self._is_header = False  # sure to be one, since a mark began it
        self._in_body = in_body
        self._is_call = False
        self._scanner = JsonScanner()
        self._is_complete = False  # the arguments of the call

    @property
    def num_held(self) -> int:
        return len(self._held) + (0 if self._is_header else len(self._header))

    def push(self, text: str) -> list[Piece]:
        self._held += text
        return joined(self._read(is_all=False))

    def finish(self, *, is_cut: bool = False) -> list[Piece]:
        at = self._held.rfind("<")
        if is_cut and at >= 0 and any(m.startswith(self._held[at:]) for m in self.SPELLINGS):
            self._held = self._held[:at]
        pieces = [*self._read(is_all=True)]
        if self._header.strip() and not (self._is_header or self._in_body or is_cut):
            pieces.append(Content(self._header))
        if self._is_complete:  # else the call was cut off
            pieces += self._end_body()
        return joined(pieces)

    def _read(self, is_all: bool) -> Iterator[Piece]:
        while mark := self.MARKS.search(self._held):
            yield from self._part(self._held[: mark.start()])
            self._held = self._held[mark.end() :]
            if mark[1] == "message":
                self._in_body = self._is_header = True
                name = re.search(r"to=functions\.([^\s<]+)", self._header)
                self._is_call = name is not None
                self._scanner, self._is_complete = JsonScanner(), False
                if name:
                    yield CallStart(name[1])
            elif mark[1] == "constrain" or (mark[1] == "channel" and not self._in_body):
                self._header, self._is_header = f"{self._header} {mark[1]}:", True
            else:
                yield from self._end_body()
                self._header = " channel:" if mark[1] == "channel" else ""
                self._is_header = mark[1] in ("channel", "start")
        keep = 0
        if not is_all and (at := self._held.rfind("<", -self.LONGEST)) >= 0:
            keep = len(self._held) - at  # may become a mark
        yield from self._part(self._held[: len(self._held) - keep])
        self._held = self._held[len(self._held) - keep :]

    def _part(self, text: str) -> Iterator[Piece]:
        if not text:
            return
        if not self._in_body:
            self._header += text
            if not (self._is_header or self._may_be_header()):
                yield Content(self._header)
                self._header, self._in_body = "", True
        elif self._is_call:
            self._is_complete |= self._scanner.scan(text) is not None
            yield CallArguments(text)
        elif "channel:analysis" in self._header:
            yield Thought(text)
        else:
            yield Content(text)

    def _may_be_header(self) -> bool:
        begun = self._header.strip()
        names = ("to=", *self.CHANNELS)
        is_known = begun.startswith("to=") or any(name.startswith(begun) for name in names)
        return is_known and len(self._header) <= MAX_HEADER_CHARS

    def _end_body(self) -> Iterator[Piece]:
        if self._in_body and self._is_call:
            yield CallEnd()
        self._in_body = self._is_call = False
