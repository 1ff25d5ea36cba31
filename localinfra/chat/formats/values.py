"""The value of an argument, written as text → JSON. Pure."""

import json
import re

import msgspec

from localinfra.chat.formats.form import Members

WORDS = {
    **{"true": "true", "false": "false", "null": "null"},
    **{"True": "true", "False": "false", "None": "null"},
}
KINDS = {"{": "object", "[": "array", '"': "string", "t": "boolean", "f": "boolean", "n": "null"}
EMPTY = {"object": "{}", "array": "[]", "null": "null"}

NUMBER_BEGUN = re.compile(r"-?\d*(\.\d*)?([eE][+-]?\d*)?")
MAX_SCALAR_CHARS = 400  # anything longer is no number: a double has 309 digits before its point
ESCAPE = re.compile(r"\\(u[\da-fA-F]{4}|U[\da-fA-F]{8}|x[\da-fA-F]{2}|.)", re.DOTALL)
ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "a": "\a", "v": "\v", "\n": ""}
WORD = r"""[^\s{}\[\],:"']++"""  # of a literal: a number, a name, a part of a bare key

TOKEN = re.compile(  # a part of a literal
    r"""(?P<string>"(?:[^"\\]|\\.)*+"|'(?:[^'\\]|\\.)*+')"""
    r"""|(?P<mark>[{}\[\],:]\s*|\s+)"""
    rf"|(?P<key>{WORD}(?:[ ]++{WORD}){{0,8}}+(?=\s*:))|(?P<word>{WORD})",
    re.DOTALL,
)


def quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def inside_quotes(text: str) -> str:
    """A part of a text, as it stands inside the quotes of a JSON string."""
    return quoted(text)[1:-1]


def is_text(begun: str, kinds: frozenset[str]) -> bool | None:
    """Whether a value with this beginning is a text, whatever follows. False: it may be something
    else until its end; None: more of it will tell. `kinds`: the JSON types it may have."""
    if kinds == {"string"} or "string" not in kinds:
        return "string" in kinds
    word = begun.strip()
    if word[:1] in ("{", "["):
        return KINDS[word[0]] not in kinds
    is_scalar = NUMBER_BEGUN.fullmatch(word) or any(known.startswith(word) for known in WORDS)
    return None if not word or (is_scalar and len(begun) <= MAX_SCALAR_CHARS) else True


def value_json(text: str, kinds: frozenset[str], members: Members) -> str:
    """What a value means: a literal if its types allow that, or else a text."""
    are_quoted = members.has_escapes or not members.after  # texts, in this form
    if not are_quoted and is_text(text, kinds):
        return quoted(text)
    literal = literal_json(text.strip(), members)
    if literal is not None:
        kind = KINDS.get(literal[0], "number")
        is_expected = kind in kinds or (kind == "number" and "integer" in kinds)
        if "string" not in kinds or (are_quoted if kind == "string" else is_expected):
            return literal
    if not text.strip() and "string" not in kinds:
        return next((empty for kind, empty in EMPTY.items() if kind in kinds), '""')
    return quoted(text.strip() if are_quoted else text)


def literal_json(text: str, members: Members) -> str | None:
    """A literal as JSON; None if it is none in the form's syntax, in JSON's or in Python's."""
    if is_json(text):
        return text
    marks = members.quotes if members.literals == "bare" else ("", "")
    words = {**WORDS, **dict(zip(members.words, ("true", "false", "null"), strict=True))}
    parts, at = list[str](), 0
    while at < len(text):
        if marks[0] and text.startswith(marks[0], at):
            start = at + len(marks[0])
            end = text.find(marks[1], start)
            if end < 0:
                return None
            parts.append(quoted(text[start:end]))
            at = end + len(marks[1])
            continue
        found = TOKEN.match(text, at)
        if not found:
            return None
        at = found.end()
        kind, part = found.lastgroup, found[0]
        if kind == "string":
            part = quoted(unescaped(part[1:-1]))
        elif kind == "key":
            part = quoted(part)
        elif kind == "word":
            part = words.get(part, part)
        parts.append(part)
    result = "".join(parts)
    return result if is_json(result) else None


def unescaped(text: str) -> str:
    """Without the backslashes of JSON or Python."""
    if "\\" not in text:
        return text

    def character(found: re.Match[str]) -> str:
        code = found[1]
        if len(code) > 1:
            return chr(min(int(code[1:], 16), 0x10FFFF))
        return ESCAPED.get(code, code if code in "\\/'\"" else found[0])

    plain = ESCAPE.sub(character, text)
    return plain.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        return False
    return True
