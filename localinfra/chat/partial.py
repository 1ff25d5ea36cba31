"""Truncated JSON → valid JSON of its complete parts. Pure."""

import re

SCALAR = re.compile(r'"(?:[^"\\]|\\.)*"|[^\s\[\]{},:"]+', re.DOTALL)
CLOSING = {"{": "}", "[": "]"}


def completed_object(text: str) -> str:
    """The beginning of a JSON object → an object of its complete members. A truncated value is
    dropped with its name; the containers around it stay. `{}` if nothing is complete."""
    if not text.startswith("{"):
        return "{}"
    at, open_ones = 0, ""
    ends, closing = 0, "{}"  # the last place where it can be closed, and how
    is_name = False
    while at < len(text):
        character = text[at]
        if character in CLOSING:
            open_ones += CLOSING[character]
            at += 1
            is_name = character == "{"
        elif character in "]}":
            if not open_ones.endswith(character):
                break
            open_ones = open_ones[:-1]
            at += 1
        elif character in ",:" or character.isspace():
            if character in ",:":
                is_name = character == "," and open_ones.endswith("}")
            at += 1
            continue
        else:
            found = SCALAR.match(text, at)
            if not found or (found.end() == len(text) and character != '"'):
                break  # a number may be incomplete
            at = found.end()
            if is_name:
                continue
        ends, closing = at, open_ones[::-1]
        if not open_ones:
            break
    return text[:ends] + closing
