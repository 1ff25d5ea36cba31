"""Learns from a template how its model marks reasoning and content."""

import re
from collections.abc import Iterator, Mapping

from localinfra.chat.formats.derived import CALLS, DerivedCalls, PlainTurn
from localinfra.chat.formats.form import ID, INDEX, NAME, ReasoningMarks
from localinfra.chat.formats.probes import SAID, THOUGHT, Probes
from localinfra.chat.formats.tokens import overlap, shared_end, shared_start, tokens
from localinfra.chat.messages import Json

ENABLED: dict[str, Json] = {"enable_thinking": True, "thinking": True}
DISABLED: dict[str, Json] = {"enable_thinking": False, "thinking": False}
FIELDS = ("reasoning_content", "reasoning", "thinking")
CLOSING = re.compile(r"</[^<>\s{}'\"]+>|\[/[A-Z_]+\]")
NAMED = re.compile(r"</([\w:]{0,40}think[\w:]{0,40})>")
MAX_CANDIDATES = 12  # a template names few closing marks
EMPTY = re.compile(r"(<([^<>/]+)>)\s*(</\2>)\s*$")


def reasoning_of(
    probes: Probes, turn: PlainTurn, calls: DerivedCalls | None, source: str
) -> ReasoningMarks | None:
    """None if the template shows and names none."""
    for said, called in _shown(probes, calls):
        if marks := _around(said, called, turn, calls):
            return marks
    # Some templates leave out earlier reasoning: they cut it off the content.
    for end in [*dict.fromkeys(CLOSING.findall(source))][:MAX_CANDIDATES]:
        text = probes.turn({"content": f"{THOUGHT}{end}{SAID}"}) or ""
        if SAID in text and THOUGHT not in text:
            return ReasoningMarks(end.replace("/", "", 1), end)
    # Or they show it only as empty, or name its marks to the model.
    prompts = (turn.prompt, probes.turn(flags=DISABLED) or "")
    if found := next(filter(None, map(EMPTY.search, prompts)), None):
        return ReasoningMarks(found[1], found[3])
    named = NAMED.search(source)
    has_both = named and f"<{named[1]}>" in source
    return ReasoningMarks(f"<{named[1]}>", named[0]) if named and has_both else None


def _shown(probes: Probes, calls: DerivedCalls | None) -> Iterator[tuple[str, str]]:
    """Texts that show reasoning, before content and before a call; "" where it isn't shown."""
    flags: Mapping[str, Json]
    for flags in ({}, ENABLED):
        for field in FIELDS:
            said = probes.turn({"content": SAID, field: THOUGHT}, flags=flags) or ""
            called = ""
            if calls:
                more: dict[str, Json] = {field: THOUGHT}
                called = probes.calls(calls.style, CALLS[0], more=more, flags=flags) or ""
            said, called = (text if THOUGHT in text else "" for text in (said, called))
            if said or called:
                yield said, called
    blocks: Json = [{"type": "thinking", "thinking": THOUGHT}, {"type": "text", "text": SAID}]
    said = probes.turn({"content": blocks}) or ""
    if THOUGHT in said and "type" not in said:  # else it printed the list
        yield said, ""


def _around(
    said: str, called: str, turn: PlainTurn, calls: DerivedCalls | None
) -> ReasoningMarks | None:
    before = (said or called).partition(THOUGHT)[0]
    ends = []
    if said:
        ends.append(said.partition(THOUGHT)[2].partition(SAID)[0])
    if called and calls:
        start = re.split(f"[{NAME}{ID}{INDEX}]", calls.form.opening + calls.form.before)[0]
        ends.append(called.partition(THOUGHT)[2].partition(start or NAME)[0])
    end = ends[0].strip()
    if len(ends) > 1:
        end = shared_start(ends[0].strip(), ends[1].strip()).strip() or end
    begin = _begin(before, end, turn, calls)
    keeps_blanks = not before[-1:].isspace()
    return ReasoningMarks(begin, end, keeps_blanks) if begin and end else None


def _begin(before: str, end: str, turn: PlainTurn, calls: DerivedCalls | None) -> str:
    """The mark between what begins the turn and the reasoning."""
    start = before
    for other in (turn.before, turn.prompt):
        start = shared_start(start, other)
    if calls and calls.begun:
        start = start.removesuffix(calls.begun)
    if begin := before[len(start) :].strip():
        return begin
    # Answers without reasoning show the mark, too; or the prompt always writes it.
    before = before.rstrip()
    prompted = turn.prompt[len(before) :].strip() if turn.prompt.startswith(before) else ""
    if prompted and not prompted.startswith(end):
        return prompted
    # It mirrors the end: <think> and </think>, <|open|>think<|sep|> and <|close|>think<|sep|>.
    mirrored = overlap(before, "".join(tokens(end)[1:]))
    return "".join(tokens(before.removesuffix(mirrored))[-1:]) + mirrored


def content_mark(turn: PlainTurn, reasoning: ReasoningMarks | None, begun: str) -> str:
    """What precedes content that has a mark of its own."""
    if shared_end(turn.before, turn.prompt).strip():
        return ""
    mark = turn.before[len(shared_start(turn.before, turn.prompt)) :]
    for known in (reasoning.begin, reasoning.end) if reasoning else ():
        if mark.lstrip().startswith(known):
            mark = mark.lstrip().removeprefix(known)
    return begun + mark if mark.strip() else ""
