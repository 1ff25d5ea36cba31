"""Learns how a template writes the arguments of a call that are not one JSON object."""

import ast
import json
import re
from typing import Literal

import msgspec

from localinfra.chat.formats.form import KEY, TYPE, Layout, Members
from localinfra.chat.formats.layout import SAMPLE, layout_of, order_in
from localinfra.chat.formats.probes import KEYS, VALUES, NotDerived, Probes, Style
from localinfra.chat.formats.tokens import repeated
from localinfra.chat.messages import Json

VALUE = "\5"  # stands for a value
NUMBER = 70417
SPECIAL = 'x<b>&\n"y"'  # JSON has to escape it, and so would XML
INNER: dict[str, Json] = {KEYS[1]: VALUES[1]}
MIXED: list[Json] = ["kwj", None, True]
WORDS = ("true", "false", "null")
SAMPLES: dict[str, Json] = {
    "string": "x",
    "number": 1.5,
    "integer": NUMBER,
    "boolean": True,
    "null": None,
    "object": INNER,
    "array": MIXED,
}


class FoundMembers(msgspec.Struct, frozen=True):
    members: Members
    layout: Layout  # of their values
    head: str  # a message with one call, up to its arguments
    tail: str  # and after them

    def written(self, key: str, text: str) -> str:
        """An argument that is text."""
        members = self.members
        opening, closing = members.quotes if members.quotes_always else ("", "")
        mark = members.before.replace(TYPE, members.types.get("string", ""))
        return f"{mark}{opening}{text}{closing}{members.after}".replace(KEY, key)


class Sample(msgspec.Struct, frozen=True):
    """A message with one call of one argument."""

    probes: Probes
    style: Style
    head: str
    tail: str

    def argument(self, value: Json) -> str:
        """With its marks; "" if the template leaves it out."""
        text = self.probes.calls(self.style, {KEYS[0]: value}) or ""
        if not text.startswith(self.head) or not text.endswith(self.tail):
            return ""
        return text[len(self.head) : len(text) - len(self.tail)].replace(KEYS[0], KEY)

    def literal(self, value: Json, members: Members) -> str | None:
        """The value alone."""
        before, after = map(re.escape, (members.before, members.after))
        before = before.replace(re.escape(TYPE), r"\w*+")
        found = re.fullmatch(f"{before}(.*){after}", self.argument(value), re.DOTALL)
        return found[1] if found else None


def members_of(probes: Probes, style: Style) -> FoundMembers | None:
    """None if no argument stands by itself. Raises NotDerived if values are written in an unknown
    way."""
    growing = [dict(zip(KEYS[:count], VALUES, strict=False)) for count in range(3)]
    if str(growing[1]) in (probes.calls(style, growing[1]) or ""):
        return None  # it expects text, and printed Python's form of the object
    none, one, two = (_marked(probes.calls(style, given) or "") for given in growing)
    found = repeated(none, one, two)
    if found is None:
        return None
    head, item, separator, tail = found
    before, _, after = item.partition(VALUE)
    sample = Sample(probes, style, head, tail)
    number_before, is_there, number_after = sample.argument(NUMBER).partition(str(NUMBER))
    if KEY not in before or not is_there:
        return None
    members = Members(number_before, number_after, separator)
    if before.startswith(number_before) and after.endswith(number_after):
        quotes = before[len(number_before) :], after[: len(after) - len(number_after)]
        members = msgspec.structs.replace(members, quotes=quotes)
    else:
        members = _typed(members, before, sample)
    ordered = order_in(probes.calls(style, SAMPLE) or "")
    members = msgspec.structs.replace(_with_values(members, sample), order=ordered)
    return _nested(members, sample)


def _marked(text: str) -> str:
    for words, mark in ((KEYS, KEY), (VALUES, VALUE)):
        for word in words:
            text = text.replace(word, mark)
    return text


def _typed(members: Members, before: str, sample: Sample) -> Members:
    """With TYPE for the word that differs between text and numbers."""
    ones, others = (re.findall(r"\w+|\W", mark) for mark in (before, members.before))
    differ = [at for at, one in enumerate(ones) if one not in others[at : at + 1]]
    if len(ones) != len(others) or len(differ) != 1:
        raise NotDerived("it writes numbers and texts in arguments in unknown ways")
    [at] = differ
    mark = "".join([*ones[:at], TYPE, *ones[at + 1 :]])
    pattern = re.escape(mark).replace(re.escape(TYPE), r"(\w*)")
    types = {
        kind: found[1]
        for kind, value in SAMPLES.items()
        if (found := re.match(pattern, sample.argument(value)))
    }
    return msgspec.structs.replace(members, before=mark, types=types)


def _with_values(members: Members, sample: Sample) -> Members:
    true, false, null = (sample.literal(value, members) for value in (True, False, None))
    members = msgspec.structs.replace(
        members, words=(true or "true", false or "false", null or "null")
    )
    special = sample.literal(SPECIAL, members)
    if members.quotes == ("", "") and special and special != SPECIAL and SPECIAL in special:
        opening, _, closing = special.partition(SPECIAL)
        members = msgspec.structs.replace(members, quotes=(opening, closing), quotes_always=False)
    elif SPECIAL not in sample.argument(SPECIAL):
        members = msgspec.structs.replace(members, has_escapes=True)
    styles = {
        kind: _style(sample.literal(value, members) or "", value)
        for kind, value in (("object", INNER), ("array", MIXED))
    }
    literals: Literal["json", "python", "bare"] = "json"
    if "python" in styles.values():
        literals = "python"
        kinds = frozenset(kind for kind, style in styles.items() if style == "json")
        members = msgspec.structs.replace(members, json_kinds=kinds)
    if "bare" in styles.values():
        literals = "bare"
        inner = _null_inside(sample.literal(MIXED, members) or "", members)
        true, false, _ = members.words
        members = msgspec.structs.replace(members, words=(true, false, inner))
    return msgspec.structs.replace(members, literals=literals)


def _style(text: str, value: Json) -> str:
    for style, read in (("json", json.loads), ("python", ast.literal_eval)):
        try:
            if read(text) == value:
                return style
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            continue
    return "bare" if re.match(rf"\{{{KEYS[1]}:", text) else ""


def _null_inside(text: str, members: Members) -> str:
    """How null is spelled in MIXED."""
    opening, closing = map(re.escape, members.quotes)
    found = re.search(rf"{opening}kwj{closing}\s*,\s*([^,\s]+)", text)
    return found[1] if found else members.words[2]


def _nested(members: Members, sample: Sample) -> FoundMembers:
    """With the marks of nested tags, if objects are written so: their members like arguments, a
    list's items under one name."""
    inner = sample.literal(INNER, members) or ""
    listed = sample.literal([VALUES[1]], members) or ""
    before, is_text, after = inner.partition(VALUES[1])
    before, after = before.replace(KEYS[1], KEY), after.replace(KEYS[1], KEY)
    laid_out = sample.literal(SAMPLE, members)
    layout = layout_of(laid_out) if laid_out else Layout()
    if before.count(KEY) != 1:
        return FoundMembers(members, layout, sample.head, sample.tail)
    found = re.match(re.escape(before).replace(KEY, r"(\w+)"), listed)
    if not is_text or not found or not before.endswith(members.before):
        return FoundMembers(members, layout, sample.head, sample.tail)
    # The common text of two arguments, such as "<" of <a> and </a>, is counted with the second.
    moved = before.removesuffix(members.before)
    begin, end = (mark.replace(KEY, found[1]) for mark in (before, after))
    nulls = sample.literal([None], members)
    null = nulls.removeprefix(begin).removesuffix(end) if nulls else members.words[2]
    members = msgspec.structs.replace(
        members,
        before=before,
        after=after,
        item=found[1],
        words=(*members.words[:2], null),  # as an item: arguments that are null may be left out
    )
    head = sample.head.removesuffix(moved)
    return FoundMembers(members, layout, head, moved + sample.tail)
