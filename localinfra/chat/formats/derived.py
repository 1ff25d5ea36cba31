"""Learns from a template how its model writes tool calls, by differences between the texts that it
renders for similar conversations. Knows no family.
"""

import re

import msgspec

from localinfra.chat.formats.form import ID, INDEX, NAME, CallForm, Layout, Members
from localinfra.chat.formats.layout import SAMPLE, layout_of
from localinfra.chat.formats.members import members_of
from localinfra.chat.formats.probes import (
    KEYS,
    LONG_IDS,
    NEXT,
    SAID,
    VALUES,
    NotDerived,
    Probes,
    Style,
    spans_of_json,
)
from localinfra.chat.formats.tokens import counted, overlap, shared_end, shared_start, tokens
from localinfra.chat.messages import Json

CALLS: tuple[dict[str, Json], dict[str, Json]] = ({KEYS[0]: VALUES[0]}, {KEYS[0]: VALUES[1]})
PYTHON_TAG = "<|python_tag|>"  # some models begin bare JSON with it
NAMED_IDS = f"functions.{NAME}:{INDEX}"  # the only known ids that hold names: Kimi K2's


class PlainTurn(msgspec.Struct, frozen=True):
    """What the template writes for an answer without calls."""

    prompt: str  # begins an answer
    before: str  # the content
    after: str  # up to the end of the conversation
    followed: str  # instead, if the user says more


class Shown(msgspec.Struct, frozen=True):
    """The text around the arguments of calls."""

    before: str
    between: str  # "" if a message shows no more than one call
    after: str
    rest: int  # characters from the arguments on, of a message with one call
    one_after: str  # the arguments of such a message
    layout: Layout
    members: Members | None = None


class DerivedCalls(msgspec.Struct, frozen=True):
    form: CallForm
    style: Style
    content_end: str  # ends content, before calls too
    begun: str  # the beginning of the form that the prompt already contains


def turn_of(probes: Probes) -> PlainTurn | None:
    """None if the template doesn't show what an assistant said."""
    prompt = probes.turn() or ""
    last = probes.turn({"content": SAID})
    if last is None or SAID not in last:
        return None
    before, _, after = last.partition(SAID)
    earlier = probes.turn({"content": SAID}, NEXT) or ""
    followed = earlier.partition(SAID)[2].partition(NEXT)[0]
    return PlainTurn(prompt, before, after, followed)


def calls_of(probes: Probes, turn: PlainTurn, source: str) -> DerivedCalls | None:
    """None if the template shows no calls. Raises NotDerived if their form isn't understood."""
    styles = probes.styles()
    if not styles:
        return None
    style, shown = _shown(probes, styles)
    beside = probes.calls(style, CALLS[0], content=SAID) or ""
    said, is_said, lead = beside.partition(SAID)
    lead = lead[: -shown.rest] if is_said and NAME not in said else ""
    content_end = _content_end(turn, lead, shown.after)
    after = _without_end(turn, shown.after, content_end)
    before = _without_turn(turn, shown.before, lead)
    form, begun = _divided(shown, before, after, lead)
    form = msgspec.structs.replace(form, opening=form.opening.removeprefix(content_end))
    if NAME not in form.before and ID in form.before:
        named = form.before.replace(ID, NAMED_IDS)
        form = msgspec.structs.replace(form, before=named, ids=NAMED_IDS)
    _check(form)
    trigger, only_at_start = _trigger(form.opening + form.before, turn)
    has_tag = only_at_start and PYTHON_TAG in source
    form = msgspec.structs.replace(
        form,
        trigger=trigger,
        only_at_start=only_at_start,
        prefix=PYTHON_TAG if has_tag else "",
        has_open_end=bool(form.closing) and form.closing not in shown.one_after,
        members=shown.members,
        layout=shown.layout,
        has_short_ids=ID in form.before + form.after
        and probes.calls(style, CALLS[0], ids=LONG_IDS) is None,
    )
    return DerivedCalls(form, style, content_end, begun)


def _shown(probes: Probes, styles: list[Style]) -> tuple[Style, Shown]:
    """The text around the calls of two functions, in the first style in which it is understood."""
    for style in styles:
        around = (_around_json,) if style.is_text else (_around_json, _around_members)
        for understood in around:
            if shown := understood(probes, style):
                return style, shown
    raise NotDerived("it writes the arguments of calls in an unknown way")


def _around_json(probes: Probes, style: Style) -> Shown | None:
    one = probes.calls(style, CALLS[0]) or ""
    spans = spans_of_json(one, CALLS[:1])
    if not spans:
        return None
    [(start, end)] = spans
    rest, one_after, layout = len(one) - start, one[end:], _layout(probes, style)
    both = probes.calls(style, *CALLS) or ""
    spans = spans_of_json(both, CALLS)
    if not spans:
        return Shown(one[:start], "", one_after, rest, one_after, layout)
    (start, end), (again, last) = spans
    return Shown(both[:start], both[end:again], both[last:], rest, one_after, layout)


def _layout(probes: Probes, style: Style) -> Layout:
    """Of arguments that are one JSON object."""
    text = "" if style.is_text else probes.calls(style, SAMPLE) or ""
    spans = spans_of_json(text, [SAMPLE])
    return layout_of(text[slice(*spans[0])]) if spans else Layout()


def _around_members(probes: Probes, style: Style) -> Shown | None:
    found = members_of(probes, style)
    if found is None:
        return None
    first, second = (found.written(KEYS[0], text) for text in VALUES)
    rest, one_after = len(first) + len(found.tail), found.tail
    both = probes.calls(style, *CALLS) or ""
    start, again = both.find(first), both.find(second)
    if start < 0 or again < 0:
        before, between, after = found.head, "", found.tail
    else:
        end, last = start + len(first), again + len(second)
        before, between, after = both[:start], both[end:again], both[last:]
    return Shown(before, between, after, rest, one_after, found.layout, found.members)


def _content_end(turn: PlainTurn, lead: str, after: str) -> str:
    """The mark after content that is not the end of the turn: the same before calls, or else what
    calls are not followed by."""
    if lead:
        end = shared_start(turn.after, lead)
    else:
        end = turn.after[: len(turn.after) - len(shared_end(turn.after, after))]
    return end if end.strip() and turn.after[len(end) :].strip() else ""


def _without_turn(turn: PlainTurn, before: str, lead: str) -> str:
    """`before` without what begins the turn."""
    wholes = [text for text in (turn.prompt, turn.before) if before.startswith(text)]
    partial = [shared_start(before, text) for text in (turn.prompt, turn.before)]
    starts = [len(text) for text in wholes or partial]
    if lead:
        starts.append(len(before) - len(shared_end(before, lead)))
    return before[max(starts) :]


def _without_end(turn: PlainTurn, after: str, content_end: str) -> str:
    """`after` without what ends the turn."""
    last, followed = (text.removeprefix(content_end) for text in (turn.after, turn.followed))
    end = max(shared_end(after, last), overlap(after, followed), key=len)
    if end.strip():
        return after[: len(after) - len(end)]
    *parts, mark = tokens(after.rstrip()) or [""]
    is_other_end = bool(last.strip()) and re.fullmatch("<.+>", mark)  # of turns with calls
    return "".join(parts) if is_other_end else after


def _divided(shown: Shown, before: str, after: str, lead: str) -> tuple[CallForm, str]:
    """The form without its trigger, and the beginning of it that the prompt already contains."""
    if not shown.between:
        return CallForm("", before.lstrip(), after.rstrip(), is_single=True), ""
    whole, between = counted(shown.before, shown.between)
    before = whole[len(whole) - len(before) :]
    each_after = shared_start(between, after)
    each_before = shared_end(whole, between[len(each_after) :])
    begun = each_before.removesuffix(before) if each_before.endswith(before) else ""
    if not begun.strip() or (before[:1] in "<[{" and not lead.endswith(each_before)):
        begun = ""
        each_before = shared_end(before, each_before)
    separator = between[len(each_after) : len(between) - len(each_before)]
    opening = before.removesuffix(each_before) if not begun else ""
    closing = after[len(each_after) :]
    # Blanks stand in marks around calls, not in those of each call.
    inner = each_before.lstrip()
    opening += each_before[: len(each_before) - len(inner)] if opening else ""
    separator += each_before[: len(each_before) - len(inner)]
    space = each_after[len(each_after.rstrip()) :]
    form = CallForm(
        trigger="",
        opening=opening.lstrip(),
        before=inner,
        after=each_after.rstrip(),
        separator=space + separator,
        closing=(space + closing).rstrip(),
    )
    return form, begun


def _check(form: CallForm) -> None:
    """Raises NotDerived if names or texts stand elsewhere than before and in the arguments."""
    if NAME not in form.before or NAME in form.opening + form.separator + form.closing:
        raise NotDerived("it doesn't write the name of each call before its arguments")
    marks = (form.opening, form.before, form.after, form.separator, form.closing)
    if any(word in mark for word in (*KEYS, *VALUES) for mark in marks):
        raise NotDerived("it writes the arguments of calls twice")


def _trigger(text: str, turn: PlainTurn) -> tuple[str, bool]:
    """What begins calls and no content, and whether it may occur in content, too."""
    if text.startswith("{"):
        return "{", True
    text = re.split(f"[{NAME}{ID}{INDEX}{{]", text)[0].rstrip()
    if not text:
        raise NotDerived("it marks no beginning of calls")
    usual = {*tokens(turn.before), *tokens(turn.after)}
    trigger, has_sign = "", False
    for token in tokens(text):
        trigger += token
        has_sign |= bool(re.search(r"[^\w\s]", token))
        if has_sign and len(token) > 2 and token not in usual:
            return trigger, False
    return text, bool(re.fullmatch(r"\W|[\w\s=:]*", text))
