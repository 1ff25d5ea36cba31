"""llguidance's error messages → what a client should change in its grammar or schema. Pure."""

import re

from localinfra.errors import InvalidRequest

MAX_CHARS = 500
PLACE = re.compile(r"^(?:at )?(\d+)\((\d+)\): ?")
# The source excerpt with a caret below: left out, since line and column are given.
EXCERPT = re.compile(r"(?m)^(?: *\d+ \| .*| *\^+ *|<non-verbose/>)$")
REGEX = re.compile(r"(?s)regex parse error:\s*(.*?)\n\s*\^.*?\nerror: ([^\n]*)")
SCHEMA = "failed to compile JSON schema: "

# llguidance's words → a plain explanation.
EXPLAINED = {
    "NoExtensionBias": "no finite text matches it; look for a rule that only refers to itself, or "
    "for parts joined by & that exclude each other",
    "lexer error": "there is an unclosed quote, or a character that is not valid in Lark: put text "
    "in double quotes, and a regex between slashes",
    "too many items": "it is too ambiguous: too many ways to parse a text are open at once",
    "initial lexer configuration (grammar) too big": "its texts and patterns are too large: use "
    "shorter ones, or smaller counts",
    "panic: assertion failed: grammar.symbols.len()": "it has too many parts: send fewer tools, or "
    "simpler schemas",
    "no start rule found": "there is no rule named start",
    "Unsatisfiable schema": "no value is valid for this schema",
}


def compile_error(problem: str, source: str, param: str) -> InvalidRequest:
    """`source`: as compiled. If it wraps a client's grammar, positions refer to that grammar."""
    text = reason(problem, has_places=source.startswith('{"grammars"'))
    return InvalidRequest(f"This grammar or schema can't be used: {text}.", param)


def reason(problem: str, *, has_places: bool = False) -> str:
    """The reason in one line, without excerpts of generated source."""
    text, place = problem.strip(), ""
    if found := PLACE.match(text):
        text = text[found.end() :]
        place = f"line {found[1]}, column {found[2]}: " if has_places else ""
    if found := REGEX.search(text):
        plain = f"the regex {' '.join(found[1].split())[:200]} is not valid: {found[2]}"
    else:
        plain = " ".join(EXCERPT.sub("", text).removeprefix(SCHEMA).split())
    for words, explained in EXPLAINED.items():
        if plain.startswith(words):
            rest = plain.removeprefix(words).strip(": ()")
            plain = f"{explained}{f' ({rest})' if rest else ''}"
            break
    return (place + (plain or "no reason was given"))[:MAX_CHARS].rstrip(".")
